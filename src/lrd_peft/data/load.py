"""Problems by name: offline sets, public benchmarks, files; what is dropped is counted. Knows no tokens."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from lrd_peft.data.generators import SETS, SPLITS, generate
from lrd_peft.data.problem import Problem
from lrd_peft.data.readers import (
    STEPS_STYLES,
    MalformedRow,
    Schema,
    StepsStyle,
    UnusableRow,
    problem_of,
    question_of,
    schema_of,
)
from lrd_peft.data.sources import (
    BENCHMARKS,
    Openers,
    Row,
    file_openers,
    folder_openers,
    hub_openers,
    local_openers,
)
from lrd_peft.data.splits import Chosen, choose
from lrd_peft.errors import UserError, nearest

# How many problems of an endless set `limit=None` means.
GENERATED_SIZES = {"train": 8000, "validation": 400, "test": 1000}


@dataclass(frozen=True)
class ProblemSet(Sequence[Problem]):
    """The problems of one split, and what became of the rows that are not among them.

    Attributes:
        num_rows: rows read; with a limit, reading stops when it is reached. 0 for generated problems.
        elsewhere: rows that belong to another split of the same source, by split.
        dropped: rows that could not be used, by reason.
        notes: remarks on problems that are among them, with their number.
    """

    problems: tuple[Problem, ...]
    name: str
    split: str
    num_rows: int = 0
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Problem, ...]: ...
    def __getitem__(self, index: int | slice) -> Problem | tuple[Problem, ...]:
        return self.problems[index]

    def report(self) -> str:
        """Return one plain line: how many problems, of how many rows, and where the other rows went."""
        head = f"{self.name} {self.split}: {len(self):,} problems"
        if not self.num_rows:
            return f"{head}, generated"
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        tail = [f"{count:,} belong to {split}" for split, count in self.elsewhere.items()]
        tail.append(f"{sum(self.dropped.values()):,} dropped ({dropped})" if dropped else "0 dropped")
        tail += [f"{count:,} {note}" for note, count in self.notes.items()]
        return f"{head} from {self.num_rows:,} rows read; {'; '.join(tail)}"


def load_problems(
    name: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    steps_style: StepsStyle = "text",
    revision: str | None = None,
) -> ProblemSet:
    """Load the problems of one split of a data set.

    Args:
        name: `gsm-mini`, `math-mini`, `aqua-mini` (generated, offline); `gsm8k`, `math`, `aqua`, `gsm8k-aug`
            or their hub ids; a `.jsonl` file or a folder with `train.jsonl`, `validation.jsonl`, `test.jsonl`
            (rows with question, steps and answer, or in a benchmark's own schema); or a union `a+b`, whose
            parts follow one another in the order given.
        split: `train`, `validation` or `test`. A source without validation has it cut from train by a hash of
            the question, never from test. A single file is cut by that hash into eight tenths train, one
            validation and one test; `all` is the whole file. A file named `test` or `dev` is that split.
        limit: the first so many problems, of each part of a union. None means all (of the endless sets,
            `GENERATED_SIZES`).
        data_dir: the folder with a benchmark's files; without it, benchmarks come from the hub.
        seed: which problems are drawn of the generated sets. Files keep their order.
        steps_style: GSM8K's steps as its `text` without calculator annotations, or only the `equations` in
            them; a problem without any keeps its text, which is counted in `notes`.
        revision: of the data set on the hub.

    Rows without steps are dropped from train alone; a held-out problem needs none.

    Raises:
        UserError: if a name, split or limit is impossible, a source is missing, a row is malformed, or no
            problem is left.
    """
    if steps_style not in STEPS_STYLES:
        known, hint = ", ".join(STEPS_STYLES), nearest(steps_style, STEPS_STYLES)
        raise UserError(f'unknown steps_style "{steps_style}"; there are {known}.{hint}')
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1, or None for all problems")
    if split not in (*SPLITS, "all"):
        raise UserError(f'unknown split "{split}"; there are {", ".join(SPLITS)}.{nearest(split, SPLITS)}')
    folder = None if data_dir is None else Path(data_dir)

    def part(name: str) -> ProblemSet:
        if name in SETS:
            return _generated(name, split=split, limit=limit, seed=seed)
        label, schema, openers = _source(name, folder, revision)
        chosen = choose(openers, split=split, label=label)
        return _collect(chosen, label=label, split=split, schema=schema, limit=limit, steps_style=steps_style)

    names = _parts(str(name))
    parts = [part(each) for each in names]
    return parts[0] if len(parts) == 1 else _union(parts, name=str(name), split=split)


def _parts(name: str) -> list[str]:
    if "+" not in name or os.path.exists(name):
        return [name]
    parts = [part.strip() for part in name.split("+")]
    if not all(parts):
        raise UserError(f'"{name}" has an empty part; a union is written "gsm8k+math"')
    twice = [part for part, count in Counter(parts).items() if count > 1]
    if twice:
        raise UserError(f'"{name}" names "{twice[0]}" twice')
    return parts


def _union(parts: list[ProblemSet], *, name: str, split: str) -> ProblemSet:
    def merged(which: Callable[[ProblemSet], Mapping[str, int]]) -> dict[str, int]:
        return {f"{part.name}: {key}": count for part in parts for key, count in which(part).items()}

    labels = Counter(part.name for part in parts)
    if len(labels) < len(parts):
        again = labels.most_common(1)[0][0]
        raise UserError(f'two parts of "{name}" are called "{again}"; drop one or rename its file')
    return ProblemSet(
        problems=tuple(problem for part in parts for problem in part),
        name=name,
        split=split,
        num_rows=sum(part.num_rows for part in parts),
        elsewhere=merged(lambda part: part.elsewhere),
        dropped=merged(lambda part: part.dropped),
        notes=merged(lambda part: part.notes),
    )


def _generated(name: str, *, split: str, limit: int | None, seed: int) -> ProblemSet:
    if split == "all":
        raise UserError(f'{name} is endless and has no split "all"; there are {", ".join(SPLITS)}')
    problems = generate(name, split=split, num_problems=limit or GENERATED_SIZES[split], seed=seed)
    return ProblemSet(tuple(problems), name, split)


def _source(name: str, data_dir: Path | None, revision: str | None) -> tuple[str, Schema | None, Openers]:
    """Return the label of a set, its schema (None: recognised from the first row) and its openers."""
    benchmark = BENCHMARKS.get(name)
    if benchmark is not None:
        if data_dir is None:
            return benchmark.name, benchmark.schema, hub_openers(benchmark, revision=revision)
        return benchmark.name, benchmark.schema, local_openers(benchmark, data_dir)
    # os.path: a name too long or a folder without permission is no file, not an exception.
    for path in [Path(name), *([data_dir / name] if data_dir is not None else [])]:
        if os.path.isfile(path):
            return path.stem, None, file_openers(path)
        if os.path.isdir(path):
            openers = folder_openers(path)
            if not openers:
                raise UserError(f'folder "{path}" holds no train.jsonl, validation.jsonl or test.jsonl')
            return path.resolve().name, None, openers
    if Path(name).suffix in (".jsonl", ".json", ".tsv") or name.startswith((".", "/", "~")):
        raise UserError(f'no file "{name}"' + (f' here or in "{data_dir}"' if data_dir is not None else ""))
    known = [*SETS, *BENCHMARKS]
    hint = nearest(name.lower(), known)
    raise UserError(f'unknown data set "{name}"; there are {", ".join(known)}, or a .jsonl file.{hint}')


def _collect(
    chosen: Chosen,
    *,
    label: str,
    split: str,
    schema: Schema | None,
    limit: int | None,
    steps_style: StepsStyle,
) -> ProblemSet:
    problems: list[Problem] = []
    elsewhere: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    seen: set[tuple[object, ...]] = set()
    places: dict[str, str] = {}
    num_rows = 0
    for row in chosen.rows:
        num_rows += 1
        question = question_of(row.fields)
        owner = chosen.owner_of(question)
        try:
            schema = schema or schema_of(row.fields)
            row_id = f"{label}/{chosen.origin}/{row.number}"
            problem = problem_of(row.fields, schema=schema, row_id=row_id, steps_style=steps_style)
        except MalformedRow as error:  # an error in whichever split the row would be
            raise UserError(f"{row.place}: {error}") from error
        except UnusableRow as error:
            (dropped if owner == split else elsewhere)[str(error) if owner == split else owner] += 1
            continue
        if owner != split:
            elsewhere[owner] += 1
            continue
        # A benchmark's question counts once; our own format may hold several solutions of one question.
        key = (question, problem.options, problem.steps, problem.answer) if schema == "rows" else (question,)
        if split == "train" and not problem.steps:
            dropped["no steps"] += 1
        elif question in chosen.held_out:
            dropped["question also in another split"] += 1
        elif key in seen:
            dropped["duplicate row" if schema == "rows" else "duplicate question"] += 1
        else:
            seen.add(key)
            if problem.id in places:
                raise UserError(f'{row.place}: id "{problem.id}" is already that of {places[problem.id]}')
            places[problem.id] = row.place
            if steps_style == "equations" and schema != "rows" and not _has_equations(row):
                notes["without equations, steps kept as text"] += 1
            problems.append(problem)
            if len(problems) == limit:
                break
    result = ProblemSet(tuple(problems), label, split, num_rows, dict(elsewhere), dict(dropped), dict(notes))
    if not problems:
        why = result.report().partition("; ")[2] if num_rows else "the source is empty"
        raise UserError(f"{label} {split} has no usable problem among {num_rows:,} rows: {why}")
    return result


def _has_equations(row: Row) -> bool:
    return "<<" in str(row.fields.get("answer", ""))
