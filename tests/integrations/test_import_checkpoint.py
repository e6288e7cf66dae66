"""Random checkpoints in the other projects' layouts answer here as a plain form of their decoding loops says."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lrd_peft import StudentModel, TeacherModel
from lrd_peft.cli.app import main
from lrd_peft.integrations.import_checkpoint import import_checkpoint
from lrd_peft.model.generation import answer_batch
from lrd_peft.pipeline.ablate import ablate_run
from lrd_peft.runtime.errors import UserError
from tests import tiny

pytestmark = pytest.mark.slow

THOUGHTS, WRITTEN = 3, 12
QUESTIONS = [problem.question_text for problem in tiny.problems(6)]
Project = Callable[[Tensor], Tensor]


@functools.cache
def base_of(family: str) -> str:
    """Return a base whose tokenizer has no markers of its own; the embedded models' has."""
    folder = Path(tempfile.mkdtemp(prefix="lrd-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(tiny.folder(family), folder, dirs_exist_ok=True)
    for file in folder.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("<bot>", "<one>").replace("<eot>", "<two>"))
    return str(folder)


def trained(family: str, *, extra: int) -> PreTrainedModel:
    """Return the base with new embeddings and other weights, as a training leaves it."""
    lm: Any = AutoModelForCausalLM.from_pretrained(base_of(family))
    torch.manual_seed(7)
    lm.resize_token_embeddings(lm.get_input_embeddings().num_embeddings + extra, mean_resizing=False)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return lm.eval()


def adapted(lm: PreTrainedModel) -> Any:
    torch.manual_seed(8)
    names = ["c_attn", "c_proj", "c_fc"] if "gpt2" in type(lm).__name__.lower() else ["q_proj", "v_proj", "down_proj"]
    model: Any = get_peft_model(lm, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules=names))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return model.eval()


def perceptron(width: int, inner: int) -> nn.Sequential:
    torch.manual_seed(9)
    layers = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.LayerNorm(width))
    with torch.no_grad():
        layers[3].get_parameter("weight").add_(0.1 * torch.randn(width))
    return layers.eval()


def own_embeddings(lm: Any) -> Any:
    return lm.get_input_embeddings()


@torch.no_grad()
def last_states(lm: Any, inputs: Tensor) -> Tensor:
    return lm(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]


@torch.no_grad()
def written(lm: Any, inputs: Tensor, *, eos: int) -> tuple[int, ...]:
    """Decode greedily, the whole sequence again at each token."""
    found: list[int] = []
    while len(found) < WRITTEN:
        token = int(lm(inputs_embeds=inputs).logits[0, -1].argmax())
        if token == eos:
            break
        found.append(token)
        inputs = torch.cat([inputs, own_embeddings(lm)(torch.tensor([[token]]))], dim=1)
    return tuple(found)


@torch.no_grad()
def one_by_one(lm: Any, before: list[int], after: list[int], project: Project, *, eos: int) -> tuple[int, ...]:
    """Coconut's and CODI's loop: each thought is the projected last state before it."""
    inputs = own_embeddings(lm)(torch.tensor([before]))
    for _ in range(THOUGHTS):
        inputs = torch.cat([inputs, project(last_states(lm, inputs)[:, -1:])], dim=1)
    return written(lm, torch.cat([inputs, own_embeddings(lm)(torch.tensor([after]))], dim=1), eos=eos)


@torch.no_grad()
def in_parallel(
    lm: Any, before: list[int], after: list[int], project: Project, *, eos: int, passes: int, latent: int
) -> tuple[int, ...]:
    """PCCoT's loop: slots start from the states over placeholder tokens and are refined together.

    The answer sees the keys of the last pass, so those of the inputs of that pass.
    """
    question = own_embeddings(lm)(torch.tensor([before]))
    slots = own_embeddings(lm)(torch.tensor([[latent] * THOUGHTS]))
    states = last_states(lm, torch.cat([question, slots], dim=1))[:, len(before) - 1 : -1]
    slots = first = project(states)
    for _ in range(passes - 1):
        states = project(last_states(lm, torch.cat([question, slots], dim=1))[:, len(before) :])
        slots = torch.cat([first[:, :1], states[:, :-1]], dim=1)
    inputs = torch.cat([question, slots, own_embeddings(lm)(torch.tensor([after]))], dim=1)
    return written(lm, inputs, eos=eos)


def ours(folder: Path) -> list[tuple[int, ...]]:
    model = StudentModel.from_pretrained(folder)
    assert model.options.num_thoughts == THOUGHTS
    return [row.tokens for row in answer_batch(model, QUESTIONS, thinking=True, max_new_tokens=WRITTEN)]


def plain_ids(text: str) -> list[int]:
    return list(tiny.tokenizer()(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("project", ["coconut", "simcot"])
def test_coconut(family: str, project: str, tmp_path: Path) -> None:
    lm = trained(family, extra=3)
    state = {f"base_causallm.{name}": value for name, value in lm.state_dict().items()}
    state["embedding.weight"] = own_embeddings(lm).weight.detach()
    if project == "simcot":
        state |= {"expainable_llm.h.0.weight": torch.zeros(2), "pj_in.weight": torch.zeros(2, 2)}
    torch.save(state, tmp_path / "checkpoint_33")
    folder = import_checkpoint(
        project,  # pyright: ignore[reportArgumentType]
        tmp_path / "checkpoint_33",
        base=base_of(family),
        output=tmp_path / "out",
        num_thoughts=THOUGHTS,
    )
    size = len(tiny.tokenizer())
    wanted = [
        one_by_one(lm, [*plain_ids(each + "\n"), size], [size + 1], lambda state: state, eos=1) for each in QUESTIONS
    ]
    assert ours(folder) == wanted
    assert len(set(wanted)) > 2  # these questions matter to these weights


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(("project", "width"), [("codi", 24), ("codi", None), ("simcot", 16)])
def test_codi(family: str, project: str, width: int | None, tmp_path: Path) -> None:
    lm = trained(family, extra=3)
    size = own_embeddings(lm).num_embeddings - 3
    adapter = adapted(lm)
    state = {f"codi.{name}": value.clone() for name, value in adapter.state_dict().items()}
    projection = None if width is None else perceptron(16, width)
    if projection is not None:
        places = {"0": "1", "2": "3", "3": "ln"}
        for name, value in projection.state_dict().items():
            index, _, rest = name.partition(".")
            state[f"prj.{places[index]}.{rest}"] = value
    if project == "simcot":
        state |= {"decoder.lm_head.weight": torch.zeros(2, 2), "pj_out.weight": torch.zeros(2, 2)}
    save_file(state, tmp_path / "model.safetensors")
    folder = import_checkpoint(
        project,  # pyright: ignore[reportArgumentType]
        tmp_path,
        base=base_of(family),
        output=tmp_path / "out",
        num_thoughts=THOUGHTS,
    )
    project_state: Project = (lambda state: state) if projection is None else projection
    wanted = [one_by_one(adapter, [*plain_ids(each), size + 1], [size + 2], project_state, eos=1) for each in QUESTIONS]
    assert ours(folder) == wanted
    assert len(set(wanted)) > 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("whole", [False, True])
def test_pccot(family: str, whole: bool, tmp_path: Path) -> None:
    lm = trained(family, extra=3)
    size = own_embeddings(lm).num_embeddings - 3
    latent, bot, eot = size, size + 1, size + 2
    projection = perceptron(16, 16)
    model = lm if whole else adapted(lm)
    if whole:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        state |= {f"prj.{name}": value for name, value in projection.state_dict().items()}
        save_file(state, tmp_path / "model.safetensors")
    else:
        # PEFT leaves its adapter's name out, and keeps resized embeddings beside it.
        kept = {
            name.replace(".default", ""): value.clone()
            for name, value in model.state_dict().items()
            if "lora_" in name or "wte" in name or "embed_tokens" in name
        }
        kept |= {f"base_model.model.prj.{name}": value for name, value in projection.state_dict().items()}
        save_file(kept, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 32}))
        # The rest of the base is as it was.
        base = AutoModelForCausalLM.from_pretrained(base_of(family)).state_dict()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
                if plain in base and "lora_" not in name and base[plain].shape == value.shape:
                    value.copy_(base[plain])
    ids = {"bot_token_id": bot, "eot_token_id": eot, "latent_token_id": latent}
    arguments = {**ids, "num_latent_tokens": THOUGHTS, "answer_prompt": "is ", "lora_alpha": 32}
    (tmp_path / "pccot_args.json").write_text(json.dumps(arguments))
    (tmp_path / "config.json").write_text(json.dumps({"num_iterations": 2}))
    assert (
        main(["import", "pccot", str(tmp_path), "--base", base_of(family), "--output", str(tmp_path / "out")]) is None
    )
    wanted = [
        in_parallel(
            model,
            [*plain_ids(each), bot],
            [eot, *plain_ids("is ")],
            projection,
            eos=1,
            passes=2,
            latent=latent,
        )
        for each in QUESTIONS
    ]
    assert ours(tmp_path / "out") == wanted
    assert len(set(wanted)) > 2


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("coconut")
    state = {f"base_causallm.{name}": value for name, value in trained("gpt2", extra=3).state_dict().items()}
    torch.save(state, place / "checkpoint_1")
    return import_checkpoint(
        "coconut", place / "checkpoint_1", base=base_of("gpt2"), output=place / "out", num_thoughts=THOUGHTS
    )


def test_what_was_imported_is_ablated_evaluated_and_distilled(imported: Path, tmp_path: Path) -> None:
    found, _ = ablate_run(str(imported), dataset="gsm-mini", num_problems=4)
    assert found.found[0].num_thoughts == THOUGHTS
    model = TeacherModel.from_pretrained(imported)
    assert model.facts == {"imported_from": "coconut"} and not model.options.force_marker
    flags = ["--teacher", str(imported), "--student", "teacher:1", "--methods", "teacher-latent"]
    flags += ["--num_train_problems", "12", "--num_validation_problems", "4", "--num_eval_problems", "4"]
    flags += ["--thoughts_per_step", "1", "--max_stage", str(THOUGHTS), "--thought_markers", "--epochs", "1"]
    flags += ["--epochs_stage0", "0", "--epochs_per_stage", "0", "--epochs_last_stage", "0"]
    flags += ["--distill_layers", "3", "--student_layers", "1", "--batch_size", "4", "--answer_marker", "###"]
    flags += ["--max_new_tokens", "8", "--report_to", "none", "--output_dir", str(tmp_path / "run")]
    assert main(["run", *flags]) is None
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())


def test_what_does_not_fit_is_refused_in_one_line(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, llama = base_of("gpt2"), base_of("llama")
    good = {f"base_causallm.{name}": value for name, value in trained("gpt2", extra=3).state_dict().items()}
    lacks = {name: value for name, value in good.items() if ".h.1.mlp" not in name}
    short = {f"base_causallm.{name}": value for name, value in trained("gpt2", extra=1).state_dict().items()}
    alone = {"codi.transformer.h.0.weight": torch.zeros(2)}
    no_norm = {**alone, "prj.1.weight": torch.zeros(2, 2), "prj.3.weight": torch.zeros(2, 2)}
    files: dict[str, Any] = {"good": good, "lacks": lacks, "short": short, "codi": alone, "no-norm": no_norm}
    files |= {"other": {"weight": torch.zeros(2)}, "more": {"model": good, "step": 3}}
    for name, state in files.items():
        torch.save(state, tmp_path / name)
    (tmp_path / "text").write_text("not a file of tensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    (tmp_path / "empty").mkdir()
    cases = [
        ("coconut", "absent", base, "there is no checkpoint"),
        ("coconut", "empty", base, "holds none of model.safetensors"),
        ("coconut", "text", base, "not a readable file of tensors"),
        ("coconut", "torn.safetensors", base, "not a readable safetensors file"),
        ("coconut", "more", base, "more than a dictionary of tensors"),
        ("coconut", "other", base, "does not look like coconut: no tensor's name begins with coconut's prefix"),
        ("coconut", "lacks", base, "the checkpoint lacks transformer.h.1.mlp"),
        ("coconut", "short", base, "embeddings and would need"),
        ("coconut", "good", llama, "does not know"),
        ("coconut", "codi", base, "import it as codi or simcot"),
        ("codi", "good", base, "import it as coconut or simcot"),
        ("codi", "no-norm", base, "--prj_no_ln"),
        ("pccot", "good", base, "come with pccot_args.json"),
    ]
    for project, file, given, says in cases:
        arguments = [project, str(tmp_path / file), "--base", given, "--output", str(tmp_path / "out")]
        assert main(["import", *arguments]) == 2, says
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1, err
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no effect"):
        import_checkpoint("coconut", tmp_path / "good", base=base, output=tmp_path / "out", lora_alpha=3)
    with pytest.raises(UserError, match="num_thoughts is 0"):
        import_checkpoint("coconut", tmp_path / "good", base=base, output=tmp_path / "out", num_thoughts=0)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"base_causallm.x": Evil()}, tmp_path / "evil")
    with pytest.raises(UserError, match="not a readable file of tensors"):
        import_checkpoint("coconut", tmp_path / "evil", base=base_of("gpt2"), output=tmp_path / "out")
    assert not (tmp_path / "ran").exists()
