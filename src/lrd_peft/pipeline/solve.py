"""`lrd solve`: answer questions with the student of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.from_config import quiet_libraries


def solve(run: Path, questions: Sequence[str]) -> str:
    """Answer questions and show the reasoning behind each answer.

    Args:
        run: Run folder.
        questions: Questions in plain text.

    Returns:
        One block of lines per question: the tokens that the LM head ranks highest in each thought, or the text that a
        student without thoughts wrote; then the answer and the number of model passes.
    """
    quiet_libraries()
    student = StudentModel.from_pretrained(run)
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
