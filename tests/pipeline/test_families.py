"""All phases of a run on families of models: windows, experts, hybrids, ALiBi, heads and caches of other kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrd_peft.cli.app import main
from lrd_peft.evaluation.records import read_record
from lrd_peft.model.twin import random_model, twin_config
from tests.model.small_models import make_tokenizer
from tests.pipeline.small_run import FLAGS
from tools.architectures import kind_and_config

pytestmark = pytest.mark.slow

FAMILIES = (
    *("gpt2", "gpt_neox", "gptj", "opt", "llama", "qwen2", "qwen3", "gemma", "phi", "olmo2", "cohere", "granite"),
    *("mistral", "gemma2", "gemma3_text", "gpt_oss"),  # sliding windows
    *("mixtral", "qwen2_moe", "deepseek_v3"),  # experts
    *("bloom", "mpt"),  # ALiBi
    *("qwen3_next", "lfm2", "falcon_h1", "bamba"),  # attention and recurrent layers
    *("modernbert-decoder", "openai-gpt"),  # slower ways
)
# Targets that PEFT takes on every family.
_TARGETS = {"falcon_h1": "q_proj", "bamba": "q_proj"}


def save_family(model_type: str, folder: Path) -> str:
    kind, config = kind_and_config(model_type)
    config = twin_config(config)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if hasattr(config, name):
            setattr(config, name, 256)
    random_model(kind, config).save_pretrained(folder)
    make_tokenizer(pad_token="<pad>", eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_phase_runs(model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = save_family(model_type, tmp_path / "model")
    out = tmp_path / "run"
    flags = (
        *("--teacher", name, "--student", name, "--distill_layers", "1", "2", "--max_stage", "1"),
        *("--num_train_problems", "4", "--num_validation_problems", "1", "--num_eval_problems", "2"),
        *("--max_new_tokens", "4", "--save_steps", "100", "--logging_steps", "1"),
        *("--lora_targets", _TARGETS.get(model_type, "all-linear")),
        *("--output_dir", str(out)),
    )
    assert not main(["run", *FLAGS, *flags]), capsys.readouterr().err
    record = read_record(out / "record.json")
    assert set(record.metrics["gsm-mini"]) == {"base", "teacher-cot", "teacher-latent", "latent-lora"}
    assert any(row["distill"] > 0 for row in record.curves if row["phase"] == "student" and "distill" in row)
