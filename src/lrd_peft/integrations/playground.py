"""What the playground's page says: answers, a table of the thoughts, and written steps."""

from __future__ import annotations

import html
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from lrd_peft.config import load_config
from lrd_peft.data import Problem, load_problems
from lrd_peft.evaluation.answers import grade, kind_of
from lrd_peft.integrations.thought_explorer import CHANGES, Answered, ThoughtExplorer
from lrd_peft.model.student import StudentModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.evaluate import load_method, missing_model
from lrd_peft.pipeline.from_config import HELD_OUT_SEED
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.errors import UserError

NUM_PROBED = 1500
"""Training problems that the probes are fitted on."""
_NUM_OFFERED = 200


class Playground:
    """What the page does, without the page.

    Args:
        model: Model that thinks, in evaluation mode.
        dataset: Data set that problems are offered from and probes fitted on.
        writer: Model that writes its steps, to compare with; None without one.
        num_probed: Training problems that the probes are fitted on; 0 for no probes.
    """

    def __init__(
        self, model: ThinkingModel, *, dataset: str, writer: ThinkingModel | None = None, num_probed: int = NUM_PROBED
    ) -> None:
        self.model, self.dataset, self.writer = model, dataset, writer
        self.problems = load_problems(dataset, split="test", limit=_NUM_OFFERED, seed=HELD_OUT_SEED).problems
        probed = load_problems(dataset, split="train", limit=num_probed).problems if num_probed else []
        self.explorer = ThoughtExplorer(model, probed=probed, dataset=dataset)
        self.by_question = {problem.question_text: problem for problem in self.problems}
        self._random = random.Random(0)

    def problem(self) -> Problem:
        """Return a held-out problem."""
        return self._random.choice(self.problems)

    def ask(self, question: str, change: str, num_thoughts: int, other: str) -> tuple[str, str, str]:
        """Answer a question twice: as trained, and with changed thoughts.

        Args:
            question: The question.
            change: Key of `CHANGES`.
            num_thoughts: Thoughts of the second answer.
            other: The question whose thoughts are taken, where `change` is "other".

        Returns:
            Both answers as Markdown, a table of the thoughts as HTML, and the written steps as Markdown.
        """
        own = self.explorer.answer(question)
        count = self.model.options.num_thoughts
        same = change == "own" and num_thoughts == count
        changed = own if same else self.explorer.answer(question, change=change, num_thoughts=num_thoughts, other=other)
        lines = [self._line(f"with its own {counted(count)}", own, question)]
        if not same:
            # Without thoughts there are none of any kind.
            shown = 0 if change == "none" else num_thoughts
            kind = "" if change in ("own", "none") else f", replaced by {CHANGES[change]}"
            lines.append(self._line(f"with {counted(shown)}{kind}", changed, question))
        return "\n\n".join(lines), self.table(changed), self.steps(question)

    def table(self, answered: Answered) -> str:
        """Return what is read in each thought, as an HTML table; probes with their held-out accuracy."""
        if not answered.thoughts:
            return "<p>There are no thoughts.</p>"
        columns = ["", "norm", "the LM head reads", *map(html.escape, map(self._header, self.explorer.readers))]
        rows = ["".join(f"<th>{column.replace(chr(10), '<br>')}</th>" for column in columns)]
        for number, thought in enumerate(answered.thoughts, start=1):
            tokens = " · ".join(f"{token.strip() or repr(token)} {share:.0%}" for token, share in thought.tokens)
            read = [thought.read.get(name, "–") for name in self.explorer.readers]
            cells = [f"thought {number}", f"{thought.norm:.3g}", tokens, *read]
            rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
        return f"<div class='scrolls'><table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"

    def steps(self, question: str) -> str:
        """Return what a writing model writes for a question, and a known problem's reference steps."""
        problem, parts = self.by_question.get(question), []
        if self.writer is not None:
            (text,) = self.writer.generate([question], max_new_tokens=160, num_thoughts=0)
            parts.append("**The teacher writes**\n\n" + _code(text.splitlines()))
        if problem is not None:
            parts.append(f"**Reference**\n\n{_code([*problem.steps, f'### {problem.answer}'])}")
        return "\n\n".join(parts)

    def _header(self, name: str) -> str:
        readers = [reader for reader in self.explorer.readers[name] if reader is not None]
        best = max(readers, key=lambda reader: reader.accuracy)
        return f"{name}\n({best.accuracy:.0%}, guess {best.majority:.0%})"

    def _line(self, how: str, answered: Answered, question: str) -> str:
        problem, verdict = self.by_question.get(question), ""
        if problem is not None:
            right = grade(kind_of(problem), f"### {answered.answer}", problem.answer).right
            verdict = "right, " if right else f"wrong (it is {problem.answer}), "
        facts = f"{verdict}{answered.probability:.0%} sure, {answered.num_passes} passes"
        return f"<b>{html.escape(answered.answer) or '(nothing)'}</b> {how}: {facts}"


def load_playground(target: str, *, dataset: str | None = None, num_probed: int = NUM_PROBED) -> Playground:
    """Load what is played with.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        dataset: Data set that problems are offered from (None: that of the run; gsm-mini for a saved model).
        num_probed: Training problems that the probes are fitted on; 0 for no probes.

    Raises:
        UserError: If there is no model that thinks.
    """
    model = StudentModel.from_pretrained(target, device="cuda" if torch.cuda.is_available() else None)
    if not model.is_saved:
        raise UserError(
            f"{target} is a plain language model that has not learned to think; name a run, or a model that it saved"
        )
    writer, root = None, Path(target)
    if (root / "config.yaml").is_file():
        config, run = load_config(yaml_path=root / "config.yaml"), RunPaths(root)
        dataset = dataset or config.evaluated_datasets[0]
        if not missing_model("teacher-cot", config, run):
            writer = load_method("teacher-cot", config, run).eval().to(model.device)
    return Playground(model, dataset=dataset or "gsm-mini", writer=writer, num_probed=num_probed)


def counted(number: int) -> str:
    """Return a number of thoughts in words."""
    return f"{number or 'no'} thought{'s' if number != 1 else ''}"


def _code(lines: Sequence[str]) -> str:
    return "```text\n" + "\n".join(line.replace("```", "'''") for line in lines) + "\n```"
