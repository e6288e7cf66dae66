"""The private parts of transformers that the trainer relies on are in the installed release, with these signatures."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from transformers import Trainer

from lrd_peft.training.overrides import ATTRIBUTES, OVERRIDDEN, ResumableTrainer
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from lrd_peft.training.trainer import LRDPEFTTrainer
from tests.training.small import trainer


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_has_the_parameters_of_transformers_own(name: str) -> None:
    for kind in (Trainer, ResumableTrainer):
        assert name in vars(kind)
        assert tuple(inspect.signature(getattr(kind, name)).parameters)[1:] == OVERRIDDEN[name], kind


def test_every_overridden_private_method_is_named() -> None:
    private = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    assert private & vars(ResumableTrainer).keys() == OVERRIDDEN.keys()
    for kind in (ThinkingTrainer, LRDPEFTTrainer):
        assert not private & vars(kind).keys()


def test_every_private_attribute_of_transformers_is_named() -> None:
    source = inspect.getsource(ResumableTrainer)
    theirs = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(Trainer)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    ours = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    private = {name for name in ours & theirs if name.startswith("_")} - OVERRIDDEN.keys()
    assert private <= set(ATTRIBUTES)
    assert set(ATTRIBUTES) <= theirs


def test_a_trainer_has_these_attributes(tmp_path: Path) -> None:
    run = trainer(tmp_path, distill_alpha=0.0)
    run.train()
    for name in ATTRIBUTES:
        assert hasattr(run, name), name
