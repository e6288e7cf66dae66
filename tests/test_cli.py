"""The command line: what it calls, what it prints, how it fails. The rooms behind it are stand-ins here."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lrd_peft import cli
from lrd_peft.errors import UserError

SOURCE = Path(__file__).parents[1] / "src"


def lrd(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "lrd_peft.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **settings)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put functions in the place of a module, whether that exists or not."""

    def stand_in(module: str, **functions: Any) -> None:
        fake = ModuleType(module)
        vars(fake).update(functions)
        monkeypatch.setitem(sys.modules, module, fake)

    return stand_in


@pytest.fixture
def runner(stand_in: Any) -> list[Any]:
    calls: list[Any] = []
    stand_in("lrd_peft.experiments.runner", run_phases=lambda config, phases: calls.append((config, phases)))
    stand_in("lrd_peft.report.tables", show=lambda run: f"the table of {run}")
    stand_in("lrd_peft.experiments.dry_run", dry_run=lambda config: f"would train {config.student}")
    return calls


def test_help_is_quick() -> None:
    before = os.times()
    done = lrd("--help")
    after = os.times()
    assert done.returncode == 0
    assert all(name in done.stdout for name in cli.COMMANDS)
    # processor time: the clock would show what else the machine does
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 0.5


def test_help_and_parsing_load_no_torch() -> None:
    probe = (
        "import sys; from lrd_peft import cli; cli.main(['--help']); light = set(sys.modules);"
        "import lrd_peft.config; lrd_peft.config.parse_request(['--seed', '3']);"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'numpy'};"
        "assert not light & (heavy | {'pydantic', 'tyro', 'yaml'}), light;"
        "assert not set(sys.modules) & heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, env=environment)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from lrd_peft import __version__

    assert cli.main(["--version"]) is None
    assert capsys.readouterr().out == f"lrd {__version__}\n"


def test_no_command_prints_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "phases"),
    [
        ("run", ("teacher", "store", "student", "evaluation")),
        ("train-teacher", ("teacher",)),
        ("extract", ("store",)),
        ("distill", ("student",)),
        ("evaluate", ("evaluation",)),
    ],
)
def test_phase_commands_run_their_phases(runner: list[Any], command: str, phases: tuple[str, ...]) -> None:
    assert not cli.main([command, "--lora_r", "8"])
    [(config, ran)] = runner
    assert ran == phases
    assert config.lora_r == 8


def test_dry_run_prints_and_runs_nothing(runner: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert not cli.main(["run", "--student", "teacher:3", "--dry_run"])
    assert capsys.readouterr().out == "would train teacher:3\n"
    assert runner == []


def test_run_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["extract", "--help"])
    assert stop.value.code == 0
    assert "usage: lrd extract" in capsys.readouterr().out


def test_solve_compare_show_pretrain(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("b").mkdir()
    stand_in("lrd_peft.phases.solve", solve=lambda run, questions: f"{run} answers {questions}")
    assert not cli.main(["solve", "a", "one?", "two?"])
    stand_in("lrd_peft.experiments.compare", compare=lambda a, b: f"{a} against {b}")
    assert not cli.main(["compare", "a", "b"])
    stand_in("lrd_peft.report.tables", show=lambda run: f"table of {run}")
    assert not cli.main(["show", "a"])
    stand_in(
        "lrd_peft.phases.pretrain",
        pretrain=lambda name, *, output_dir, scale, threads: f"{name} {output_dir} {scale} {threads}",
    )
    assert not cli.main(["pretrain", "tiny-student", "--scale", "0.5", "--num-threads", "2"])
    assert not cli.main(["pretrain", "tiny-student", "--output-dir", "there"])
    assert capsys.readouterr().out.splitlines() == [
        "a answers ['one?', 'two?']",
        "a against b",
        "table of a",
        f"tiny-student {Path('runs/pretrain/tiny-student')} 0.5 2",
        "tiny-student there 1.0 None",
    ]


def test_problems_prints_json_lines_and_its_report_apart(stand_in: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from lrd_peft.data.problem import Problem

    class Loaded(list[Problem]):
        def report(self) -> str:
            return "1 problem"

    asked: dict[str, Any] = {}

    def load_problems(name: str, **settings: Any) -> Loaded:
        asked.update(settings, name=name)
        return Loaded([Problem(id="x/1", question="Wie groß?", steps=("1 + 1 = 2",), answer="2")])

    stand_in("lrd_peft.data", load_problems=load_problems)
    assert not cli.main(["problems", "gsm-mini", "--split", "test", "--limit", "0", "--data-dir", "d"])
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert (row["question"], row["steps"], row["answer"]) == ("Wie groß?", ["1 + 1 = 2"], "2")
    assert err == "1 problem\n"
    assert asked == {
        "name": "gsm-mini",
        "split": "test",
        "limit": None,
        "seed": 0,
        "data_dir": Path("d"),
        "steps_style": "text",
    }


def test_a_study_gets_its_flags_and_leaves_those_of_a_run(stand_in: Any) -> None:
    calls: list[Any] = []
    stand_in("lrd_peft.experiments.study_run", study=lambda *names, **settings: calls.append((names, settings)))
    own = ["--seeds", "0", "3", "--quick", "--keep-students", "--shard", "2/8", "--workers", "4"]
    assert not cli.main(["study", "alpha", "--lora_r", "8", *own, "--distill-layers", "8", "9", "--dry_run"])
    [(names, settings)] = calls
    assert names == ("alpha", ["--lora_r", "8", "--distill-layers", "8", "9", "--dry_run"])
    assert settings == {
        "quick": True,
        "seeds": [0, 3],
        "shard": "2/8",
        "num_workers": 4,
        "executor": "local",
        "keep_students": True,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], 'there is no command "rnu". Did you mean "run"?'),
        (["train_teacher"], 'Did you mean "train-teacher"?'),
        (["--epochs", "3"], "lrd run --epochs 3"),
        (["run", "--lora_rank", "3"], 'unknown flag --lora_rank. Did you mean "--lora_r"?'),
        (["distill", "--alpha", "2"], "distill_alpha is 2.0; it must be a number from 0 to 1"),
        (["extract", "--config", "no-such.yaml"], 'no configuration file "no-such.yaml"'),
        (["problems", "gsm-mini", "--limt", "2"], 'unknown flag --limt. Did you mean "--limit"?'),
        (["problems", "gsm-mini", "--data-dri=x"], 'unknown flag --data-dri. Did you mean "--data_dir"?'),
        (["problems", "gsm-mini", "more"], '"more" is one argument too many'),
        (["problems"], "required: NAME. See lrd problems --help."),
        (["problems", "gsm-mini", "--seed", "x"], "argument --seed: invalid int value"),
        (["pretrain", "tiny-student", "--scale", "nan"], "--scale is nan; it must be above 0"),
        (["pretrain", "tiny-student", "--num_threads", "0"], "--num_threads is 0; it must be at least 1"),
        (["study"], "required: NAME. See lrd study --help."),
        (["study", "no-such-study"], 'there is no study "no-such-study"'),
        (["study", "alpha", "--worker", "3"], 'unknown flag --worker. Did you mean "--workers"?'),
        (["study", "alpha", "--lora_rr", "3"], 'unknown flag --lora_rr. Did you mean "--lora_r"?'),
        (["study", "alpha", "--workers", "0"], "--workers is 0; it must be at least 1"),
        (["study", "alpha", "--executor", "slurm"], '--executor is "slurm"; it must be local or ray'),
        (["solve", "no/such/run", "q"], "there is no run"),
        (["solve", "."], "required: QUESTION"),
        (["show"], "required: RUN"),
        (["compare", "."], "required: RUN_B"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lrd: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_missing_run_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").mkdir()
    assert cli.main(["show", str(tmp_path / "dmo")]) == 2
    assert f'Did you mean "{tmp_path / "demo"}"?' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("the layer is too high"), 2, "lrd: error: the layer is too high"),
        (KeyboardInterrupt(), 130, "lrd: interrupted; the same command goes on from here"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/somewhere/x"),
            2,
            'no permission for "/somewhere/x"; choose another folder with --output_dir',
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "store/3"),
            2,
            'no space left on the disk for "store/3"; free some space, then the same command goes on',
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f"), 2, 'lrd: error: Not a directory: "f"'),
        (OSError("a model hub\nsays something"), 2, "lrd: error: a model hub says something"),
    ],
)
def test_failures_of_a_run(
    stand_in: Any, error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_phases(config: Any, phases: Any) -> None:
        raise error

    stand_in("lrd_peft.experiments.runner", run_phases=run_phases)
    assert cli.main(["run"]) == status
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_TRACEBACK", "1")
    with pytest.raises(UserError):
        cli.main(["rnu"])


def test_errors_that_no_user_caused_keep_their_traceback(stand_in: Any) -> None:
    def run_phases(config: Any, phases: Any) -> None:
        raise AssertionError("ours")

    stand_in("lrd_peft.experiments.runner", run_phases=run_phases)
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["run"])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "lrd_peft.cli", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_exit_status_reaches_the_shell() -> None:
    done = lrd("rnu")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
