"""In a checkout `src.…` hands out the modules of `lrd_peft.…`; tried in new processes, as a user has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def python(code: str, *, cwd: Path, path: Path | None = None) -> str:
    """Run `code` in a new interpreter that knows no installed lrd_peft, and return what it prints."""
    # An installed (editable) package must not be what makes the alias work.
    hide = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "sys.path[:] = [p for p in sys.path if not p.endswith('/src')]\n"
    )
    if path is not None:
        hide += f"sys.path.insert(0, {str(path)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_same_module_by_both_names_whichever_comes_first(root: Path) -> None:
    for first, second in (("src", "lrd_peft"), ("lrd_peft", "src")):
        ready = "import src\n" if first == "lrd_peft" else ""
        code = (
            f"{ready}import {first}.errors, {second}.errors, src, lrd_peft, sys\n"
            "print(src.errors is lrd_peft.errors is sys.modules['src.errors'])"
        )
        assert python(code, cwd=root) == "True"


def test_same_class_through_nested_modules(root: Path) -> None:
    code = (
        "from src.data.problem import Problem as a\n"
        "from lrd_peft.data.problem import Problem as b\n"
        "from src.lrd_peft.data.problem import Problem as c\n"
        "print(a is b is c, a.__module__)"
    )
    assert python(code, cwd=root) == "True lrd_peft.data.problem"


def test_alias_leaves_the_real_module_untouched(root: Path) -> None:
    code = (
        "import src.errors, importlib\n"
        "m = importlib.import_module('lrd_peft.errors')\n"
        "print(m.__name__, m.__spec__.name, m.__package__, importlib.reload(m) is m)"
    )
    assert python(code, cwd=root) == "lrd_peft.errors lrd_peft.errors lrd_peft True"


def test_alias_works_from_another_folder(root: Path, tmp_path: Path) -> None:
    code = "from src import errors\nprint(errors.__name__)"
    assert python(code, cwd=tmp_path, path=root) == "lrd_peft.errors"


def test_unknown_module_is_named(root: Path) -> None:
    code = "try:\n    import src.nonsense\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert python(code, cwd=root) == "No module named 'src.nonsense'"


def test_public_names_are_listed_without_torch(root: Path) -> None:
    code = (
        "import src, sys, lrd_peft\n"
        "print(set(lrd_peft.__all__) <= set(dir(lrd_peft)), lrd_peft.__version__ == src.__version__)\n"
        "print('torch' in sys.modules)"
    )
    assert python(code, cwd=root) == "True True\nFalse"


def test_unknown_public_name_is_an_attribute_error() -> None:
    import lrd_peft

    with pytest.raises(AttributeError, match="nonsense"):
        _ = lrd_peft.nonsense


def test_public_names_are_the_same_objects_from_each_place(root: Path) -> None:
    homes = {
        "TeacherModel": "model",
        "StudentModel": "model",
        "create_lora_model": "lora",
        "LatentDistillationLoss": "distillation",
        "LRDPEFTTrainer": "trainer",
    }
    code = "".join(
        f"from src.{home} import {name} as a\n"
        f"from lrd_peft.{home} import {name} as b\n"
        f"from lrd_peft import {name} as c\n"
        f"from src import {name} as d\n"
        "print(a is b is c is d)\n"
        for name, home in homes.items()
    )
    # An experiment tracker that is installed may greet the import of transformers' Trainer.
    answers = [line for line in python(code, cwd=root).splitlines() if not line.startswith("[INFO]")]
    assert answers == ["True"] * len(homes)
