"""The playground: what it answers is what the model answers, and the page works in a real browser."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lrd_peft import StudentModel, load_problems
from lrd_peft.integrations.playground import Playground
from lrd_peft.integrations.thought_explorer import CHANGES, ThoughtExplorer
from lrd_peft.model.generation import answer_batch
from lrd_peft.model.loop import think
from lrd_peft.runtime.errors import UserError
from tests import tiny
from tests.integrations.served import served
from tests.report.browser import Browser, needs_browser

pytestmark = [pytest.mark.slow]
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")

NAME = "tiny-latent-student"
QUESTION = "Ann has 3 pens. She buys 4 more. How many pens does Ann have?"
OTHER = "Tom has 20 books and gives 6 to Ben. How many books does Tom have?"


@pytest.fixture(scope="module")
def model() -> StudentModel:
    return StudentModel.from_pretrained(NAME)


def test_every_change_gives_the_answer_of_thoughts_made_by_hand(model: StudentModel) -> None:
    explorer = ThoughtExplorer(model)

    def own(question: str) -> torch.Tensor:
        ids = torch.tensor([model.encoder.prompt(question)])
        with torch.no_grad():
            return think(model.lm, ids, torch.ones_like(ids), num_thoughts=4, suffix_ids=ids[:, :0]).thoughts

    first = own(QUESTION)
    full_stop = model.tokenizer.encode(".", add_special_tokens=False)
    by_hand = {
        "zeros": torch.zeros_like(first),
        "filler": model.lm.get_input_embeddings()(torch.tensor([full_stop * 4])).detach(),  # pyright: ignore
        "first": first[:, :1].expand(-1, 4, -1),
        "other": own(OTHER),
    }
    for change, thoughts in by_hand.items():
        found = explorer.answer(QUESTION, change=change, other=OTHER)
        (wanted,) = answer_batch(
            model, [QUESTION], thinking=True, max_new_tokens=48, num_thoughts=4, thoughts=thoughts, force_marker=True
        )
        assert found.text == f"### {model.tokenizer.decode(list(wanted.tokens))}"
        assert [each.norm for each in found.thoughts] == pytest.approx(thoughts[0].norm(dim=-1).tolist(), rel=1e-4)
    (solution,) = model.solve([QUESTION])
    mine = explorer.answer(QUESTION)
    assert (mine.text, mine.num_passes) == (solution.text, solution.num_passes)
    assert [[token for token, _ in each.tokens] for each in mine.thoughts] == [list(row) for row in solution.thoughts]
    assert explorer.answer(QUESTION, change="other", other=QUESTION).text == mine.text
    noise = explorer.answer(QUESTION, change="noise")
    assert [each.norm for each in noise.thoughts] == pytest.approx([each.norm for each in mine.thoughts], rel=1e-4)
    assert explorer.answer(QUESTION, change="none").thoughts == ()
    assert len(explorer.answer(QUESTION, num_thoughts=7).thoughts) == 7
    assert set(CHANGES) == {*by_hand, "own", "none", "noise"}


def test_probes_read_what_is_there(model: StudentModel) -> None:
    probed = load_problems("gsm-mini", split="train", limit=1500).problems
    explorer = ThoughtExplorer(model, probed=probed)
    readers = [reader for reader in explorer.readers["answer"] if reader is not None]
    assert len(readers) == 4
    assert max(reader.accuracy for reader in readers) > 2 * max(reader.majority for reader in readers)
    # The same reading by the accuracy that it claims: on problems that it has not seen.
    fresh = load_problems("gsm-mini", split="validation", limit=400).problems
    known = [each for each in fresh if each.answer in readers[2].classes]
    right = [explorer.answer(each.question_text).thoughts[2].read["answer"] == each.answer for each in known[:150]]
    assert abs(sum(right) / len(right) - readers[2].accuracy) < 0.13


def test_what_the_page_says(model: StudentModel) -> None:
    play = Playground(model, dataset="gsm-mini", num_probed=0)
    problem = play.problem()
    answers, table, steps = play.ask(problem.question_text, "own", 4, "")
    assert answers.startswith("<b>") and "with its own 4 thoughts" in answers and answers.count("<b>") == 1
    assert table.count("<tr>") == 5 and "probe" not in table
    assert "\n".join(problem.steps) in steps
    answers, table, steps = play.ask("What is <b>2</b> + 3?", "none", 4, "")
    assert "with no thoughts" in answers and table == "<p>There are no thoughts.</p>" and steps == ""
    with pytest.raises(UserError, match="the question is empty"):
        play.ask("  ", "own", 4, "")
    with pytest.raises(UserError, match="the other question is empty"):
        play.ask(QUESTION, "other", 4, "")
    with pytest.raises(UserError, match="the model takes 512"):
        play.ask("1 " * 600, "own", 4, "")
    text = tiny.student("gpt2", num_thoughts=0)
    with pytest.raises(UserError, match="trained with 0"):
        ThoughtExplorer(text)


@needs_gradio
@pytest.mark.parametrize(
    ("model", "port", "says"), [("tiny-student", "0", "has not learned to think"), (NAME, "70000", "port 70000")]
)
def test_what_cannot_be_played_with(model: str, port: str, says: str) -> None:
    command = [sys.executable, "-m", "lrd_peft", "play", model, "--no_browser", "--port", port, "--probe_problems", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


@needs_browser
@needs_gradio
def test_the_page_works_in_a_browser_at_both_widths(tmp_path: Path) -> None:
    said = 'document.querySelector("#answers")?.innerText'
    arguments = ("play", NAME, "--no_browser", "--port", "0", "--probe_problems", "600")
    with served(*arguments) as address, Browser(tmp_path) as browser:
        for width in (1280, 390):
            browser.resize(width)
            browser.open(address)
            browser.wait_for(f'({said} || "").includes("with its own 4 thoughts")')
            assert browser.run('document.querySelectorAll("#thoughts tr").length') == 5
            assert browser.run("document.documentElement.scrollWidth") <= width
        choose = 'Array.from(document.querySelectorAll("#change label")).find(e => e.innerText.includes({}))?.click()'
        browser.run(choose.format(json.dumps("zeros")))
        browser.wait_for(f'{said}.includes("replaced by zeros")')
        browser.run(choose.format(json.dumps("another question")))
        browser.wait_for(f'{said}.includes("replaced by another question")')
        assert browser.wait_for('document.querySelector("#other textarea")?.value')
        browser.run(choose.format(json.dumps("none at all")))
        browser.wait_for(f'{said}.includes("with no thoughts")')
        before = browser.run('document.querySelector("#question textarea").value')
        browser.run('document.querySelector("#another").click()')
        browser.wait_for(f'document.querySelector("#question textarea").value != {json.dumps(before)}')
        browser.wait_for('document.querySelector("#steps").innerText.includes("###")')
        assert browser.complaints == []
