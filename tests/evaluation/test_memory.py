"""How many problems are answered at a time: by estimate, and by experience where memory ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrd_peft.model.loop import unwrap
from lrd_peft.model.memory import rows_that_fit
from tests import tiny

# The process may take so many bytes more than it has when all is loaded.
LIMITED = """
import resource, sys, psutil
from lrd_peft.cli.app import main
from lrd_peft.evaluation.score import score
from lrd_peft.model.generation import answer_batch
from tests import tiny

model, problems = tiny.student(), tiny.problems(16)
options = dict(thinking=True, max_new_tokens=4)
expected = score(model, problems, batch_size=16, **options)
limit = psutil.Process().memory_info().vms + {more}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
ANSWER = """
try:
    answer_batch(model, [problem.question_text for problem in problems * 256], **options)
except RuntimeError as error:
    assert "can't allocate memory" in str(error)
    print("full")
found = score(model, problems * 256, batch_size=4096, **options)
assert [(row.predicted, row.num_tokens) for row in found] == 256 * [(row.predicted, row.num_tokens) for row in expected]
print("answered")
"""


def run(root: Path, code: str, *, more: int) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(root), str(root / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LIMITED.format(more=more) + code]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("family", "per_row"),
    # keys and values of 3 blocks; a block's activations and mask over the question; three times the logits
    [
        ("llama", 4 * 2 * 3 * 8 * 20 + 4 * 10 * (4 * 16 + 2 * 16 + 2 * 32 + 20)),
        ("gpt2", 4 * 2 * 3 * 16 * 20 + 4 * 10 * (4 * 16 + 2 * 16 + 2 * 64 + 20)),
    ],
)
def test_rows_that_fit_by_hand(family: str, per_row: int) -> None:
    lm = unwrap(tiny.student(family).lm)
    per_row += 12 * lm.config.vocab_size
    for free, rows in ((200 * per_row, 100), (200 * per_row - 2, 99), (0, 1)):
        assert rows_that_fit(lm, question=10, positions=20, free=free) == rows
    lm = lm.bfloat16()
    half = (per_row - 12 * lm.config.vocab_size) // 2 + 12 * lm.config.vocab_size
    assert rows_that_fit(lm, question=10, positions=20, free=2 * half) == 1


def test_this_machine_has_room_for_some() -> None:
    assert rows_that_fit(unwrap(tiny.student().lm), question=10, positions=20) > 100


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_a_batch_that_memory_does_not_hold_is_answered_in_parts(root: Path) -> None:
    done = run(root, ANSWER, more=120 * 2**20)
    assert (done.returncode, done.stdout) == (0, "full\nanswered\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_a_training_that_memory_does_not_hold_says_what_to_do(root: Path, tmp_path: Path) -> None:
    arguments = ["train-teacher", "--output_dir", str(tmp_path / "run"), "--device", "cpu", "--num_threads", "1"]
    arguments += ["--num_train_problems", "4000", "--num_validation_problems", "0", "--teacher_batch_size", "4000"]
    done = run(root, f"sys.exit(main({arguments}))", more=600 * 2**20)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lrd: error")]
    assert "out of memory; finished phases are kept. Reduce teacher_batch_size" in line
    assert "Traceback" not in done.stderr
