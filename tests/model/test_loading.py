"""Models by name: every kind of name loads what it says, pads, prunes and converts as it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrd_peft.data.problem_sets import load_problems
from lrd_peft.evaluation.score import score
from lrd_peft.model.inspection import block_count, count_parameters
from lrd_peft.model.loading.embedded import TINY_MODELS, embedded_path, model_card_path
from lrd_peft.model.loading.lm import _say_published, load_lm, load_model_config
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.runtime.errors import UserError
from tests.model.small_models import WORDS, gpt2, llama, save


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return save(tmp_path / "model", llama())


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_local_folder_gives_the_model_that_was_saved(make: type, tmp_path: Path) -> None:
    lm = make()
    loaded = load_lm(save(tmp_path / "model", lm))
    assert loaded.source == str(tmp_path / "model")
    assert (loaded.kept_blocks, loaded.notes) == (None, ())
    assert not loaded.lm.training
    tokens = torch.tensor([loaded.tokenizer("what is two plus three ?").input_ids])
    assert tokens.tolist() == [[3, 4, 5, 6, 7, 9]]
    torch.testing.assert_close(loaded.lm(tokens).logits, lm(tokens).logits, rtol=0, atol=0)


def test_weights_stored_in_half_precision_load_as_float32_with_their_values(tmp_path: Path) -> None:
    half = llama().half()
    loaded = load_lm(save(tmp_path / "model", half))
    assert {parameter.dtype for parameter in loaded.lm.parameters()} == {torch.float32}
    expected = half.get_parameter("model.layers.2.mlp.up_proj.weight").float()
    assert torch.equal(loaded.lm.get_parameter("model.layers.2.mlp.up_proj.weight"), expected)


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16)])
def test_dtype_is_what_was_asked_for(folder: str, name: str, dtype: torch.dtype) -> None:
    assert load_lm(folder, dtype=name).lm.dtype == dtype


def test_attention_implementation_is_passed_on(folder: str) -> None:
    assert load_lm(folder, attn_implementation="eager").lm.config._attn_implementation == "eager"


def test_loading_leaves_the_progress_bars_as_they_were(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    load_lm(folder)
    assert logging.is_progress_bar_enabled() == before
    assert "Loading weights" not in capfd.readouterr().err


# --- the pad token


@pytest.mark.parametrize(
    ("specials", "pad"),
    [({"eos_token": "<eos>", "unk_token": "<unk>"}, "<eos>"), ({"unk_token": "<unk>"}, "<unk>")],
)
def test_a_missing_pad_token_is_replaced_and_told(tmp_path: Path, specials: dict[str, str], pad: str) -> None:
    loaded = load_lm(save(tmp_path / "model", llama(), **specials))
    assert loaded.tokenizer.pad_token == pad
    assert loaded.lm.config.pad_token_id == WORDS.index(pad)
    assert f'has no pad token; "{pad}" pads instead' in loaded.notes[0]


def test_no_token_to_pad_with_is_an_error(tmp_path: Path) -> None:
    name = save(tmp_path / "model", llama(), bos_token="what")
    with pytest.raises(UserError, match="has no pad token, and no end-of-text or unknown token"):
        load_lm(name)


def test_a_tokenizer_of_another_model_is_an_error(tmp_path: Path) -> None:
    name = save(tmp_path / "model", llama(vocabulary=4), pad_token="?", eos_token="<eos>")
    with pytest.raises(UserError, match=r"pad token .* has id 9 and the model has 4 embeddings"):
        load_lm(name)


# --- teacher:N


def test_teacher_n_is_the_pruned_teacher_and_says_which_blocks(folder: str) -> None:
    loaded = load_lm("teacher:2", teacher=folder)
    assert loaded.kept_blocks == (0, 3)
    assert loaded.source == f"2 of 4 blocks (0, 3) of {folder}"
    whole = llama()
    assert torch.equal(
        loaded.lm.get_parameter("model.layers.1.mlp.up_proj.weight"),
        whole.get_parameter("model.layers.3.mlp.up_proj.weight"),
    )
    config = load_model_config("teacher:2", teacher=folder)
    assert block_count(config) == 2
    assert count_parameters(config) == loaded.lm.num_parameters()


def test_teacher_n_takes_a_way_or_the_blocks_themselves(folder: str) -> None:
    assert load_lm("teacher:2", teacher=folder, keep_blocks="first").kept_blocks == (0, 1)
    assert load_lm("teacher:2", teacher=folder, keep_blocks=[1, 2]).kept_blocks == (1, 2)
    assert load_lm(folder, keep_blocks=[1]).kept_blocks == (1,)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("teacher:2", {}, "no teacher was named"),
        ("teacher:", {"teacher": "x"}, "comes the number of blocks"),
        ("teacher:0", {"teacher": "x"}, "comes the number of blocks"),
        ("teacher:1.5", {"teacher": "x"}, "comes the number of blocks"),
        ("teacher:2", {"teacher": "teacher:3"}, "needs a teacher itself"),
        ("teacher:5", {"teacher": "FOLDER"}, "cannot keep 5 of 4 blocks; keep between 1 and 4"),
        (
            "teacher:2",
            {"teacher": "FOLDER", "keep_blocks": [1]},
            "teacher:2 keeps 2 blocks, but keep_blocks names 1",
        ),
        ("teacher:2", {"teacher": "FOLDER", "keep_blocks": [1, 4]}, "0 to 3, each once, in ascending order"),
        ("FOLDER", {"keep_blocks": "spread"}, "gives no number of blocks"),
    ],
)
def test_a_wrong_request_for_blocks_is_an_error(
    folder: str, name: str, options: dict[str, object], message: str
) -> None:
    options = {key: folder if value == "FOLDER" else value for key, value in options.items()}
    for load in (load_lm, load_model_config):
        with pytest.raises(UserError, match=message):
            load(folder if name == "FOLDER" else name, **options)  # pyright: ignore[reportArgumentType]


# --- configurations without weights


def test_published_sizes_stand_in_for_a_hub_that_is_not_reached(caplog: pytest.LogCaptureFixture) -> None:
    _say_published.cache_clear()  # it is said once a process, and another test may have been first
    config = load_model_config("teacher:13", teacher="meta-llama/Llama-2-7b-hf", published=True)
    assert count_parameters(config) == 2_893_131_776
    assert "authors published" in caplog.text
    with pytest.raises(UserError, match="not on this machine"):
        load_model_config("meta-llama/Llama-2-7b-hf")
    with pytest.raises(UserError, match="not on this machine"):
        load_model_config("somebody/some-model", published=True)


# --- embedded models


def test_embedded_models_are_whole_or_the_error_says_what_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "tiny-teacher", llama())
    assert embedded_path("tiny-teacher", assets=tmp_path) == tmp_path / "tiny-teacher"
    (tmp_path / "tiny-teacher" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model\.safetensors: this installation of lrd-peft is incomplete"):
        embedded_path("tiny-teacher", assets=tmp_path)
    with pytest.raises(UserError, match="not an embedded model"):
        embedded_path("tiny-parrot", assets=tmp_path)


def test_model_cards_lie_beside_the_weights(tmp_path: Path) -> None:
    assert model_card_path("tiny-student", assets=tmp_path) == tmp_path / "tiny-student" / "README.md"
    with pytest.raises(UserError, match="no model card"):
        model_card_path("tiny-parrot")


@pytest.mark.parametrize("name", TINY_MODELS)
def test_embedded_models_load_by_name(name: str) -> None:
    try:
        embedded_path(name)
    except UserError as error:
        pytest.skip(str(error))
    loaded = load_lm(name)
    assert loaded.source == name
    assert {parameter.dtype for parameter in loaded.lm.parameters()} == {torch.float32}
    assert count_parameters(load_model_config(name)) == loaded.lm.num_parameters()
    assert model_card_path(name).is_file()


@pytest.mark.parametrize(
    ("name", "dataset", "thoughts", "blocks", "least"),
    [
        ("tiny-latent-teacher", "gsm-mini", 4, 12, 50),
        ("tiny-latent-student", "gsm-mini", 4, 4, 42),
        ("tiny-graph-teacher", "graph-mini", 5, 6, 52),
        ("tiny-graph-student", "graph-mini", 5, 2, 42),
    ],
)
def test_the_embedded_models_that_think_answer_right(
    name: str, dataset: str, thoughts: int, blocks: int, least: int
) -> None:
    model = StudentModel.from_pretrained(name)
    assert (model.options.num_thoughts, model.num_blocks, model.is_saved) == (thoughts, blocks, True)
    problems = load_problems(dataset, split="validation", limit=60)
    results = score(model, problems, thinking=True, batch_size=60, max_new_tokens=8)
    assert sum(result.right for result in results) >= least
    assert sum(path.stat().st_size for path in embedded_path(name).iterdir()) < 2_500_000


@pytest.mark.parametrize("name", TINY_MODELS)
def test_an_embedded_model_has_one_revision(name: str) -> None:
    with pytest.raises(UserError, match=f'revision is "main", but {name} has only one'):
        TeacherModel.from_pretrained(name, revision="main")
