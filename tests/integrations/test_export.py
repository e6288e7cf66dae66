"""An exported model answers as ours does, in a process that cannot import this package."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft import StudentModel, create_lora_model, load_problems
from lrd_peft.integrations.export import export
from lrd_peft.model.generation import answer_batch
from lrd_peft.runtime.errors import UserError
from tests import tiny

pytestmark = pytest.mark.slow

_READ = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
try:
    import lrd_peft
    sys.exit("this process has our package")
except ImportError:
    pass
folder, size, prompts = sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ends, rows = set(model.generation_config.eos_token_id), []
for start in range(0, len(prompts), size):
    inputs = tokenizer(prompts[start : start + size], return_tensors="pt", padding=True)
    for row in model.generate(**inputs, max_new_tokens=16)[:, inputs["input_ids"].shape[1] :].tolist():
        rows.append(row[: next((i for i, token in enumerate(row) if token in ends), len(row))])
print(json.dumps(rows))
"""


def without_us(code: str, *arguments: str, given: str = "", cwd: Path | None = None) -> str:
    """Run Python that sees the installed packages and, as no .pth file is read, not this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(site.getsitepackages()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        input=given,
        env={**environment, "HF_MODULES_CACHE": str(cwd or Path(arguments[0]).parent / "modules")},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(model: StudentModel, questions: list[str]) -> list[list[int]]:
    rows = answer_batch(model, questions, thinking=True, max_new_tokens=16)
    return [[*model.encoder.marker, *row.tokens] for row in rows]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("tiny-latent-student", tmp_path_factory.mktemp("export") / "thinker")


@pytest.mark.parametrize("size", [25, 1])
def test_the_shipped_student_gives_the_same_tokens_on_100_problems(size: int, shipped: Path) -> None:
    questions = [problem.question_text for problem in load_problems("gsm-mini", split="test", limit=100)]
    prompts = json.dumps([f"{question}\n" for question in questions])
    found = json.loads(without_us(_READ, str(shipped), str(size), given=prompts))
    assert found == ours(StudentModel.from_pretrained("tiny-latent-student"), questions)


def test_the_snippet_of_the_card_and_the_pipeline_run(shipped: Path) -> None:
    card = (shipped / "README.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    question = "Ann has 3 pens. She buys 4 more. How many pens does Ann have now?"
    assert without_us(snippet, cwd=shipped.parent).strip().endswith("### 7")
    code = (
        "from transformers import pipeline\n"
        "made = pipeline('text-generation', model='thinker', trust_remote_code=True)\n"
        f"print(made({question + chr(10)!r}, return_full_text=False)[0]['generated_text'])"
    )
    assert without_us(code, cwd=shipped.parent).strip() == "### 7"


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "markers and mlp": {"markers": True, "projection": "mlp", "projection_width": 24},
    "linear": {"projection": "linear"},
    "pause": {"projection": "pause", "jacobi_passes": 1},
    "parallel": {"jacobi_passes": 2},
    "placeholder": {"markers": True, "placeholder": True, "jacobi_passes": 2},
}


@pytest.mark.parametrize(
    ("name", "family"), [*((name, "gpt2") for name in OPTIONS), ("plain", "llama"), ("markers and mlp", "llama")]
)
def test_every_way_to_think_is_exported(name: str, family: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    base = tmp_path / "base"
    tiny.student(family, num_thoughts=3, options=OPTIONS[name]).save_pretrained(base)
    adapted = create_lora_model(StudentModel.from_pretrained(base), r=4)
    with torch.no_grad():
        for parameter in adapted.parameters():  # an untrained adapter changes nothing
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapted")
    folder = export(str(tmp_path / "adapted"), tmp_path / "exported")
    questions = [problem.question_text for problem in tiny.problems(6)]
    found = json.loads(without_us(_READ, str(folder), "6", given=json.dumps([f"{each}\n" for each in questions])))
    assert found == ours(StudentModel.from_pretrained(tmp_path / "adapted"), questions)


def test_what_has_no_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plain language model already"):
        export("tiny-student", tmp_path / "a")
    tiny.student(num_thoughts=0).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match="answers in text"):
        export(str(tmp_path / "text"), tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
