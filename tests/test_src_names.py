"""SPEC.md's import names, `from src.model import ...`: the package's own classes, installed or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = {
    "model": ("TeacherModel", "StudentModel"),
    "lora": ("create_lora_model",),
    "distillation": ("LatentDistillationLoss",),
    "trainer": ("LRDPEFTTrainer",),
    "utils": ("load_problems", "Problem"),
}
# An installed (editable) package must not be what makes the names work.
HIDE = (
    "import sys\n"
    "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    "sys.path[:] = [p for p in sys.path if not p.endswith('/src')]\n"
)


def test_the_names_of_the_specification_are_the_package_s_own(root: Path) -> None:
    code = HIDE + "import importlib\n"
    for module, names in NAMES.items():
        for name in names:
            code += (
                f"assert importlib.import_module('src.{module}').{name} is importlib.import_module('lrd_peft').{name}\n"
            )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_tool_does_not_take_src_for_a_package(root: Path) -> None:
    assert not (root / "src" / "__init__.py").exists()
