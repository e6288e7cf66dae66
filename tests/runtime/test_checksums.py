"""Checksums of folders and sealed JSON: every change is noticed, and what has not changed is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.runtime.checksums import folder_damages, write_checksums
from lrd_peft.runtime.json_files import read_sealed, seal, unseal, write_sealed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(body=st.dictionaries(st.text().filter(lambda key: key != "seal"), JSON, max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_sealed_file_comes_back(body: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    write_sealed(path, body)
    assert read_sealed(path) == json.loads(json.dumps(body))


def test_any_changed_digit_breaks_the_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"right": [1, 22, 0.5], "n": 3})
    good = path.read_bytes()
    for at, byte in enumerate(good):
        if chr(byte).isalnum():
            path.write_bytes(good[:at] + (b"7" if byte != ord("7") else b"8") + good[at + 1 :])
            assert read_sealed(path) is None, path.read_bytes()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff", "[" * 100_000], ids=lambda text: text[:5] or "empty")
def test_what_is_no_sealed_file_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    assert read_sealed(path) is None
    assert read_sealed(tmp_path / "none.json") is None


def test_every_damage_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"12345")
    (folder / "sub" / "b").write_bytes(b"")
    assert folder_damages(folder) == ["f/files.json is missing"]
    write_checksums(folder)
    assert folder_damages(folder) == []
    (folder / "more").write_text("files that nobody promised are no damage")
    assert folder_damages(folder) == []
    (folder / "a").write_bytes(b"12346")
    (folder / "sub" / "b").unlink()
    first, second = folder_damages(folder)
    assert first.startswith("f/a is damaged: checksum ")
    assert second == "f/b cannot be read: No such file or directory"
    (folder / "a").write_bytes(b"1234")
    assert folder_damages(folder)[0] == "f/a has 4 bytes, not 5"
    (folder / "files.json").write_text("{}x")
    assert folder_damages(folder) == ["f/files.json is damaged"]
    assert folder_damages(tmp_path / "none") == ["none is missing"]


@given(st.binary(max_size=200))
def test_any_bytes_are_not_sealed(data: bytes) -> None:
    assert unseal(data) is None


@given(
    body=st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text() | st.integers()).filter(
        lambda d: "seal" not in d
    ),
    line=st.booleans(),
)
def test_sealed_json_comes_back_and_no_byte_of_it_can_change(body: dict[str, Any], line: bool) -> None:
    data = seal(body, line=line)
    assert data.endswith(b"\n") and (not line or data.count(b"\n") == 1)
    assert unseal(data) == {
        key: None if value in (float("inf"), -float("inf")) else value for key, value in body.items()
    }
    for place in {0, len(data) // 2, len(data) - 2, len(data) - 1}:
        damaged = bytearray(data)
        damaged[place] ^= 1
        assert unseal(bytes(damaged)) is None
