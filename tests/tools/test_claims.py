"""`python -m tools.claims`: a wrong number is found and corrected, a claim that cannot be checked is one clear line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lrd_peft.evaluation.outcomes import pack_outcomes
from lrd_peft.evaluation.records import read_record, write_record
from lrd_peft.report.study_records import read_study_records
from lrd_peft.runtime.errors import UserError
from tests.report import made
from tools.claims import CLAIMS, Claim, check, main, read_claims, update, write_claims
from tools.record_numbers import study_facts

KEY = "metrics.gsm-mini.latent-lora.summary.accuracy"
COMMENTS = "# What this file is.\n"


def claim(quote: str, **changes: str) -> Claim:
    defaults = {"file": "README.md", "record": "results/one.json", "key": KEY, "format": "percent"}
    return Claim(quote=quote, **{**defaults, **changes})


def make(root: Path, text: str, *claims: Claim, page: str = "README.md") -> None:
    (root / "docs").mkdir(exist_ok=True)
    (root / page).write_text(text, "utf-8")
    if not (root / CLAIMS).exists():
        (root / CLAIMS).write_text(COMMENTS, "utf-8")
    write_claims(root, list(claims))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with one record and nothing that quotes it."""
    (tmp_path / "results").mkdir()
    write_record(tmp_path / "results" / "one.json", made.record())
    return tmp_path


@pytest.fixture
def right(checkout: Path) -> str:
    """The accuracy of the record as prose shows it."""
    metrics = read_record(checkout / "results" / "one.json").metrics
    return f"{metrics['gsm-mini']['latent-lora']['summary']['accuracy']:.1%}"


def test_what_is_committed_follows_from_the_records(root: Path) -> None:
    assert check(root) == []
    assert len(read_claims(root)) > 50


def test_markdown_has_no_comments_but_the_markers_of_generated_blocks(root: Path) -> None:
    blocks = "table|tree|layers|machine|ratios|profile|architectures"
    allowed = re.compile(rf"<!-- (table results/[\w./-]+( details| printed| thoughts)?|/?({blocks})) -->")
    for path in (root / "README.md", *(root / "docs").rglob("*.md")):
        comments = re.findall(r"<!--.*?-->", path.read_text("utf-8"), re.DOTALL)
        assert [text for text in comments if not allowed.fullmatch(text)] == [], path


def test_a_right_number_passes(checkout: Path, right: str) -> None:
    make(checkout, f"Of 120 problems, **{right}** are\nright.", claim(f"**{{{right}}}** are right"))
    assert check(checkout) == []
    assert update(checkout) == ([], [])


def test_a_quote_with_one_number_needs_no_braces(checkout: Path, right: str) -> None:
    make(checkout, f"gsm-8k: {right}, of 120", claim(f"gsm-8k: {{{right}}}, of"), claim(f": {right}, of"))
    assert check(checkout) == []


def test_a_wrong_number_is_reported_and_corrected(checkout: Path, right: str) -> None:
    text = "One.\nIt is {} here and 7 there."
    make(checkout, text.format("7.5%"), claim("It is {7.5%} here and 7 there"))
    assert check(checkout) == [f"README.md:2: 7.5% should be {right} (results/one.json: {KEY})"]
    assert update(checkout) == (["README.md", str(CLAIMS)], [])
    assert (checkout / "README.md").read_text("utf-8") == text.format(right)
    assert (checkout / CLAIMS).read_text("utf-8").startswith(COMMENTS)
    assert [each.quote for each in read_claims(checkout)] == [f"It is {{{right}}} here and 7 there"]
    assert check(checkout) == []


def test_a_number_changed_in_the_prose_alone_is_reported(checkout: Path, right: str) -> None:
    make(checkout, "It is 7.5% here.", claim(f"It is {{{right}}} here"))
    assert check(checkout) == [f"README.md:1: 7.5% should be {right} (results/one.json: {KEY})"]
    assert update(checkout) == (["README.md"], [])
    assert check(checkout) == []


def test_a_quote_that_says_another_number_than_the_prose_is_reported(checkout: Path, right: str) -> None:
    make(checkout, f"It is {right} here.", claim("It is {7.5%} here"))
    assert check(checkout) == [
        f'docs/claims.yaml: README.md says {right}, not what the quote says: "It is {{7.5%}} here"'
    ]
    assert update(checkout) == ([str(CLAIMS)], [])
    assert check(checkout) == []


def test_quotes_that_share_a_number_are_corrected_together(checkout: Path, right: str) -> None:
    make(checkout, "| 1.1% | 2.2% |\n", claim("| {1.1%} | 2.2% |"), claim("| 1.1% | {2.2%} |"))
    assert len(check(checkout)) == 2
    update(checkout)
    assert check(checkout) == []
    assert [each.quote for each in read_claims(checkout)] == [
        f"| {{{right}}} | {right} |",
        f"| {right} | {{{right}}} |",
    ]


def test_a_small_p_value_may_be_spaced(tmp_path: Path) -> None:
    records = [made.record(seed=0), made.record("direct", seed=0, share=0.05)]
    made.save(tmp_path / "results" / "methods", *records)
    key = "against_ours.gsm-mini.direct.p_problems"
    make(tmp_path, "(p < 0.0001)", claim("(p {< 0.0001})", record="results/methods", key=key, format="p"))
    assert check(tmp_path) == []
    assert update(tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quote": "never {7.5%} said"}, 'README.md: no such words: "never {7.5%} said" (docs/claims.yaml)'),
        ({"quote": "is {7.5%}"}, 'README.md: these words occur 2 times, quote more: "is {7.5%}" (docs/claims.yaml)'),
        ({"quote": "is 7.5% or 8%"}, 'docs/claims.yaml: "is 7.5% or 8%" in README.md holds 2 numbers; put the one'),
        ({"quote": "is here"}, 'docs/claims.yaml: "is here" in README.md holds 0 numbers; a claim needs one'),
        ({"file": "docs/no.md"}, "docs/claims.yaml: there is no file docs/no.md"),
        ({"record": "results/no.json"}, "docs/claims.yaml: there is no record results/no.json"),
        ({"key": KEY.replace("gsm-mini", "gsm-mimi")}, 'gsm-mimi does not exist. Did you mean "gsm-mini"'),
        ({"key": KEY.removesuffix(".accuracy")}, "is not a number but dict"),
        (
            {"format": "percents"},
            'docs/claims.yaml: unknown format percents of "is {7.5%} here". Did you mean "percent"',
        ),
    ],
)
def test_a_claim_that_cannot_be_checked_is_one_line(checkout: Path, changed: dict[str, str], message: str) -> None:
    make(checkout, "It is 7.5% here, it is 7.5% there.", claim(**{"quote": "is {7.5%} here", **changed}))
    lines = check(checkout)
    assert len(lines) == 1
    assert message in lines[0]
    assert "\n" not in lines[0]
    assert update(checkout) == ([], lines)


@pytest.mark.parametrize("text", ["- a", "- {file: README.md}", "- [", "a: b"])
def test_a_file_of_another_form_is_refused(checkout: Path, text: str) -> None:
    make(checkout, "")
    (checkout / CLAIMS).write_text(text)
    with pytest.raises(UserError, match=r"docs/claims\.yaml"):
        check(checkout)


def test_each_digit_of_a_table_counts(checkout: Path) -> None:
    make(checkout, "<!-- table results/one.json -->\n<!-- /table -->\n")
    assert update(checkout) == (["README.md"], [])
    readme = checkout / "README.md"
    text = readme.read_text("utf-8")
    start, end = text.index("| gsm-mini"), text.index("<!-- /table -->")
    digits = [match.start() for match in re.finditer(r"\d", text[start:end])]
    for place in [start + digit for digit in digits][:: max(1, len(digits) // 10)]:
        readme.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :], "utf-8")
        assert len(check(checkout)) == 1
        assert "does not follow from results/one.json" in check(checkout)[0]
    assert update(checkout) == (["README.md"], [])
    assert readme.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table results/one.json -->\n", "lacks its"),
        ("<!-- table -->\n<!-- /table -->\n", "names no record"),
        ("<!-- table results/none -->\n<!-- /table -->", "README.md:1: there is no record results/none"),
    ],
)
def test_a_table_that_cannot_be_made_is_one_line(checkout: Path, text: str, message: str) -> None:
    make(checkout, text)
    assert len(check(checkout)) == 1
    assert message in check(checkout)[0]
    assert update(checkout) == ([], check(checkout))


def test_a_marker_in_an_example_is_not_a_table(checkout: Path) -> None:
    make(checkout, "    <!-- table x -->\n\n```\n<!-- table x -->\n```\n`<!-- table x -->`", page="docs/a.md")
    assert check(checkout) == []


def test_a_studys_means_and_tests_have_names(tmp_path: Path) -> None:
    records = [made.record(seed=seed) for seed in (0, 1)] + [made.record("base", seed=seed) for seed in (0, 1)]
    study = read_study_records(made.save(tmp_path / "results" / "methods", *records))
    facts = study_facts(study)
    mean = sum(each.metrics["gsm-mini"]["latent-lora"]["summary"]["accuracy"] for each in records[:2]) / 2
    assert facts["accuracy"]["gsm-mini"]["latent-lora"]["mean"] == pytest.approx(mean)
    assert facts["against_ours"]["gsm-mini"]["base"]["num_seeds"] == 2
    one = claim("0%", record="results/methods", key="accuracy.gsm-mini.latent-lora.mean", format="percent0")
    make(tmp_path, "0%\n\n<!-- table results/methods -->\n<!-- /table -->\n", one)
    update(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith(f"{mean:.0%}\n")
    assert "| Latent + LoRA (ours) |" in text


def test_a_value_with_a_point_names_a_cell_of_a_sweep(tmp_path: Path) -> None:
    records = [made.record(distill_alpha=alpha) for alpha in (0.1, 0.5)]
    made.save(tmp_path / "results" / "alpha", *records)
    key = "accuracy.gsm-mini.latent-lora@0.1.num_problems"
    one = claim("0", record="results/alpha", key=key, format="integer")
    make(tmp_path, "0\n\n<!-- table results/alpha -->\n<!-- /table -->\n", one)
    update(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("120\n")
    assert "| 0.1 | Latent + LoRA (ours) |" in text


def test_a_value_of_an_axis_is_tested_against_the_first(tmp_path: Path) -> None:
    records = [made.record(seed=seed, distill_alpha=alpha) for seed in (0, 1) for alpha in (0, 0.9)]
    facts = study_facts(read_study_records(made.save(tmp_path / "results" / "alpha", *records)))
    tests = facts["against_first"]["gsm-mini"]
    assert list(tests) == ["latent-lora@0.9"]
    means = {value: facts["accuracy"]["gsm-mini"][f"latent-lora@{value}"]["mean"] for value in ("0", "0.9")}
    assert tests["latent-lora@0.9"]["difference"] == pytest.approx(means["0.9"] - means["0"])
    assert tests["latent-lora@0.9"]["num_seeds"] == 2


def test_committed_tables_in_the_folder_of_figures_are_checked(checkout: Path) -> None:
    make(checkout, "")
    (checkout / "enhanced_figures").mkdir()
    (checkout / "enhanced_figures" / "table1_main_results.csv").write_text("method\n")
    assert check(checkout) == [
        "enhanced_figures/table1_main_results.csv: does not follow from the records; `make figures`"
    ]


def test_the_command_fails_on_a_wrong_number(
    checkout: Path, right: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    make(checkout, f"It is {right} here.", claim(f"is {right} here"))
    assert main(["check"]) == 0
    assert "1 numbers and all tables follow" in capsys.readouterr().out
    (checkout / "README.md").write_text("It is 0.1% here.", "utf-8")
    assert main(["check"]) == 1
    assert "README.md:1: 0.1% should be" in capsys.readouterr().out
    assert main(["update"]) == 0
    assert main(["check"]) == 0
    assert main([]) == 2
    assert "check|update" in capsys.readouterr().err


def test_a_percentage_or_p_value_without_a_claim_is_reported(checkout: Path, right: str) -> None:
    text = (
        f"It is {right} here, p = 0.2 there,\np < 0.0001 too. 12% more, in a 95% interval. `13%` is code, 7 no share.\n"
    )
    make(checkout, text, claim(f"It is {{{right}}} here"))
    assert check(checkout) == [
        "README.md:1: 0.2 has no claim in docs/claims.yaml",
        "README.md:2: < 0.0001 has no claim in docs/claims.yaml",
        "README.md:2: 12% has no claim in docs/claims.yaml",
    ]
    (checkout / "docs" / "log.md").write_text("Nothing here is claimed: 12%.", "utf-8")
    assert len(check(checkout)) == 3


def test_two_records_are_compared_problem_by_problem(checkout: Path) -> None:
    """Of five problems, three are solved by the first alone, one by the second alone, one by both."""
    solved = {"a": (True, True, True, False, True), "b": (False, False, False, True, True)}
    for name, right in solved.items():
        entry = {
            "summary": {"accuracy": sum(right) / 5},
            "outcomes": pack_outcomes({str(number): each for number, each in enumerate(right)}),
        }
        record = replace(made.record(), datasets=("gsm-mini",), metrics={"gsm-mini": {"latent-lora": entry}})
        write_record(checkout / "results" / f"{name}.json", record)
    source = "results/a.json against results/b.json"
    # 2 (1 + 4) / 16 of the outcomes of four coins are as uneven as 3 to 1.
    make(
        checkout,
        "alone 3, other 1, p = 0.62, 40.0 points",
        claim("alone {3}", record=source, key="gsm-mini.only_a", format="integer"),
        claim("other {1}", record=source, key="gsm-mini.only_b", format="integer"),
        claim("p = {0.62}", record=source, key="gsm-mini.p_value", format="p"),
        claim("{40.0} points", record=source, key="gsm-mini.difference", format="points"),
    )
    assert check(checkout) == []
    make(checkout, "alone 1", claim("alone {1}", record="results/a.json against results/no.json", key="x"))
    assert check(checkout) == ['docs/claims.yaml: there is no record results/no.json ("alone {1}" in README.md)']


def test_lists_are_read_by_index_and_seconds_add_up(checkout: Path) -> None:
    record = read_record(checkout / "results" / "one.json")
    low = record.metrics["gsm-mini"]["latent-lora"]["summary"]["interval"][0]
    minutes = (record.costs.wall_seconds["student"] + 12.5) / 60
    make(
        checkout,
        f"from {low:.1%} in {minutes:.0f} minutes",
        claim(f"from {{{low:.1%}}}", key="metrics.gsm-mini.latent-lora.summary.interval.0"),
        claim(f"in {{{minutes:.0f}}} minutes", key="total_seconds", format="minutes"),
    )
    assert check(checkout) == []
    make(checkout, "from 1%", claim("from {1%}", key="metrics.gsm-mini.latent-lora.summary.interval.2"))
    assert "2 does not exist" in check(checkout)[0]
