"""`lrd inspect` on real runs: its files against the plain definition, on the report's page, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lrd_peft.cli import app as cli
from lrd_peft.config import RunConfig, dump_yaml
from lrd_peft.data.problem_sets import load_problems
from lrd_peft.evaluation.ablation_results import Ablations
from lrd_peft.evaluation.decoded_thoughts import Answers
from lrd_peft.evaluation.similarity import Similarity, cka_matrix, mean_cosine
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.inspect import inspect
from lrd_peft.report.write_report import write_report
from tests.model.reference import recompute
from tests.pipeline.small_run import FLAGS, finish, lrd
from tests.report.browser import Browser, needs_browser

FEW = ("--num_train_problems", "12", "--epochs_stage0", "0", "--num_validation_problems", "0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of another width than its teacher's, looked into: 9 problems for either file."""
    folder = tmp_path_factory.mktemp("inspect") / "run"
    finish(lrd("run", *FLAGS, "--dataset", "gsm-mini+aqua-mini", "--output_dir", str(folder)))
    output = finish(lrd("inspect", str(folder), "--num_problems", "9"))
    assert "answers.json  latent-lora, seed 0, 9 test problems of gsm-mini, aqua-mini: " in output
    assert "similarity.json  latent-lora, seed 0, 9 test problems of gsm-mini, aqua-mini: 27 positions" in output
    assert "Warning" not in output
    return folder


def answers_of(folder: Path) -> Answers:
    return Answers.from_json(json.loads((folder / "answers.json").read_text("utf-8")))


def similarity_of(folder: Path) -> Similarity:
    return Similarity.from_json(json.loads((folder / "similarity.json").read_text("utf-8")))


def plain_states(model: ThinkingModel, num_problems: int) -> dict[int, np.ndarray]:
    """Return layer -> [positions, H] at two slots and the answer position, each problem by itself, without a cache."""
    rows = []
    for name, count in (("gsm-mini", num_problems - num_problems // 2), ("aqua-mini", num_problems // 2)):
        for problem in load_problems(name, split="test", limit=count):
            prompt = model.encoder.prompt(problem.question_text)
            _, states = recompute(model.lm, list(prompt), 2, list(model.encoder.marker))
            where = [len(prompt), len(prompt) + 1, -1]
            rows.append([state[where].detach().numpy() for state in states])
    return {layer: np.concatenate([row[layer] for row in rows]) for layer in range(len(rows[0]))}


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestARun:
    def test_the_problems_are_those_of_the_evaluation_and_graded_alike(self, run: Path) -> None:
        answers = answers_of(run)
        assert [problem.dataset for problem in answers.problems] == ["gsm-mini"] * 5 + ["aqua-mini"] * 4
        for name in ("gsm-mini", "aqua-mini"):
            own = [problem for problem in answers.problems if problem.dataset == name]
            graded = json.loads((run / "evaluation" / f"latent-lora--{name}.json").read_text())["results"]
            assert [problem.student_answer for problem in own] == [row["predicted"] for row in graded[: len(own)]]
            assert [problem.right for problem in own] == [row["right"] for row in graded[: len(own)]]
        assert answers.problems[-1].options[1].startswith("B) ") and "Options" not in answers.problems[-1].question

    def test_the_teachers_steps_are_what_it_writes_before_the_marker(self, run: Path) -> None:
        teacher = TeacherModel.from_pretrained(run / "teacher" / "cot")
        for problem in answers_of(run).problems[:3]:
            prompt = torch.tensor([teacher.encoder.prompt(problem.question)])
            ids = teacher.lm.generate(prompt, do_sample=False, max_new_tokens=60)  # pyright: ignore
            text = str(teacher.tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True))
            assert list(problem.teacher_steps) == text.partition("###")[0].splitlines()
            assert problem.teacher_steps

    def test_thoughts_decode_to_what_the_head_reads_in_the_plain_definition(self, run: Path) -> None:
        student = StudentModel.from_pretrained(run)
        for problem in answers_of(run).problems[:5]:
            prompt = student.encoder.prompt(problem.question)
            logits, _ = recompute(student.lm, list(prompt), 2, [])
            # slot j is decoded from the state before it, which becomes its input
            best = logits[len(prompt) - 1 : len(prompt) + 1].softmax(dim=-1).topk(3)
            tokens = [[student.tokenizer.decode([token]) for token in slot] for slot in best.indices.tolist()]
            assert [[top.token for top in slot] for slot in problem.thoughts] == tokens
            shares = torch.tensor([[top.probability for top in slot] for slot in problem.thoughts])
            torch.testing.assert_close(shares, best.values, atol=1e-4, rtol=0)

    def test_the_similarity_is_that_of_plainly_computed_states(self, run: Path) -> None:
        found = similarity_of(run)
        teacher = plain_states(TeacherModel.from_pretrained(run / "teacher" / "latent"), 9)
        for model, matrix in ((StudentModel.from_pretrained(run), found.cka), (StudentModel("tiny-student"), None)):
            expected = cka_matrix(teacher, plain_states(model, 9))
            held = found.cka_untrained if matrix is None else matrix
            np.testing.assert_allclose(np.array(held, dtype=float), np.array(expected, dtype=float), atol=1e-3)
        assert found.cka != found.cka_untrained
        assert (found.teacher_layers, found.student_layers) == (tuple(range(13)), tuple(range(7)))

    def test_where_widths_differ_the_cosine_is_that_after_the_trained_projectors(self, run: Path) -> None:
        student, found = StudentModel.from_pretrained(run), similarity_of(run)
        pairs = {(int(layer), own) for layer, own in student.facts["layer_map"].items()}
        held = {(t, s): value for t, line in enumerate(found.cosine) for s, value in enumerate(line) if value}
        assert held.keys() == pairs and len(pairs) == 5
        assert {value for line in found.cosine_untrained or () for value in line} == {None}
        (teacher_layer, own), *_ = sorted(pairs)
        states = plain_states(TeacherModel.from_pretrained(run / "teacher" / "latent"), 9)[teacher_layer]
        projected = student.project(teacher_layer, torch.from_numpy(plain_states(student, 9)[own]))
        assert held[teacher_layer, own] == pytest.approx(mean_cosine(states, projected.detach().numpy()), abs=1e-3)

    def test_again_gives_the_same_bytes_and_touches_nothing_else(self, run: Path, tmp_path: Path) -> None:
        before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
        said = inspect(run, num_problems=9, output=tmp_path / "made" / "there")
        assert len(said) == 2
        for name in ("answers.json", "similarity.json"):
            assert (tmp_path / "made" / "there" / name).read_bytes() == (run / name).read_bytes()
        assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before

    def test_no_more_problems_than_the_run_was_evaluated_on(self, run: Path, tmp_path: Path) -> None:
        inspect(run, output=tmp_path)
        assert len(answers_of(tmp_path).problems) == 12 and similarity_of(tmp_path).num_positions == 36

    def test_its_thoughts_are_replaced(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--num_problems", "6", "--output", str(tmp_path)]
        assert cli.main(["ablate", str(run), *flags]) is None
        said = capsys.readouterr().out
        found = Ablations.from_json(json.loads((tmp_path / "ablation.json").read_text("utf-8"))).found
        assert [(each.model, each.dataset) for each in found] == [
            (model, dataset) for model in ("teacher-latent", "latent-lora") for dataset in ("gsm-mini", "aqua-mini")
        ]
        graded = json.loads((run / "evaluation" / "latent-lora--aqua-mini.json").read_text())["results"]
        assert found[3].untouched.num_right == sum(row["right"] for row in graded[:6])
        assert "latent-lora on aqua-mini (n = 6 held-out problems)" in said and "without thought 2" in said
        again = run.parent / "with_ablation"
        again.mkdir()
        for path in (run / "record.json", tmp_path / "ablation.json"):
            shutil.copy(path, again)
        write_report(again, tmp_path / "out")
        page = (tmp_path / "out" / "report.html").read_text("utf-8")
        assert "Do the thoughts matter?" in page and found[0].verdict().replace("'", "&#39;") in page
        assert (tmp_path / "out" / "ablation_latent-lora_gsm-mini.md").is_file()

    def test_what_an_ablation_refuses(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for flags, message in (
            (
                ["--models", "teacher-latnet"],
                'has no model "teacher-latnet" that thinks; it has teacher-latent, latent-lora',
            ),
            (["--num_problems", "1"], "--num_problems is 1; an ablation needs at least 2"),
        ):
            assert cli.main(["ablate", str(run), *flags]) == cli.USER_ERROR
            assert message in capsys.readouterr().err
        assert cli.main(["ablate", "tiny-latent-teacher"]) == cli.USER_ERROR
        assert "name the problems with --dataset" in capsys.readouterr().err

    @needs_browser
    def test_the_report_shows_figure_and_problems(self, run: Path, tmp_path: Path) -> None:
        lines = write_report(run, tmp_path / "out")
        assert any(line.startswith("drawn    fig9_layer_similarity") for line in lines)
        shown = "[...document.querySelectorAll('details.problem')].filter((each) => each.offsetParent !== null).length"
        choose = "{0}.value = '{1}'; {0}.dispatchEvent(new Event('input', {{bubbles: true}}))"
        with Browser(tmp_path / "profile") as browser:
            browser.open(tmp_path / "out" / "report.html")
            assert browser.run(shown) == 9
            browser.run(choose.format("document.querySelector('[name=dataset]')", "aqua-mini"))
            assert browser.run(shown) == 4
            answers = answers_of(run)
            tops = Counter(thought[0].token for each in answers.problems for thought in each.thoughts)
            told = tops.total() - tops.most_common(1)[0][1]  # the most frequent token is told once, in a sentence
            lists = "[...document.querySelectorAll('details.problem dt')]"
            lists += ".filter((e) => e.textContent == 'thoughts decode to').map((e) => e.nextElementSibling)"
            count = lists + ".reduce((sum, e) => sum + e.querySelectorAll('{}').length, 0)"
            assert browser.run(count.format("li")) == told
            assert browser.run(count.format("code")) == told * 3
            said = f"for {tops.most_common(1)[0][1]} of {tops.total()} thoughts the most probable token is"
            assert said in browser.run("document.querySelector('#problems p').innerText.replace(/\\s+/g, ' ')")
            assert "9 test problems" in browser.run("document.querySelector('#problems p').innerText")
            assert browser.run("document.querySelector('#fig9_layer_similarity img').naturalWidth") > 300
            assert browser.complaints == []

    def test_a_teacher_that_is_gone_is_said(self, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "run"
        shutil.copytree(run, other, ignore=shutil.ignore_patterns("latent", "store"))
        with pytest.raises(cli.UserError, match=r"teacher .*latent no longer exists"):
            inspect(other, num_problems=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_blocks_of_the_teacher_have_a_cosine_for_every_pair(tmp_path: Path) -> None:
    flags = ("--student", "teacher:3", "--student_weights", "trained", "--distill_layers", "11", "12")
    finish(lrd("run", *FLAGS, *FEW, *flags, "--methods", "latent-lora", "--output_dir", str(tmp_path / "run")))
    inspect(tmp_path / "run", num_problems=4)
    found = similarity_of(tmp_path / "run")
    for matrix in (found.cosine, found.cosine_untrained):
        assert matrix is not None and (len(matrix), len(matrix[0])) == (13, 4)
        assert all(value is not None for line in matrix for value in line)
    assert found.cosine != found.cosine_untrained
    # at the slots and the answer position the untrained student's inputs differ from the teacher's in the thoughts only
    assert found.cosine_untrained is not None and (found.cosine_untrained[0][0] or 0) > 0.3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_student_of_no_teacher_is_shown_without_one(tmp_path: Path) -> None:
    flags = ("--method", "codi", "--methods", "codi", "--output_dir", str(tmp_path / "run"))
    finish(lrd("run", *FLAGS, *FEW, *flags))
    said = inspect(tmp_path / "run", num_problems=2)
    assert said[1] == "no similarity.json: this codi run has no latent teacher"
    assert [problem.teacher_steps for problem in answers_of(tmp_path / "run").problems] == [(), ()]
    assert not (tmp_path / "run" / "similarity.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "distill-lora"},
            "a run of distill-lora, a text method; latent methods are coconut, coconut-lora, pause, codi",
        ),
        ({"method": "latent-lora", "max_stage": 0}, r"latent-lora, with max_stage 0 and so without thoughts"),
        ({"method": "base-latent"}, "base-latent, which trains no student"),
        ({"method": "latent-lora"}, "has no finished student of this configuration; run `lrd distill`"),
    ],
)
def test_a_run_without_thoughts_is_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(RunConfig.from_flat(**settings)))
    with pytest.raises(cli.UserError, match=message):
        inspect(tmp_path)


def test_what_is_no_run_and_what_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tmp_path)]) == cli.USER_ERROR
    assert "is not a run folder (no config.yaml)" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path), "--num_problems", "0"]) == cli.USER_ERROR
    assert "--num_problems is 0; it must be at least 1" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path / "none")]) == cli.USER_ERROR
    assert "there is no run" in capsys.readouterr().err
