"""The examples of the docstrings run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from transformers import TrainingArguments

MODULES = {
    "lrd_peft.distillation": 2,
    "lrd_peft.data.rows": 1,
    "lrd_peft.training.training_arguments": 1,
    "lrd_peft.training.projector_fit": 1,
    "lrd_peft.training.trainer": 1,
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TrainingArguments(output_dir="out", use_cpu=True)  # the first one of a process may print a line about trackers
    module = importlib.import_module(name)
    with_examples = [case for case in doctest.DocTestFinder().find(module) if case.examples]
    assert len(with_examples) >= MODULES[name]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for case in with_examples:
        runner.run(case)
    assert runner.summarize(verbose=False).failed == 0
