"""Model folders that somebody else made: damaged headers, pickles, descriptions that ask for more than they may."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lrd_peft.lora import create_lora_model
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.serialization import DESCRIPTION
from lrd_peft.model.student import StudentModel
from lrd_peft.runtime.checksums import write_checksums
from lrd_peft.runtime.errors import UserError
from tests import tiny

WEIGHTS = ("adapter_model.safetensors", "lrd_extra.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with projectors."""
    student = tiny.student()
    student.attach_projectors([2], teacher_hidden_size=24)
    folder = tmp_path_factory.mktemp("saved") / "model"
    create_lora_model(student, r=2).save_pretrained(folder)
    return folder


HEADERS = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 2**64 - 1).map(lambda length: struct.pack("<Q", length) + b"{}"),
    st.dictionaries(
        st.sampled_from(["projectors.2.weight", "projectors.2.bias", "x", "__metadata__"]),
        st.one_of(
            st.integers(),
            st.fixed_dictionaries(
                {},
                optional={
                    "dtype": st.sampled_from(["F32", "BF16", "F77", 3]),
                    "shape": st.lists(st.integers(-1, 2**63), max_size=3),
                    "data_offsets": st.lists(st.integers(-1, 2**63), max_size=3),
                },
            ),
        ),
        max_size=3,
    ).map(lambda header: struct.pack("<Q", len(json.dumps(header))) + json.dumps(header).encode() + b"\0" * 16),
)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(WEIGHTS), header=HEADERS)
def test_a_hostile_header_is_one_line(saved: Path, name: str, header: bytes) -> None:
    path = saved / name
    good = path.read_bytes()
    try:
        path.write_bytes(header)
        write_checksums(saved)  # whoever writes a bad header can write its checksum
        with pytest.raises(UserError):
            StudentModel.from_pretrained(saved)
    finally:
        path.write_bytes(good)
        write_checksums(saved)


@settings(max_examples=25, deadline=None)
@given(header=HEADERS)
def test_a_hostile_header_of_a_base_model_is_one_line(header: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "base"
    if not folder.is_dir():
        shutil.copytree(tiny.folder(), folder)
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(UserError):
        load_lm(str(folder))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None)
@given(
    key=st.sampled_from(["base", "adapter", "options", "load_options", "base_weights"]),
    value=VALUES,
)
def test_a_hostile_description_is_one_line_or_says_nothing(saved: Path, key: str, value: Any) -> None:
    path = saved / DESCRIPTION
    good = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(good), key: value}))
        write_checksums(saved)
        with contextlib.suppress(UserError):
            StudentModel.from_pretrained(saved)
    finally:
        path.write_text(good)
        write_checksums(saved)


class Planted:
    """What a pickle may hold: a call that is made when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin", "lrd_extra.bin", "training_args.bin"])
@pytest.mark.parametrize("instead", [False, True], ids=["beside", "instead"])
def test_a_pickle_in_a_saved_model_is_not_opened(saved: Path, name: str, instead: bool, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    torch.save({"weight": Planted(tmp_path / "canary")}, folder / name)
    if instead:
        (folder / "adapter_model.safetensors").unlink()
    write_checksums(folder)
    if instead:
        with pytest.raises(UserError, match="damaged"):
            StudentModel.from_pretrained(folder)
    else:
        assert StudentModel.from_pretrained(folder).has_adapters
    assert not (tmp_path / "canary").exists()


def test_a_pickle_as_base_model_is_not_opened(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.folder(), tmp_path / "model")
    canary = tmp_path / "canary"
    state = load_file(folder / "model.safetensors")
    torch.save({**state, "x": Planted(canary)}, folder / "pytorch_model.bin")
    assert load_lm(str(folder)).lm is not None  # the safetensors beside it are read
    (folder / "model.safetensors").write_bytes(pickle.dumps(Planted(canary)))  # another name does not help
    with pytest.raises(UserError, match="cannot load"):
        load_lm(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="a pickle, which could run code"):
        load_lm(str(folder))
    assert not canary.exists()


def test_a_saved_model_cannot_ask_that_code_runs(saved: Path, tmp_path: Path) -> None:
    """Its base brings code, its description says that the code is trusted: only whoever loads it may say so."""
    base = shutil.copytree(tiny.folder(), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "ours.C", "AutoModelForCausalLM": "ours.M"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "ours.py").write_text(f"import os; os.mkdir({str(tmp_path / 'canary')!r})\n")
    folder = shutil.copytree(saved, tmp_path / "model")
    description = json.loads((folder / DESCRIPTION).read_text())
    description |= {"base": str(base), "load_options": {"trust_remote_code": True}}
    (folder / DESCRIPTION).write_text(json.dumps(description))
    write_checksums(folder)
    with pytest.raises(UserError, match="Python code of its own"):
        StudentModel.from_pretrained(folder)
    assert not (tmp_path / "canary").exists()


def test_trust_is_not_saved(tmp_path: Path) -> None:
    student = StudentModel(tiny.folder(), trust_remote_code=True)
    create_lora_model(student, r=2).save_pretrained(tmp_path / "model")
    assert "trust_remote_code" not in (tmp_path / "model" / DESCRIPTION).read_text()
