"""What cannot be loaded is refused at once, with what was wrong and what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lrd_peft.model.fingerprints import fingerprint_weights
from lrd_peft.model.inspection import block_count
from lrd_peft.model.loading.lm import load_lm, load_model_config
from lrd_peft.runtime.errors import UserError
from tests.model.small_models import llama, save


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return save(tmp_path / "model", llama())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", 'Did you mean "smollm2"'),
        ("tiny_teacher", 'Did you mean "tiny-teacher"'),
        (
            "no-such-model",
            "one of tiny-teacher, tiny-student, tiny-latent-teacher, tiny-latent-student, tiny-graph-teacher, "
            "tiny-graph-student, smollm2",
        ),
        ("./no/such/folder", "there is no folder"),
        ("/no/such/folder", "there is no folder"),
        (
            "somebody/some-model",
            r"not on this machine and HF_HUB_OFFLINE is set; name a local folder, or .* smollm2",
        ),
        ("gpt2", "not on this machine and HF_HUB_OFFLINE is set"),
        ("some--body/model", "valid hub id|HF_HUB_OFFLINE"),
        ("", "is not a known model"),
    ],
)
def test_an_unknown_name_is_an_error_at_once(name: str, message: str) -> None:
    start = time.monotonic()
    for load in (load_lm, load_model_config):
        with pytest.raises(UserError, match=message):
            load(name)
    assert time.monotonic() - start < 5


def test_a_hub_that_does_not_answer_is_an_error_in_seconds() -> None:
    code = (
        "from lrd_peft.runtime.errors import UserError\n"
        "from lrd_peft.model.loading.sources import find_source\n"
        "try: find_source('somebody/some-model')\n"
        "except UserError as error: print(error)\n"
    )
    # Nothing listens on port 9 of this machine.
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "is not on this machine and the hub does not answer" in done.stdout, done


def test_a_hub_model_in_the_local_cache_loads_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--some-model"
    save(repository / "snapshots" / commit, llama())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load_lm("somebody/some-model")
    assert loaded.source == "somebody/some-model (hub cache, revision main)"
    assert fingerprint_weights(loaded.lm) == fingerprint_weights(llama())


def test_an_adapter_alone_is_refused_and_its_base_named(folder: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    lm = load_lm(folder).lm
    get_peft_model(lm, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=f'holds a PEFT adapter \\(of "{folder}"\\), not a whole model'):
        load_lm(str(tmp_path / "adapter"))


def test_pickled_weights_are_refused(folder: str) -> None:
    weights = Path(folder) / "model.safetensors"
    torch.save(load_file(weights), Path(folder) / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle, .* convert it to safetensors"):
        load_lm(folder)
    assert block_count(load_model_config(folder)) == 4, "the configuration alone is no danger"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json"], "has no config.json"),
        (["model.safetensors"], "has no weights: no model.safetensors"),
        (["tokenizer.json"], "has no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(folder: str, files: list[str], message: str) -> None:
    for file in files:
        (Path(folder) / file).unlink()
    with pytest.raises(UserError, match=message):
        load_lm(folder)


def test_weights_that_lack_a_tensor_are_refused_rather_than_made_up(folder: str) -> None:
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors of LlamaForCausalLM, first model\.layers\.1\.mlp\.up_proj"):
        load_lm(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_a_clear_error(folder: str, file: str) -> None:
    path = Path(folder) / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot load"):
        load_lm(folder)


def test_a_file_is_no_model(folder: str) -> None:
    with pytest.raises(UserError, match="is a file; name the folder"):
        load_lm(f"{folder}/config.json")


def test_code_beside_the_model_does_not_run_unasked(folder: str) -> None:
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = "ours"
    config["auto_map"] = {"AutoConfig": "ours.OurConfig", "AutoModelForCausalLM": "ours.OurModel"}
    path.write_text(json.dumps(config))
    (Path(folder) / "ours.py").write_text("raise SystemExit('it ran')\n")
    for load in (load_lm, load_model_config):
        with pytest.raises(UserError, match=r"Python code of its own .* set trust_remote_code"):
            load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float23"}, 'dtype is "float23"; .*Did you mean "float'),
        ({"quantization": "2bit"}, "must be one of 4bit, 8bit"),
        ({"device": "abacus"}, 'cannot use device "abacus"'),
    ],
)
def test_wrong_options_are_errors(folder: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_lm(folder, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_its_package_names_the_command(folder: str) -> None:
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        load_lm(folder, quantization="4bit")
