"""Check that numbers and tables in README.md and docs/ follow from the records: `python -m tools.claims check`.

`docs/claims.yaml` ties each number in prose to the record that it comes from:

    - file: README.md
      quote: 'the student answers {71.0%} without the teacher'
      record: results/tiny-alpha0.json
      key: metrics.gsm-mini.latent-lora.summary.accuracy
      format: percent

`quote` repeats the words of the file, which must occur in it once; any white space matches any other, line breaks
included. Braces mark the number; they can be left out where the quote holds only one. `record` is one of

    results/tiny.json                                   a JSON file: dotted paths, lists by index, and `total_seconds`
    results/tiny.json against results/other.json        two records: the numbers of `paired_facts`
    results/methods                                     the folder of a study: the numbers of `study_facts`

In a file that has claims, each percentage and p-value in prose needs one.

A table stands between two markers and is generated from a record or a study; `results/methods details` is the table of
tests, sizes and times, `results/controls thoughts` what its cells' thoughts are worth, and `results/demo.json printed`
what `lrd show` prints of the first data set:

    <!-- table results/demo.json -->
    | set | method | ...
    <!-- /table -->

`python -m tools.claims update` writes the right numbers and tables into the files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import yaml

from lrd_peft.report.study_records import read_results
from lrd_peft.report.tables import p_text
from lrd_peft.report.write_report import all_tables
from lrd_peft.runtime.errors import UserError, nearest
from tools.record_numbers import Numbers, Uncheckable

CLAIMS = Path("docs/claims.yaml")
FORMATS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{value:.1%}",
    "percent0": lambda value: f"{value:.0%}",
    "integer": lambda value: f"{round(value):,}",
    "decimal1": lambda value: f"{value:.1f}",
    "decimal2": lambda value: f"{value:.2f}",
    "millions": lambda value: f"{value / 1e6:.2f}",
    "minutes": lambda value: f"{value / 60:.0f}",
    "milliseconds": lambda value: f"{value * 1000:.1f}",
    "points": lambda value: f"{100 * value:.1f}",
    "p": p_text,
}

_NUMBER = r"(?:<\s?|[-+])?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?%?"
_ALONE = re.compile(rf"(?<![\w.]){_NUMBER}(?!\w)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_BLOCK = re.compile(
    r"(?P<open><!-- table (?P<source>\S+)(?P<part> details| printed| thoughts| tuned)? -->\n)"
    r"(?P<body>.*?)(?P<close><!-- /table -->)",
    re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"<!-- /?table\b")
# What must have a claim: "71.0%", "p = 0.73" and "p < 0.0001", but not "95% interval".
_MEASURED = re.compile(
    rf"(?<![\w.]){_NUMBER.removesuffix('%?')}%(?! interval)|(?<=\bp = ){_NUMBER}|(?<=\bp )(?=<){_NUMBER}"
)
_CODE = re.compile(r"^```.*?^```|^ {4}[^\n]*|`[^`\n]*`", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Claim:
    """A number in prose and where it comes from; see the module's docstring."""

    file: str
    quote: str
    record: str
    key: str
    format: str


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a claim stands in its file and what its number must be."""

    claim: Claim
    words: tuple[int, int]
    number: tuple[int, int]
    right: str


def main(arguments: list[str]) -> int:
    """Run `check` or `update` in the current folder and return the exit status."""
    if arguments not in (["check"], ["update"]):
        print("usage: python -m tools.claims check|update", file=sys.stderr)
        return 2
    try:
        if arguments == ["update"]:
            changed, wrong = update(Path.cwd())
            print("\n".join([*(f"{name}: updated" for name in changed), *wrong]) or "nothing to update")
        else:
            wrong = check(Path.cwd())
            count = len(read_claims(Path.cwd()))
            print("\n".join(wrong) or f"{count} numbers and all tables follow from the records")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if wrong else 0


def check(root: Path) -> list[str]:
    """Return a line for each number or table in README.md, docs/ and enhanced_figures/ that no record supports.

    Args:
        root: the checkout; paths in claims and markers start there.

    Raises:
        UserError: if docs/claims.yaml cannot be read.
    """
    records = Numbers(root)
    wrong = []
    claimed: dict[str, list[tuple[int, int]]] = {}
    for claim in read_claims(root):
        try:
            text = _read(root, claim)
            found = _find(claim, text, records)
        except Uncheckable as error:
            wrong.append(str(error))
            continue
        claimed.setdefault(claim.file, []).append(found.number)
        shown = text[slice(*found.number)]
        if _bare(shown) != _bare(found.right):
            line = text.count("\n", 0, found.number[0]) + 1
            wrong.append(f"{claim.file}:{line}: {shown} should be {found.right} ({claim.record}: {claim.key})")
        elif _pattern(claim, exact=True).search(text) is None:
            wrong.append(f'{CLAIMS}: {claim.file} says {shown}, not what the quote says: "{claim.quote}"')
    for path in _pages(root):
        wrong += _with_tables(path.read_text(encoding="utf-8"), records, name=str(path.relative_to(root)))[1]
    for name, numbers in claimed.items():
        wrong += _unclaimed(name, (root / name).read_text(encoding="utf-8"), numbers)
    return wrong + _stale_tables(root)


def update(root: Path) -> tuple[list[str], list[str]]:
    """Write the right numbers and tables into the files, and the right numbers into the quotes.

    Returns:
        The files that changed, and a line for each claim or table that could not be updated.

    Raises:
        UserError: if docs/claims.yaml cannot be read.
    """
    records = Numbers(root)
    claims = read_claims(root)
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in _pages(root)}
    changed, wrong = [], []
    found: dict[int, _Found] = {}
    for index, claim in enumerate(claims):
        try:
            found[index] = _find(claim, texts.setdefault(claim.file, _read(root, claim)), records)
        except Uncheckable as error:
            wrong.append(str(error))
    for name, old in texts.items():
        here = {index: each for index, each in found.items() if each.claim.file == name}
        text, moved = _replaced(old, {each.number: each.right for each in here.values()})
        for index, each in here.items():
            start, end, first, last = map(moved, (*each.words, *each.number))
            marked = f"{text[start:first]}{{{text[first:last]}}}{text[last:end]}"
            quote = marked if "{" in each.claim.quote else text[start:end]
            claims[index] = replace(each.claim, quote=" ".join(quote.split()))
        text, unknown = _with_tables(text, records, name=name, update=True)
        wrong += unknown
        if text != old:
            (root / name).write_text(text, encoding="utf-8")
            changed.append(name)
    if claims != read_claims(root):
        write_claims(root, claims)
        changed.append(str(CLAIMS))
    return changed, wrong


def read_claims(root: Path) -> list[Claim]:
    """Return the claims of docs/claims.yaml; none if there is no such file.

    Raises:
        UserError: if it is not a list of claims.
    """
    path = root / CLAIMS
    if not path.is_file():
        return []
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except yaml.YAMLError as error:
        raise UserError(f"{CLAIMS} is not YAML: {' '.join(str(error).split())}") from error
    names = {field.name for field in fields(Claim)}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or row.keys() != names or not all(isinstance(text, str) for text in row.values()):
            raise UserError(f"{CLAIMS}, claim {number}: expected the texts {', '.join(sorted(names))}; got {row}")
    return [Claim(**row) for row in rows]


def write_claims(root: Path, claims: list[Claim]) -> None:
    """Write docs/claims.yaml, keeping the comments at its top."""
    path = root / CLAIMS
    old = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    top = "".join(old[: next((n for n, line in enumerate(old) if not line.startswith("#")), len(old))])
    rows = [asdict(claim) for claim in claims]
    path.write_text(top + yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")


def _find(claim: Claim, text: str, records: Numbers) -> _Found:
    """Return where a claim stands in its file.

    The words must match; the number itself may differ, so that a changed number is reported with its right value.
    """
    matches = list(_pattern(claim, exact=True).finditer(text)) or list(_pattern(claim, exact=False).finditer(text))
    if not matches:
        raise Uncheckable(f'{claim.file}: no such words: "{claim.quote}" ({CLAIMS})')
    if len(matches) > 1:
        raise Uncheckable(
            f'{claim.file}: these words occur {len(matches)} times, quote more: "{claim.quote}" ({CLAIMS})'
        )
    if claim.format not in FORMATS:
        raise Uncheckable(
            f'{CLAIMS}: unknown format {claim.format} of "{claim.quote}".{nearest(claim.format, FORMATS)}'
        )
    try:
        right = FORMATS[claim.format](records.number(claim.record, claim.key))
    except Uncheckable as error:
        raise Uncheckable(f'{CLAIMS}: {error} ("{claim.quote}" in {claim.file})') from None
    return _Found(claim, matches[0].span(), matches[0].span("number"), right)


def _pattern(claim: Claim, *, exact: bool) -> re.Pattern[str]:
    """Return the expression that finds a claim's words; with `exact`, its number too."""
    marked = list(_BRACES.finditer(claim.quote)) or list(_ALONE.finditer(claim.quote))
    if len(marked) != 1:
        remedy = "put the one that is meant in {braces}" if marked else "a claim needs one"
        raise Uncheckable(f'{CLAIMS}: "{claim.quote}" in {claim.file} holds {len(marked)} numbers; {remedy}')
    number = _words(marked[0].group().strip("{}")) if exact else _NUMBER
    before, after = claim.quote[: marked[0].start()], claim.quote[marked[0].end() :]
    # Where the quote begins or ends with the number, a part of a longer number does not count.
    start, end = _words(before) or r"(?<![\w.])", _words(after) or r"(?!\w)"
    return re.compile(f"{start}(?P<number>{number}){end}")


def _words(text: str) -> str:
    return re.sub(r"\s+", lambda _: r"\s+", re.sub(r"\S+", lambda word: re.escape(word[0]), text))


def _bare(number: str) -> str:
    return "".join(number.split())


def _replaced(text: str, edits: Mapping[tuple[int, int], str]) -> tuple[str, Callable[[int], int]]:
    """Return a text with spans replaced, and the function from an old position to the new one."""
    new, shifts, end = [], [], 0
    for (start, stop), right in sorted(edits.items()):
        # "< 0.0001" stays as it is spaced.
        right = text[start:stop] if _bare(text[start:stop]) == right else right
        new += [text[end:start], right]
        shifts.append((stop, len(right) - (stop - start)))
        end = stop
    return "".join([*new, text[end:]]), lambda place: place + sum(shift for stop, shift in shifts if stop <= place)


def _with_tables(text: str, records: Numbers, *, name: str, update: bool = False) -> tuple[str, list[str]]:
    """Return a text with the tables that the records give, and a line for each that is wrong or cannot be made."""
    wrong: list[str] = []
    # A marker in an example is not one.
    text = _CODE.sub(lambda code: code[0].replace("<!--", "<!\0-"), text)
    if len(_BLOCK_EDGE.findall(text)) != 2 * len(_BLOCK.findall(text)):
        wrong.append(f"{name}: a <!-- table ... --> lacks its <!-- /table -->, or names no record")

    def block(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start()) + 1
        try:
            body = records.table(match["source"], part=(match["part"] or "").strip())
        except Uncheckable as error:
            wrong.append(f"{name}:{line}: {error}")
            return match[0]
        if body != match["body"] and not update:
            wrong.append(
                f"{name}:{line}: the table does not follow from {match['source']}; `python -m tools.claims update`"
            )
        return match["open"] + body + match["close"]

    return _BLOCK.sub(block, text).replace("<!\0-", "<!--"), wrong


def _unclaimed(name: str, text: str, claimed: list[tuple[int, int]]) -> list[str]:
    """Return a line for each percentage and p-value in prose that no claim ties to a record."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    prose = _CODE.sub(blank, _BLOCK.sub(blank, text))
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]} has no claim in {CLAIMS}"
        for match in _MEASURED.finditer(prose)
        if not any(start <= match.start() < end for start, end in claimed)
    ]


def _stale_tables(root: Path) -> list[str]:
    """Return a line for each table in enhanced_figures/ that the records no longer give."""
    folder = root / "enhanced_figures"
    if not folder.is_dir() or not (root / "results").is_dir():
        return []
    wrong = []
    for name, table in all_tables(read_results(root / "results")).items():
        for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            path = folder / f"{name}.{ending}"
            if path.is_file() and path.read_text(encoding="utf-8") != text:
                wrong.append(f"{path.relative_to(root)}: does not follow from the records; `make figures`")
    return wrong


def _pages(root: Path) -> list[Path]:
    return [path for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if path.is_file()]


def _read(root: Path, claim: Claim) -> str:
    path = root / claim.file
    if not path.is_file():
        raise Uncheckable(f'{CLAIMS}: there is no file {claim.file} ("{claim.quote}")')
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
