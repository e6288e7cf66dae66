"""The tutorials run from top to bottom, and their stored outputs tell what a reader sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TUTORIALS = ("distill_your_first_latent_reasoner", "read_what_a_thought_holds")


@pytest.fixture(params=TUTORIALS)
def path(request: pytest.FixtureRequest, root: Path) -> Path:
    return root / "notebooks" / f"{request.param}.ipynb"


def test_outputs_are_stored_without_traces_of_a_machine(path: Path) -> None:
    text = path.read_text("utf-8")
    cells = json.loads(text)["cells"]
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert len(outputs) >= 4
    assert {output["output_type"] for output in outputs} == {"stream"}
    assert "Traceback" not in text and "/root/" not in text and "/home/" not in text


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_runs(path: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: make install")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(path, as_version=4)
    stored = [cell.get("outputs", []) for cell in notebook.cells]
    NotebookClient(notebook, timeout=380, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [cell.get("outputs", []) for cell in notebook.cells]
    # Every cell that has an output in the repository still has one.
    assert [bool(old) <= bool(new) for old, new in zip(stored, printed, strict=True)] == [True] * len(stored)
    texts = "".join(output.get("text", "") for outputs in printed for output in outputs)
    assert "answered" in texts and "Error" not in texts
