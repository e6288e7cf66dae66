"""The examples in the docstrings of the public names run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

# Module -> the names that have an example.
MODULES = {
    "lrd_peft.lora": {"create_lora_model"},
    "lrd_peft.model.thinking_model": {
        "ThinkingModel.from_pretrained",
        "ThinkingModel.generate",
        "ThinkingModel.prompt_embeds",
        "ThinkingModel.save_pretrained",
        "ThinkingModel.solve",
    },
    "lrd_peft.model.loop": {"think"},
    "lrd_peft.model.options": {"ThinkingOptions"},
    "lrd_peft.model.student": {"StudentModel"},
    "lrd_peft.model.teacher": {"TeacherModel"},
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    cases = [case for case in doctest.DocTestFinder().find(module) if case.examples]
    assert {case.name.removeprefix(f"{name}.") for case in cases} == MODULES[name]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for case in cases:
        runner.run(case)
    assert runner.summarize(verbose=False).failed == 0
