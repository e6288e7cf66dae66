"""Which process this is, by the launcher's environment alone, and what it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lrd_peft.runtime import processes
from lrd_peft.runtime.errors import UserError


def launched(monkeypatch: pytest.MonkeyPatch, *, rank: int, of: int) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", of)):
        monkeypatch.setenv(name, str(value))


def test_a_command_started_by_hand_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as a scheduler may set it for its own purposes
    monkeypatch.setenv("RANK", "3")
    assert (processes.num_processes(), processes.rank(), processes.is_main()) == (1, 0, True)
    assert list(processes.share([1, 2, 3])) == [1, 2, 3] == processes.gather([1, 2, 3])
    assert processes.first_to_fail()


def test_processes_share_every_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [[i, i + 1] for i in range(0, 14, 2)]
    taken: list[list[int]] = []
    for rank in range(3):
        launched(monkeypatch, rank=rank, of=3)
        assert processes.is_main() == (rank == 0)
        taken += processes.share(batches)
    assert sorted(taken) == batches


def test_one_gpu_for_all_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=0, of=2)
    match = r'device is "cuda:1" for 2 processes.*give "cuda"'
    with pytest.raises(UserError, match=match), processes.joined("cuda:1"):
        pass


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"asks for DeepSpeed.*fsdp\.yaml"),
        ({"ACCELERATE_USE_FSDP": "true"}, r"fsdp_version 1; set it to 2"),
        ({"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        (
            {"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "fsdp_activation_checkpointing, which",
        ),
    ],
)
def test_what_the_launcher_asks_for_and_is_not_done_is_refused(
    asked: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, rank=0, of=2)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said), processes.joined("cpu"):
        pass
    assert not processes.is_sharded()


def test_launch_configurations_are_where_the_messages_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"fsdp_version 1; set it to 2, as (\S+) does") as error, processes.joined(None):
        pass
    (named,) = re.findall(r"as (\S+) does", str(error.value))
    assert Path(named).is_file() and (processes.LAUNCHERS / "ddp.yaml").is_file()
