"""Publishing and loading through a hub: what is pushed comes back, and what cannot be reached is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrd_peft.lora import create_lora_model
from lrd_peft.runtime.errors import UserError
from tests import tiny
from tests.model.local_hub import COMMIT, LocalHub
from tests.test_lora import randomise

# Run where the address of the hub is read: at the import of huggingface_hub.
CODE = """
import sys
from lrd_peft import StudentModel, TeacherModel, UserError
folder, questions = sys.argv[1], ["what is 2 plus 3 ?"]
student = StudentModel.from_pretrained(folder)
print(student.push_to_hub("me/student", private=True, token="secret", commit_message="First"))
again = StudentModel.from_pretrained("me/student")
print(again.generate(questions, max_new_tokens=5) == student.generate(questions, max_new_tokens=5))
print(again.has_adapters, again.options == student.options, again.is_saved)
teacher = TeacherModel(student.base)
teacher.save_pretrained(sys.argv[2], push_to_hub=True, repo_id="me/teacher", token="secret")
loaded = TeacherModel.from_pretrained("me/teacher")
print(loaded.base, loaded.fingerprints() == teacher.fingerprints())
plain = StudentModel.from_pretrained("me/plain")
print(plain.is_saved, plain.source)
for name in ("me/nothing", "me/teacher"):
    try:
        StudentModel.from_pretrained(name, revision="v2" if name == "me/nothing" else None)
    except UserError as error:
        print(error)
"""


def run(code: str, *arguments: str, address: str, cache: Path) -> str:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_is_pushed_comes_back(tmp_path: Path) -> None:
    student = create_lora_model(tiny.student(), r=2)
    randomise(student)
    student.attach_projectors([1], teacher_hidden_size=32)
    student.save_pretrained(tmp_path / "student")
    with LocalHub() as hub:
        hub.files["me/plain"] = {path.name: path.read_bytes() for path in Path(tiny.folder()).iterdir()}
        lines = run(
            CODE, str(tmp_path / "student"), str(tmp_path / "teacher"), address=hub.address, cache=tmp_path / "cache"
        ).splitlines()
    assert lines[0].endswith(f"/me/student/commit/{COMMIT}")
    assert lines[1:4] == ["True", "True True True", "me/teacher True"]
    assert lines[4] == f"False me/plain (hub, revision {COMMIT})"
    assert lines[5] == '"me/nothing" is neither a local folder nor a hub model that you may read'
    assert len(lines) == 6
    request = hub.created[0]
    assert (request["organization"], request["name"]) == ("me", "student")
    assert request.get("private") is True or request.get("visibility") == "private"
    assert hub.messages == ["First", "Upload a thinking model"]
    pushed = hub.files["me/student"]
    assert pushed.keys() >= {"adapter_model.safetensors", "adapter_config.json", "lrd_model.json", "files.json"}
    assert not any(name.endswith((".bin", ".pt")) for name in pushed)
    assert 'StudentModel.from_pretrained("me/student")' in pushed["README.md"].decode()


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; from lrd_peft import StudentModel, UserError\n"
        "for call in (lambda: StudentModel.from_pretrained('me/student'),\n"
        "             lambda: StudentModel('tiny-student').push_to_hub('me/student')):\n"
        "    try: call()\n"
        "    except UserError as error: print(error)\n"
    )
    lines = run(code, address="http://127.0.0.1:9", cache=tmp_path / "cache").splitlines()
    assert len(lines) == 2
    assert 'the model "me/student" is not on this machine and the hub does not answer' in lines[0]
    assert "name a local folder" in lines[0]
    assert lines[1].startswith('cannot upload to "me/student": ') and "save_pretrained" in lines[1]


def test_offline_is_one_line() -> None:
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set; name a local folder"):
        type(tiny.student()).from_pretrained("me/student")
    with pytest.raises(UserError, match=r'cannot upload to "me/student": HF_HUB_OFFLINE is set; .*save_pretrained'):
        tiny.student().push_to_hub("me/student")
