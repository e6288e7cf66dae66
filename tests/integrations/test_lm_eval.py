"""lm-evaluation-harness, as installed, grades our models: the same accuracy as ours, the same log-likelihoods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lrd_peft import StudentModel, load_problems, think
from lrd_peft.cli.app import main
from lrd_peft.evaluation.score import score
from lrd_peft.model.loop import unwrap
from lrd_peft.runtime.errors import UserError

harness = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = pytest.mark.slow

from lm_eval.api.instance import Instance  # noqa: E402

from lrd_peft.integrations.lm_eval_model import LatentReasoningLM  # noqa: E402

_TASK = """
task: written_answers
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], do_sample: false, max_gen_toks: 32}
filter_list:
  - {name: marker, filter: [{function: regex, regex_pattern: "### (.*)"}, {function: take_first}]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
_CHOICE = """
task: given_answers
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.filterwarnings("default")  # the harness's own
def test_the_real_harness_finds_the_accuracy_that_we_find(tmp_path: Path) -> None:
    problems = load_problems("gsm-mini", split="test", limit=200)
    rows = tmp_path / "rows.jsonl"
    choices = [[each.answer, f"{each.answer}0", f"1{each.answer}"] for each in problems]
    rows.write_text(
        "".join(
            json.dumps({"question": each.question_text, "answer": each.answer, "choices": given}) + "\n"
            for each, given in zip(problems, choices, strict=True)
        )
    )
    for name, task in (("written.yaml", _TASK), ("given.yaml", _CHOICE)):
        (tmp_path / name).write_text(task.replace("ROWS", str(rows)))
    output = tmp_path / "found"
    arguments = ["--model_args", "pretrained=tiny-latent-student", "--include_path", str(tmp_path)]
    assert (
        main(["lm-eval", *arguments, "--tasks", "written_answers,given_answers", "--output_path", str(output)]) is None
    )
    (file,) = output.rglob("results_*.json")
    found = json.loads(file.read_text())
    model = StudentModel.from_pretrained("tiny-latent-student")
    ours = score(model, problems, thinking=True, batch_size=64, max_new_tokens=32)
    assert found["results"]["written_answers"]["exact_match,marker"] == sum(row.right for row in ours) / 200
    assert found["config"]["num_thoughts"] == 4
    # An answer that the model writes is the likeliest of the three as well.
    assert found["results"]["given_answers"]["acc,none"] > 0.8


def _asked(kind: str, *arguments: object) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)  # pyright: ignore[reportArgumentType]


def test_log_likelihoods_are_those_of_the_plain_definition() -> None:
    lm = LatentReasoningLM("tiny-latent-student", batch_size=3)
    contexts = [problem.question_text for problem in load_problems("gsm-mini", split="test", limit=5)]
    continuations = [" 12", "7", " 1,200 pens", "", "3"]
    asked = [_asked("loglikelihood", *pair) for pair in zip(contexts, continuations, strict=True)]
    found = lm.loglikelihood(asked, disable_tqdm=True)
    model = lm.model
    for context, continuation, (total, greedy) in zip(contexts, continuations, found, strict=True):
        ids = torch.tensor([model.encoder.prompt(context)])
        tokens = model.tokenizer(continuation.lstrip(), add_special_tokens=False)["input_ids"]
        suffix = torch.tensor([[*model.encoder.marker, *tokens]])
        with torch.no_grad():
            thoughts = think(model.lm, ids, torch.ones_like(ids), num_thoughts=4, suffix_ids=suffix[:, :0]).thoughts
            embed = unwrap(model.lm).get_input_embeddings()
            inputs = torch.cat([embed(ids), thoughts, embed(suffix)], dim=1)
            scores = model.lm(inputs_embeds=inputs).logits.log_softmax(dim=-1)[0, -len(tokens) - 1 : -1]
        wanted = scores[range(len(tokens)), tokens].sum().item() if tokens else 0.0
        assert total == pytest.approx(wanted, abs=1e-4)
        assert greedy == (not tokens or scores.argmax(dim=-1).tolist() == tokens)


def test_texts_end_before_a_stop_text_and_at_the_limit() -> None:
    lm = LatentReasoningLM("tiny-latent-student")
    (question,) = (problem.question_text for problem in load_problems("gsm-mini", split="test", limit=1))
    (whole,) = lm.generate_until([_asked("generate_until", question, {})], disable_tqdm=True)
    digits = whole.removeprefix("### ")
    assert whole != digits and digits
    found = lm.generate_until(
        [
            _asked("generate_until", question, {"until": ["#", digits[-1]]}),
            _asked("generate_until", question, {"max_gen_toks": 0, "until": "zzz"}),
            _asked("generate_until", "1 " * 600, {}),
        ],
        disable_tqdm=True,
    )
    assert found[0] == "### " + digits.partition(digits[-1])[0]
    assert found[1] == "### "
    assert found[2] == ""
    fewer = LatentReasoningLM("tiny-latent-student", num_thoughts=0, force_marker=True)
    assert fewer.generate_until([_asked("generate_until", question, {})], disable_tqdm=True)[0].startswith("### ")


def test_what_cannot_be_measured_is_refused() -> None:
    lm = LatentReasoningLM("tiny-latent-student")
    with pytest.raises(UserError, match="do_sample=False"):
        lm.generate_until([_asked("generate_until", "What is 2 + 3?", {"do_sample": True, "temperature": 0.7})])
    with pytest.raises(UserError, match="no question to think about"):
        lm.loglikelihood_rolling([_asked("loglikelihood_rolling", "a text")])
    with pytest.raises(UserError, match="takes 512"):
        lm.loglikelihood([_asked("loglikelihood", "1 " * 600, "2")], disable_tqdm=True)
    with pytest.raises(UserError, match="--model hf"):
        LatentReasoningLM("tiny-student")
    with pytest.raises(UserError, match="apply_chat_template"):
        lm.apply_chat_template([])
