"""The files that a repository host reads: they parse, and what they name exists."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

import lrd_peft
from lrd_peft.cli.app import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_citation_is_that_of_this_version_and_of_the_readme() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == lrd_peft.__version__ and cited["license"] == "MIT"
    assert cited["title"] in (ROOT / "README.md").read_text("utf-8")


def test_a_report_of_a_fault_asks_for_what_lrd_env_prints(capsys: pytest.CaptureFixture[str]) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))
    asked = {part["id"]: part for part in form["body"]}
    assert "`lrd env`" in asked["env"]["attributes"]["label"] and asked["env"]["validations"]["required"]
    assert not main(["env"])
    printed = capsys.readouterr().out
    for name in ("lrd-peft:", "torch:", "transformers:", "processor:", "threads:", "BLAS:", "devices:"):
        assert name in printed
    assert os.uname().nodename not in printed and str(Path.home()) not in printed


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_here(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for command in re.findall(r"/lrd (\w+)", "\n".join(steps)):
        assert command in COMMANDS
    for script in re.findall(r"^(\.\S+)", "\n".join(steps), re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK), script


def test_the_image_copies_what_is_here_and_the_container_has_its_target() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
