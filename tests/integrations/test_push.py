"""What `lrd push` uploads to a hub, and that it comes back from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard, ModelCardData

from lrd_peft import Store, StudentModel
from lrd_peft.cli.app import main
from lrd_peft.evaluation.records import read_record
from lrd_peft.integrations.push import push_run, stage
from lrd_peft.pipeline.ablate import ablate_run
from lrd_peft.runtime.errors import UserError
from tests.model.local_hub import LocalHub
from tests.model.test_hub import run as with_hub
from tests.pipeline.small_run import FLAGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "run"
    asked = ["--student", "teacher:2", "--methods", "base", "teacher-latent", "--report_to", "none"]
    assert main(["run", *FLAGS, *asked, "--output_dir", str(folder)]) is None
    return folder


PUSH = """
import re, sys
from lrd_peft import Store, StudentModel, TeacherModel
from lrd_peft.cli.app import main
from huggingface_hub import hf_hub_download
for part in ("student", "teacher", "records", "store"):
    more = ["--private"] if part == "store" else []
    assert main(["push", sys.argv[1], f"me/{part}", "--part", part, *more]) is None
student = StudentModel.from_pretrained("me/student")
print(student.generate(["What is 2 + 3?"], max_new_tokens=5))
print(TeacherModel.from_pretrained("me/teacher").options.num_thoughts)
store = Store.from_pretrained("me/store")
print(len(store), tuple(store.states(0).shape), store.verify())
for name, kind in (("me/student", "model"), ("me/store", "dataset")):
    card = open(hf_hub_download(name, "README.md", repo_type=kind)).read()
    (snippet,) = re.findall(r"```python\\n(.*?)```", card, re.DOTALL)
    exec(snippet)
"""


def test_all_parts_are_pushed_and_come_back(finished: Path, tmp_path: Path) -> None:
    with LocalHub() as hub:
        lines = with_hub(PUSH, str(finished), address=hub.address, cache=tmp_path / "cache").splitlines()
    uploaded, rest = lines[:4], lines[4:]
    assert all(re.fullmatch(r"uploaded  http://.*/me/\w+/commit/[0-9a-f]{40}", line) for line in uploaded)
    student, store = StudentModel.from_pretrained(finished), Store.open(finished / "store")
    assert rest[0] == str(student.generate(["What is 2 + 3?"], max_new_tokens=5))
    assert rest[1] == "2"
    assert rest[2] == f"{len(store)} {tuple(store.states(0).shape)} []"
    assert rest[3].startswith("['### ") and rest[4] == str(store.states(0).shape)
    assert hub.files.keys() == {"me/student", "me/teacher", "datasets/me/records", "datasets/me/store"}
    assert [each.get("private") or each.get("visibility") for each in hub.created] in (
        [None, None, None, True],
        [None, None, None, "private"],
    )
    assert hub.files["datasets/me/records"].keys() == {"README.md", "record.json", "config.yaml"}
    assert not any(Path(name).name.startswith(".") for files in hub.files.values() for name in files)


def test_the_card_holds_accuracy_interval_and_verdict(finished: Path, tmp_path: Path) -> None:
    summary = read_record(finished / "record.json").metrics["gsm-mini"]["latent-lora"]["summary"]
    found, _ = ablate_run(str(finished), models=("latent-lora",), num_problems=6)
    stage(finished, tmp_path / "student", part="student", repo_id="me/best-student")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert isinstance(card.data, ModelCardData)
    assert card.data.eval_results is not None
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("gsm-mini", "accuracy")
    assert result.metric_value == round(summary["num_right"] / summary["n"], 4)
    low, high = summary["interval"]
    assert result.metric_name == f"accuracy (95% interval {low:.1%} to {high:.1%}, n = 6)"
    assert card.data.model_name == "best-student"
    assert found.found[0].verdict() in card.text and 'from_pretrained("me/best-student")' in card.text
    # The run's own card says it too, with the run's name.
    own = (finished / "student" / "README.md").read_text("utf-8")
    assert found.found[0].verdict() in own and "me/best-student" not in own
    assert main(["verify", str(finished)]) is None
    stage(finished, tmp_path / "records", part="records", repo_id="me/records")
    assert (tmp_path / "records" / "ablation.json").is_file()
    assert DatasetCard.load(tmp_path / "records" / "README.md").data.to_dict()["tags"] == [
        "latent-reasoning",
        "lrd-peft",
    ]


def test_what_cannot_be_pushed(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        push_run(tmp_path, "me/x")
    with pytest.raises(UserError, match='a run has no part "students"'):
        push_run(finished, "me/x", part="students")  # pyright: ignore[reportArgumentType]
    (tmp_path / "config.yaml").write_text((finished / "config.yaml").read_text())
    for part, made_by in (("student", "distill"), ("store", "extract"), ("records", "run")):
        with pytest.raises(UserError, match=rf"has no {part} yet; `lrd {made_by}`"):
            push_run(tmp_path, "me/x", part=part)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r'cannot upload to "me/x": HF_HUB_OFFLINE is set'):
        push_run(finished, "me/x", part="records")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set|cannot download the dataset"):
        Store.from_pretrained("me/absent-store")
    assert len(Store.from_pretrained(finished)) == len(Store.open(finished / "store"))
