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

from lrd_peft.cli import app as cli
from lrd_peft.cli.runs import FIRST
from lrd_peft.runtime.errors import UserError

SOURCE = Path(__file__).parents[2] / "src"


def lrd(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "lrd_peft", *arguments]
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

    def run_phases(config: Any, phases: Any, *, from_run: Path | None) -> None:
        calls.append((config, phases, from_run))

    stand_in("lrd_peft.pipeline.runner", run_phases=run_phases)
    stand_in("lrd_peft.report.run_summary", show=lambda run: f"the table of {run}")
    stand_in("lrd_peft.pipeline.dry_run.describe", dry_run=lambda config: f"would train {config.model.student}")
    return calls


def seconds_of(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run the command line; return its processor time: the clock would show what else the machine does."""
    before = os.times()
    done = lrd(*arguments)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, done


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=str)
def test_the_overview_and_the_version_take_no_time(arguments: list[str]) -> None:
    spent, done = seconds_of(*arguments)
    assert done.returncode == 0
    assert spent < 0.3
    if arguments == ["--help"]:
        assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("command", [*cli.COMMANDS])
def test_the_help_of_a_command_is_quick_and_readable(command: str) -> None:
    spent, done = seconds_of(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: lrd {command}" in done.stdout
    assert cli.COMMANDS[command].help in " ".join(done.stdout.split())
    for unreadable in ("{None}", "STR", "(default: None)"):
        assert unreadable not in done.stdout
    assert spent < 1.0  # half of that on a machine that does nothing else


def test_help_and_parsing_load_no_torch() -> None:
    probe = (
        "import sys; from lrd_peft.cli import app; app.main(['--help']); app.main(['--version']);"
        "light = set(sys.modules);"
        "from lrd_peft.config import parse_request; parse_request(['--seed', '3']);"
        "from lrd_peft.cli.runs import read_run_command; read_run_command('run', ['--seed', '3'], '');"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'numpy'};"
        "assert not light & (heavy | {'pydantic', 'tyro', 'yaml'}), light;"
        "assert not set(sys.modules) & heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, env=environment)


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_help_of_run_shows_what_matters_first(capsys: pytest.CaptureFixture[str]) -> None:
    from lrd_peft.config.flat import OWNERS

    first = help_of(capsys, "run", "--help")
    shown = {name for name in OWNERS if f"--{name} " in first}
    assert shown == set(FIRST)
    for flag in ("--config", "--dry_run", "--from_run", "--help_all", "--alpha", "--lr"):
        assert flag in first
    assert len(first.splitlines()) < 80
    everything = help_of(capsys, "run", "--help-all")
    assert all(f"--{name}" in everything for name in OWNERS)


@pytest.mark.parametrize(
    ("command", "used", "unused"),
    [
        ("train-teacher", "--epochs_per_stage", "--distill_alpha"),
        ("extract", "--store_dtype", "--learning_rate"),
        ("distill", "--distill_alpha", "--epochs_per_stage"),
        ("evaluate", "--num_eval_problems", "--lora_r"),
    ],
)
def test_the_help_of_a_phase_shows_what_it_uses(
    command: str, used: str, unused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(capsys, command, "--help")
    assert used in text and unused not in text
    assert unused in help_of(capsys, command, "--help-all")
    assert ("--from_run" in text) == (command == "distill")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(shell: str, tmp_path: Path) -> None:
    done = lrd("--print-completion", shell)
    assert done.returncode == 0, done.stderr
    for word in ("train-teacher", "distill_layers", "keep_students", "latent-lora"):
        assert word in done.stdout
    if shell == "bash":
        script = tmp_path / "lrd"
        script.write_text(done.stdout)
        subprocess.run(["bash", "-n", str(script)], check=True)
        loaded = subprocess.run(
            ["bash", "-c", f"source {script}; complete -p lrd"], check=True, capture_output=True, text=True
        )
        assert loaded.stdout.startswith("complete")


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
    [(config, ran, from_run)] = runner
    assert ran == phases
    assert config.adapter.lora_r == 8
    assert from_run is None


@pytest.mark.parametrize("command", ["run", "distill"])
def test_the_run_to_take_from_reaches_the_phases(runner: list[Any], command: str) -> None:
    assert not cli.main([command, "--from_run", "runs/x"])
    [(_, _, from_run)] = runner
    assert from_run == Path("runs/x")


def test_dry_run_prints_and_runs_nothing(runner: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert not cli.main(["run", "--student", "teacher:3", "--dry_run"])
    assert capsys.readouterr().out == "would train teacher:3\n"
    assert runner == []


def test_a_run_ends_with_its_folder_and_the_next_commands(
    runner: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not cli.main(["run", "--output_dir", "my runs/a"])
    assert capsys.readouterr().out.splitlines() == [
        f"the table of {Path('my runs/a')}",
        "Run folder: my runs/a",
        "Next:",
        "  lrd solve 'my runs/a' \"QUESTION\"",
        "  lrd ablate 'my runs/a'",
        "  lrd probe 'my runs/a'",
        "  lrd inspect 'my runs/a'",
        "  lrd report 'my runs/a'",
        "  lrd compare 'my runs/a' OTHER_RUN",
    ]
    assert not cli.main(["run", "--method", "direct"])
    written = capsys.readouterr().out
    assert "lrd solve" in written and "lrd inspect" not in written
    assert not cli.main(["evaluate", "--method", "base"])
    assert "lrd solve" not in capsys.readouterr().out


def test_solve_compare_show(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("b").mkdir()
    stand_in("lrd_peft.pipeline.solve", solve=lambda run, questions: f"{run} answers {questions}")
    assert not cli.main(["solve", "a", "one?", "two?"])
    stand_in("lrd_peft.pipeline.compare", compare=lambda a, b: f"{a} against {b}")
    assert not cli.main(["compare", "a", "b"])
    stand_in("lrd_peft.report.run_summary", show=lambda run: f"table of {run}")
    assert not cli.main(["show", "a"])
    assert capsys.readouterr().out.splitlines() == [
        "a answers ('one?', 'two?')",
        "a against b",
        "table of a",
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
        "columns": None,
    }


def test_a_study_gets_its_flags_and_the_settings_of_its_cells(stand_in: Any) -> None:
    calls: list[Any] = []
    stand_in("lrd_peft.studies.run", study=lambda *names, **settings: calls.append((names, settings)))
    own = ["--seeds", "0", "3", "--quick", "--keep-students", "--shard", "2/8", "--workers", "4"]
    assert not cli.main(["study", "alpha", "--lora_r", "8", *own, "--distill-layers", "8", "9", "--dry_run"])
    [(names, settings)] = calls
    assert names == ("alpha", {"lora_r": 8, "distill_layers": (8, 9)})
    assert settings == {
        "recipe": None,
        "dry_run": True,
        "quick": True,
        "seeds": (0, 3),
        "shard": "2/8",
        "num_workers": 4,
        "keep_students": True,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], 'unknown command "rnu". Did you mean "run"?'),
        (["nope"], 'unknown command "nope". See lrd --help.'),
        (["train_teacher"], 'Did you mean "train-teacher"?'),
        (["--epochs", "3"], "--epochs needs a command before it: lrd run --epochs 3"),
        (["run", "--lora_rank", "3"], 'unknown flag --lora_rank. Did you mean "--lora_r"?'),
        (["run", "--method", "coconutt"], 'unknown method "coconutt"'),
        (["run", "--lr", "1", "--learning_rate", "2"], "--lr and --learning_rate are one setting; give one of the two"),
        (["train-teacher", "--from_run", "runs/x"], "unknown flag --from_run."),
        (["distill", "--alpha", "2"], "distill_alpha is 2; it must be a number from 0 to 1"),
        (["extract", "--config", "no-such.yaml"], 'configuration file "no-such.yaml" does not exist'),
        (["problems", "gsm-mini", "--limt", "2"], 'unknown flag --limt. Did you mean "--limit"?'),
        (["problems", "gsm-mini", "--data-dri=x"], 'unknown flag --data-dri. Did you mean "--data_dir"?'),
        (["problems", "gsm-mini", "--split", "tset"], '--split is "tset"; it must be one of train, validation, test.'),
        (["problems", "gsm-mini", "more"], '"more" is one argument too many'),
        (["problems"], "missing NAME. See lrd problems --help."),
        (["problems", "gsm-mini", "--seed", "x"], '--seed is "x"; it must be a whole number.'),
        (["problems", "gsm-mini", "--seed"], "--seed needs a value."),
        (["study"], "missing NAME. See lrd study --help."),
        (["study", "no-such-study"], 'unknown study "no-such-study"'),
        (["study", "alpha", "--worker", "3"], 'unknown flag --worker. Did you mean "--workers"?'),
        (["study", "alpha", "--lora_rr", "3"], 'unknown flag --lora_rr. Did you mean "--lora_r"?'),
        (["study", "alpha", "--workers", "0"], "--workers is 0; it must be at least 1"),
        (["study", "alpha", "--alpha", "0.2"], "the study alpha varies distill_alpha; drop --distill_alpha"),
        (["solve", "no/such/run", "q"], "there is no run"),
        (["solve", "."], "missing QUESTION"),
        (["show"], "missing RUN. See lrd show --help."),
        (["compare", "."], "missing RUN_B"),
        (["compare"], "missing RUN_A and RUN_B"),
        (["--print-completion", "csh"], 'no completion for "csh"'),
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
        (KeyboardInterrupt(), 130, "lrd: interrupted; run the same command to resume"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/somewhere/x"),
            2,
            'no permission for "/somewhere/x"; choose another folder with --output_dir',
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "store/3"),
            2,
            'no space left on the disk for "store/3"; free some space, then run the same command to resume',
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f"), 2, 'lrd: error: Not a directory: "f"'),
        (OSError("a model hub\nsays something"), 2, "lrd: error: a model hub says something"),
    ],
)
def test_failures_of_a_run(
    stand_in: Any, error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_phases(config: Any, phases: Any, *, from_run: Path | None) -> None:
        raise error

    stand_in("lrd_peft.pipeline.runner", run_phases=run_phases)
    assert cli.main(["run"]) == status
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_TRACEBACK", "1")
    with pytest.raises(UserError):
        cli.main(["rnu"])


def test_errors_that_no_user_caused_keep_their_traceback(stand_in: Any) -> None:
    def run_phases(config: Any, phases: Any, *, from_run: Path | None) -> None:
        raise AssertionError("ours")

    stand_in("lrd_peft.pipeline.runner", run_phases=run_phases)
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["run"])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "lrd_peft", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_exit_status_reaches_the_shell() -> None:
    done = lrd("rnu")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
