"""Loads problems by name (offline sets, public benchmarks, files) and counts the rows that it drops."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from lrd_peft.config.choices import StepsStyle, check_choice
from lrd_peft.data.generators import SPLITS, generate_problems, is_generated
from lrd_peft.data.layouts import check_columns
from lrd_peft.data.problem import Problem
from lrd_peft.data.problem_sources import ProblemSource, is_named, open_source
from lrd_peft.data.row_parsing import problem_of, question_of
from lrd_peft.data.row_values import MalformedRow, UnusableRow
from lrd_peft.data.split_selection import SplitRows, select_split
from lrd_peft.runtime.errors import UserError, nearest

logger = logging.getLogger(__name__)

# Number of problems of an offline set without a limit.
GENERATED_SIZES = {"train": 6000, "validation": 400, "test": 1000}


@dataclass(frozen=True)
class ProblemSet(Sequence[Problem]):
    """The problems of one split, with counts of the rows that were left out.

    Attributes:
        problems: The problems.
        name: Name of the data set.
        split: Name of the split.
        num_rows: Rows that were read; reading stops at the limit. 0 for generated problems.
        elsewhere: Number of rows that belong to another split of the same source, by split.
        dropped: Number of rows that could not be used, by reason.
        notes: Number of problems by remark.
        unused_columns: Number of rows that hold something in a column that is not read, by column.
        unread_files: Files beside those of the splits that might be data.
    """

    problems: tuple[Problem, ...]
    name: str
    split: str
    num_rows: int = 0
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    unused_columns: Mapping[str, int] = field(default_factory=dict)
    unread_files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Problem, ...]: ...
    def __getitem__(self, index: int | slice) -> Problem | tuple[Problem, ...]:
        return self.problems[index]

    def report(self) -> str:
        """Summarize in one line the numbers of problems, of rows and of rows left out."""
        head = f"{self.name} {self.split}: {len(self):,} problems"
        if not self.num_rows:
            return f"{head}, generated"
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        tail = [f"{count:,} belong to {split}" for split, count in self.elsewhere.items()]
        tail.append(f"{sum(self.dropped.values()):,} dropped ({dropped})" if dropped else "0 dropped")
        tail += [f"{count:,} {note}" for note, count in self.notes.items()]
        if self.unused_columns:
            tail.append("columns not used: " + ", ".join(self.unused_columns))
        if self.unread_files:
            tail.append("files not read: " + ", ".join(self.unread_files))
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
    columns: Mapping[str, str] | None = None,
) -> ProblemSet:
    """Load the problems of one split of a data set.

    Args:
        name: `gsm-mini`, `math-mini`, `aqua-mini`, `graph-mini` (generated, offline); a named data set such as `gsm8k`
            or `svamp` (`lrd_peft.data.catalog`); any hub id, with a configuration as a third part if it has several; a
            file (JSON, JSON Lines, CSV, TSV, text, Parquet, Arrow, also with `.gz`); a folder with the files of the
            splits, or that `datasets.save_to_disk` wrote; or a union `a+b`, whose parts are concatenated in the given
            order.
        split: `train`, `validation` or `test`. If the source has no validation split, it is cut from train by a hash
            of the question, never from test. A source without splits is cut by that hash into eight tenths for train
            and one each for validation and test; `all` is the whole source. A file named `test` or `dev` is that split.
        limit: Maximum number of problems of each part of a union (None = all, or `GENERATED_SIZES` for offline sets).
        data_dir: Folder with a named data set's files. Without it, they are loaded from the hub.
        seed: Seed of the offline sets. Files keep their order.
        steps_style: `text` uses steps without calculator annotations, `equations` the annotations only.
            Problems without annotations keep their text and are counted in `notes`.
        revision: Revision of the data set on the hub.
        columns: Field of a problem -> column of the files and hub ids without a name of their own; "a+b" joins two.

    Returns:
        The problems. Rows without steps are dropped from train only; held-out problems need no steps.

    Raises:
        UserError: If a name, split, limit or column is invalid, a source is missing, a row is malformed, or no problem
            is left.
    """
    check_choice("steps_style", steps_style, StepsStyle)
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1 (None = all problems)")
    if split not in (*SPLITS, "all"):
        raise UserError(f'unknown split "{split}"; choose one of {", ".join(SPLITS)}.{nearest(split, SPLITS)}')
    folder = None if data_dir is None else Path(data_dir)

    mapping = check_columns(columns)
    names = _parts(str(name))
    if mapping and all(is_named(each) for each in names):
        raise UserError(f'columns are for files and hub ids, but those of "{name}" are known; drop columns')

    def part(name: str) -> ProblemSet:
        if is_generated(name):
            return _generated(name, split=split, limit=limit, seed=seed)
        source = open_source(name, data_dir=folder, revision=revision, columns={} if is_named(name) else mapping)
        chosen = select_split(source.openers, split=split, label=source.label)
        loaded = _collect(chosen, source, split=split, limit=limit, steps_style=steps_style)
        if loaded.unused_columns:
            advice = "; if one holds a part of the problem, name it: --columns steps=COLUMN" if not source.entry else ""
            _warn_once(f"{source.label}: columns not used: {', '.join(loaded.unused_columns)}{advice}")
        if loaded.unread_files:
            _warn_once(f"{source.label}: files not read: {', '.join(loaded.unread_files)}")
        return loaded

    parts = [part(each) for each in names]
    return parts[0] if len(parts) == 1 else _union(parts, name=str(name), split=split)


@functools.lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    """Log a warning, once in a process: a run reads its data several times."""
    logger.warning(message)


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
        unused_columns=merged(lambda part: part.unused_columns),
        unread_files=tuple(name for part in parts for name in part.unread_files),
    )


def _generated(name: str, *, split: str, limit: int | None, seed: int) -> ProblemSet:
    if split == "all":
        raise UserError(f'{name} is generated and has no split "all"; choose one of {", ".join(SPLITS)}')
    problems = generate_problems(name, split=split, num_problems=limit or GENERATED_SIZES[split], seed=seed)
    return ProblemSet(tuple(problems), name, split)


def _collect(
    chosen: SplitRows, source: ProblemSource, *, split: str, limit: int | None, steps_style: StepsStyle
) -> ProblemSet:
    problems: list[Problem] = []
    elsewhere: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    seen: set[tuple[object, ...]] = set()
    places: dict[str, str] = {}
    label, num_rows = source.label, 0
    for row in chosen.rows:
        num_rows += 1
        unused.update(row.unused)
        remarks: list[str] = []
        question = question_of(row.fields)
        owner = chosen.owner_of(question)
        try:
            problem = problem_of(
                row.fields,
                schema=row.schema,
                row_id=f"{label}/{chosen.origin}/{row.number}",
                steps_style=steps_style,
                notes=remarks,
            )
        except MalformedRow as error:  # an error regardless of the row's split
            raise UserError(f"{row.place}: {error}") from error
        except UnusableRow as error:
            (dropped if owner == split else elsewhere)[str(error) if owner == split else owner] += 1
            continue
        if owner != split:
            elsewhere[owner] += 1
            continue
        # Each question of a benchmark is used once. In other formats a question may have several solutions.
        own = row.schema in ("rows", "solution")
        key = (question, problem.options, problem.steps, problem.answer) if own else (question,)
        if split == "train" and not problem.steps:
            dropped["no steps"] += 1
        elif question in chosen.held_out:
            dropped["question also in another split"] += 1
        elif key in seen:
            dropped["duplicate row" if own else "duplicate question"] += 1
        else:
            seen.add(key)
            if problem.id in places:
                raise UserError(f'{row.place}: id "{problem.id}" is also the id of {places[problem.id]}')
            places[problem.id] = row.place
            notes.update(set(remarks))
            problems.append(_of_kind(problem, source))
            if len(problems) == limit:
                break
    result = ProblemSet(
        problems=tuple(problems),
        name=label,
        split=split,
        num_rows=num_rows,
        elsewhere=dict(elsewhere),
        dropped=dict(dropped),
        notes=dict(notes),
        unused_columns=dict(unused),
        unread_files=source.unread_files,
    )
    if not problems:
        why = result.report().partition("; ")[2] if num_rows else "the source is empty"
        remedy = "; add problems, or use a folder with a file for each split" if elsewhere else ""
        raise UserError(f"{label} {split} has no usable problem among {num_rows:,} rows: {why}{remedy}")
    return result


def _of_kind(problem: Problem, source: ProblemSource) -> Problem:
    """Return a problem of a named data set with the kind of answers that the set has."""
    kind = source.entry.stated_kind if source.entry is not None else None
    if kind is None or problem.options or problem.answer_kind is not None:
        return problem
    return replace(problem, answer_kind=kind)
