"""Answers questions with the student of a run. Knows no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrd_peft.model.models import StudentModel
from lrd_peft.run_inputs import quiet_libraries


def solve(run: Path, questions: Sequence[str]) -> str:
    """Return each question's answer, and for each thought the tokens that the LM head reads in it, or what it wrote."""
    quiet_libraries()
    student = StudentModel.from_run(run)
    blocks = []
    for solution in student.solve(questions):
        lines = [f"question: {solution.question}"]
        for number, tokens in enumerate(solution.thoughts, start=1):
            lines.append(f"thought {number}: {'  '.join(repr(token.strip() or token) for token in tokens)}")
        if not solution.thoughts:
            lines.append(f"written: {solution.text}")
        lines.append(f"answer: {solution.answer}   ({solution.num_passes} model passes)")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
