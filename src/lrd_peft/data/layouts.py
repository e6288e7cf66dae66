"""Recognizes which columns of a row hold its question, steps, options and answer, and renames them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from lrd_peft.config.choices import ProblemField
from lrd_peft.data.gold import gold_number
from lrd_peft.data.row_parsing import RowSchema, has_answer_marker
from lrd_peft.data.row_values import MalformedRow, listed
from lrd_peft.runtime.errors import UserError, nearest

PROBLEM_FIELDS: tuple[str, ...] = get_args(ProblemField)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a published format.

    Attributes:
        name: Name, for messages.
        columns: Field of a problem -> the column that holds it; "body+question" joins two texts.
        schema: Schema of the renamed row.
        cleans_answers: Whether answers are numbers with remarks or units of currency, as in "9 (apples)".
        also: Further columns that the schema reads, if there are any.
    """

    name: str
    columns: Mapping[str, str]
    schema: RowSchema = "rows"
    cleans_answers: bool = False
    also: frozenset[str] = field(default_factory=frozenset)

    @property
    def required(self) -> set[str]:
        """Names of the columns that make a row one of this layout."""
        return {part for column in self.columns.values() for part in column.split("+")}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_OWN = frozenset({*PROBLEM_FIELDS, "answer_kind", "hidden_states"})
# The first layout whose columns are all there is taken.
LAYOUTS: tuple[Layout, ...] = (
    Layout("rows", _same("question", "steps", "answer"), also=_OWN),
    Layout("aqua", _same("question", "options", "rationale", "correct"), "aqua"),
    Layout("math", _same("problem", "solution"), "math", also=frozenset({"answer", "subject", "type"})),
    Layout("svamp", {"question": "Body+Question", "steps": "Equation", "answer": "Answer"}, cleans_answers=True),
    Layout("asdiv", {"question": "body+question", "steps": "formula", "answer": "answer"}, cleans_answers=True),
    Layout("commonsenseqa", {"question": "question", "options": "choices", "answer": "answerKey"}),
    Layout("prontoqa", {"question": "context+question", "options": "options", "answer": "answer"}),
    Layout("gsm8k-aug", {"question": "question", "steps": "cot", "answer": "answer"}, also=_OWN),
    Layout("strategyqa", {"question": "question", "steps": "facts", "answer": "answer"}),
    Layout("gsm-hard", {"question": "input", "answer": "target"}, cleans_answers=True),
    Layout("multiarith", {"question": "question", "answer": "final_ans"}, cleans_answers=True),
    Layout("mawps", {"question": "sQuestion", "steps": "lEquations", "answer": "lSolutions"}, cleans_answers=True),
    Layout("calc-mawps", {"question": "question", "steps": "equation", "answer": "result"}, cleans_answers=True),
    Layout("metamath", {"question": "query", "answer": "response"}, "solution"),
    Layout("choices", {"question": "question", "options": "choices", "answer": "answer"}, also=_OWN),
    *(
        Layout(name, {"question": "question", "steps": name, "answer": "answer"}, also=_OWN)
        for name in ("solution", "rationale", "reasoning", "explanation")
    ),
    Layout("problem and answer", {"question": "problem", "answer": "answer"}),
    Layout("question and answer", _same("question", "answer"), also=_OWN),
)
# Columns that describe a row and hold no part of a problem.
_DESCRIPTIONS = frozenset(
    {"id", "idx", "index", "uid", "qid", "unique_id", "level", "type", "subject", "grade", "source", "solution_type"}
    | {"unnamed: 0", "iindex", "hidden_states", "split", "metadata", ""}
)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the rows of one source become rows of a schema.

    Attributes:
        layout: Layout of the rows after `columns` was applied.
        columns: Field of a problem -> column, as the user named them.
        has_solutions: Whether answers are solutions that end in the answer ("... #### 18").
    """

    layout: Layout
    columns: Mapping[str, str] = field(default_factory=dict)
    has_solutions: bool = False

    @property
    def schema(self) -> RowSchema:
        """Schema of the arranged rows."""
        return "solution" if self.has_solutions else self.layout.schema

    def arrange(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the names of its schema.

        Raises:
            MalformedRow: If a column that was named does not exist, or texts to join are no texts.
        """
        renamed = _renamed(fields, self.columns)
        mapped = {name: column for name, column in self.layout.columns.items() if column != name}
        taken = {part for column in mapped.values() for part in column.split("+")}
        found = {name: value for name, value in renamed.items() if name not in taken}
        found |= {name: _joined(renamed, column) for name, column in mapped.items()}
        if self.layout.cleans_answers and isinstance(found.get("answer"), str):
            found["answer"] = gold_number(found["answer"]) or found["answer"]
        return found

    def unused(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the columns of a row that hold something and are not read."""
        named = {part for column in self.columns.values() for part in _parts(fields, column)}
        used = (self.layout.required | self.layout.also) - self.columns.keys() | named
        described = _DESCRIPTIONS - self.columns.keys()
        return [
            name
            for name, value in fields.items()
            if name not in used and name.casefold() not in described and value not in (None, "", [], {})
        ]


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Return a column mapping after checking that it maps fields of a problem.

    Raises:
        UserError: If a field does not exist, or two fields share a column.
    """
    mapping = dict(columns or {})
    for name in mapping:
        if name not in PROBLEM_FIELDS:
            raise UserError(
                f'columns maps "{name}", but a problem has {", ".join(PROBLEM_FIELDS)}.{nearest(name, PROBLEM_FIELDS)} '
                'Write the field first: columns={"question": "name of your column"}'
            )
    twice = next((name for name in mapping.values() if list(mapping.values()).count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f'columns names "{twice}" for {" and ".join(k for k in mapping if mapping[k] == twice)}; keep one'
        )
    return mapping


def arrangement_of(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None = None, *, schema: RowSchema | None = None
) -> Arrangement:
    """Recognize how rows are laid out.

    Args:
        rows: The first rows of a source.
        columns: Field of a problem -> column, where the user named them.
        schema: Schema that the rows must have; rows with `steps` may have our own instead.

    Raises:
        MalformedRow: If the columns match no layout, or a named column does not exist.
    """
    columns = columns or {}
    seen = list(rows)
    renamed = [_renamed(row, columns) for row in seen]
    names = dict.fromkeys(name for row in renamed for name in row)
    if schema is not None and not ({"question", "steps"} <= names.keys()):
        layout = next((each for each in LAYOUTS if each.schema == schema), None)
        return Arrangement(layout or Layout(schema, _same("question", "answer"), schema), columns)
    layout = _layout_of(names, columns)
    marked = any(_is_solution(row, layout) for row in renamed)
    return Arrangement(layout, columns, has_solutions=marked and layout.schema == "rows")


def _layout_of(names: Collection[str], columns: Mapping[str, str]) -> Layout:
    if {"question", "answer"} <= columns.keys():
        return Layout("columns", _same("question", "answer"), also=_OWN)
    found = next((layout for layout in LAYOUTS if layout.required <= set(names)), None)
    if found is not None:
        return found
    if "question" in names and "steps" in names:
        return LAYOUTS[0]  # the row lacks its answer, and the reader says so
    known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.required))}" for layout in LAYOUTS[:3])
    raise MalformedRow(
        f"columns {listed(names)} match no known schema; the schemas are {known}, and those of the named data sets. "
        "Name your columns: --columns question=COLUMN answer=COLUMN steps=COLUMN"
    )


def _is_solution(row: Mapping[str, Any], layout: Layout) -> bool:
    answer = row.get(layout.columns["answer"]) if "answer" in layout.columns else None
    has_steps = row.get(layout.columns.get("steps", "steps")) not in (None, "", [])
    return isinstance(answer, str) and has_answer_marker(answer) and not has_steps


def _renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    if not columns:
        return dict(fields)
    taken = {part for column in columns.values() for part in _parts(fields, column)}
    rest = {name: value for name, value in fields.items() if name not in taken and name not in columns}
    for name, column in columns.items():
        for part in _parts(fields, column):
            if part not in fields:
                hint = nearest(part, map(str, fields))
                raise MalformedRow(f'no column "{part}" for "{name}"; the columns are {listed(fields)}.{hint}')
    return rest | {name: _joined(fields, column) for name, column in columns.items()}


def _parts(fields: Mapping[str, Any], column: str) -> list[str]:
    return [column] if column in fields else column.split("+")


def _joined(fields: Mapping[str, Any], column: str) -> Any:
    """Return a column, or the texts of several joined by spaces."""
    parts = _parts(fields, column)
    if len(parts) == 1:
        return fields.get(column)
    texts = [fields.get(part) or "" for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedRow(f"the columns {', '.join(parts)} must be texts")
    return " ".join(text.strip() for text in texts if text.strip())
