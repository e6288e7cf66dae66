"""`lrd report --check`: a changed digit is found, whatever is marked wrongly is refused, `--update` puts it right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lrd_peft import cli
from lrd_peft.errors import UserError
from lrd_peft.records import read_record, write_record
from lrd_peft.report.check import check, corrected, study_facts
from lrd_peft.report.results import read_study
from tests.report import made

NUMBER = "**{}** <!-- from results/one.json: metrics.gsm-mini.latent-lora.summary.accuracy | percent -->"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with one record, its table and one of its numbers."""
    (tmp_path / "results").mkdir()
    write_record(tmp_path / "results" / "one.json", made.record())
    readme = tmp_path / "README.md"
    readme.write_text(f"Ours: {NUMBER.format('1%')}\n\n<!-- table results/one.json -->\n<!-- /table -->\n", "utf-8")
    assert check(tmp_path, update=True) == ["README.md: updated"]
    return tmp_path


def accuracy(checkout: Path) -> float:
    metrics = read_record(checkout / "results" / "one.json").metrics
    return metrics["gsm-mini"]["latent-lora"]["summary"]["accuracy"]


def test_what_is_committed_follows_from_the_records(root: Path) -> None:
    assert check(root) == []


def test_each_digit_of_a_table_counts(checkout: Path) -> None:
    readme = checkout / "README.md"
    text = readme.read_text("utf-8")
    start, end = text.index("<!-- table results/one.json -->"), text.index("<!-- /table -->")
    digits = [match.start() for match in re.finditer(r"\d", text[start:end])]
    for place in [start + digit for digit in digits][:: max(1, len(digits) // 10)]:
        readme.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :], "utf-8")
        assert len(check(checkout)) == 1
        assert "does not follow from results/one.json" in check(checkout)[0]
    assert check(checkout, update=True) == ["README.md: updated"]
    assert readme.read_text("utf-8") == text


def test_a_marked_number_is_held_to_its_record(checkout: Path) -> None:
    right = NUMBER.format(f"{accuracy(checkout):.1%}")
    assert corrected(right, root=checkout, name="a.md") == (right, [])
    text, wrong = corrected("One.\n" + NUMBER.format("77.4%"), root=checkout, name="a.md")
    assert text == "One.\n" + right
    assert wrong[0].startswith(f"a.md:2: 77.4% should be {accuracy(checkout):.1%}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NUMBER.replace("| percent", "| percents").format("77.3%"), 'Did you mean "percent"'),
        (NUMBER.replace("gsm-mini", "gsm-mimi").format("77.3%"), 'Did you mean "gsm-mini"'),
        (NUMBER.replace("one.json", "no.json").format("77.3%"), "there is no results/no.json"),
        (NUMBER.replace(".accuracy", "").format("77.3%"), "is no number but dict"),
        (NUMBER.format("many"), "no number stands before"),
        ("1 <!-- from results/one.json -->", "no number stands before"),
        ("<!-- table results/one.json -->\n", "lacks its"),
        ("<!-- table results/none -->\n<!-- /table -->", "there is no results/none"),
    ],
)
def test_a_mark_that_cannot_be_read_is_refused(checkout: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        corrected(text, root=checkout, name="a.md")


def test_a_mark_in_an_example_is_none(root: Path) -> None:
    for text in ("    0% <!-- from x: y | z -->\n    <!-- table x -->\n", "```\n<!-- table x -->\n```\n"):
        assert corrected(text, root=root, name="a.md") == (text, [])


def test_a_studys_means_and_tests_have_names(tmp_path: Path) -> None:
    records = [made.record(seed=seed) for seed in (0, 1)] + [made.record("base", seed=seed) for seed in (0, 1)]
    study = read_study(made.save(tmp_path / "results" / "methods", *records))
    facts = study_facts(study)
    mean = sum(each.metrics["gsm-mini"]["latent-lora"]["summary"]["accuracy"] for each in records[:2]) / 2
    assert facts["accuracy"]["gsm-mini"]["latent-lora"]["mean"] == pytest.approx(mean)
    assert facts["against_ours"]["gsm-mini"]["base"]["num_seeds"] == 2
    text = "{} <!-- from results/methods: accuracy.gsm-mini.latent-lora.mean | percent0 -->"
    assert corrected(text.format("0%"), root=tmp_path, name="a")[0] == text.format(f"{mean:.0%}")
    table, _ = corrected("<!-- table results/methods -->\n<!-- /table -->", root=tmp_path, name="a")
    assert "| Latent + LoRA (ours) |" in table


def test_a_value_with_a_point_names_a_cell_of_a_sweep(tmp_path: Path) -> None:
    records = [made.record(distill_alpha=alpha) for alpha in (0.1, 0.5)]
    made.save(tmp_path / "results" / "alpha", *records)
    text = "0 <!-- from results/alpha: accuracy.gsm-mini.latent-lora@0.1.num_problems | integer -->"
    assert corrected(text, root=tmp_path, name="a")[0].startswith("120 <!--")
    table, _ = corrected("<!-- table results/alpha -->\n<!-- /table -->", root=tmp_path, name="a")
    assert "| 0.1 | Latent + LoRA (ours) |" in table


def test_committed_tables_beside_the_figures_are_checked(checkout: Path) -> None:
    (checkout / "enhanced_figures").mkdir()
    (checkout / "enhanced_figures" / "table1_main_results.csv").write_text("method\n")
    assert check(checkout) == [
        "enhanced_figures/table1_main_results.csv: does not follow from the records; `make figures`"
    ]


def test_the_command_fails_on_a_changed_number(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    assert cli.main(["report", "--check"]) is None
    readme = checkout / "README.md"
    right = f"| {accuracy(checkout):.1%} |"
    assert right in readme.read_text("utf-8")
    readme.write_text(readme.read_text("utf-8").replace(right, "| 0.1% |"), "utf-8")
    assert cli.main(["report", "--check"]) == cli.USER_ERROR
    assert "README.md:" in capsys.readouterr().out
    assert cli.main(["report", "--update"]) is None
    assert cli.main(["report", "--check"]) is None


def test_a_value_of_an_axis_is_tested_against_the_first(tmp_path: Path) -> None:
    records = [made.record(seed=seed, distill_alpha=alpha) for seed in (0, 1) for alpha in (0, 0.9)]
    facts = study_facts(read_study(made.save(tmp_path / "results" / "alpha", *records)))
    tests = facts["against_first"]["gsm-mini"]
    assert list(tests) == ["latent-lora@0.9"]
    means = {value: facts["accuracy"]["gsm-mini"][f"latent-lora@{value}"]["mean"] for value in ("0", "0.9")}
    assert tests["latent-lora@0.9"]["difference"] == pytest.approx(means["0.9"] - means["0"])
    assert tests["latent-lora@0.9"]["num_seeds"] == 2
