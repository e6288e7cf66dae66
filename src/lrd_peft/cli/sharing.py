"""The commands that take a model elsewhere: to other libraries, other people and a browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

Model = Annotated[Positional[str], arg(metavar="RUN")]


@dataclass(frozen=True)
class Export:
    """`lrd export`."""

    run: Model
    """Run folder, or a saved model that thinks, such as tiny-latent-student."""
    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder to write."""
    max_new_tokens: Annotated[int, arg(metavar="INT")] = 256
    """Tokens that the exported model writes where its caller sets no limit."""

    def __call__(self) -> None:
        from lrd_peft.integrations.export import export

        print(f"written  {export(self.run, self.folder, max_new_tokens=self.max_new_tokens)}")


@dataclass(frozen=True)
class Serve:
    """`lrd serve`."""

    run: Model
    """Run folder, or a saved model that thinks, such as tiny-latent-student."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network of this machine."""
    port: Annotated[int, arg(metavar="INT")] = 8000
    """Port (0 = any that is free)."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the last part of RUN)")] = None
    """Name of the model, as requests give it."""
    device: Annotated[str | None, arg(metavar="DEVICE", help_behavior_hint="(default: a GPU if there is one)")] = None
    """Device, such as cuda:1 or cpu."""
    max_batch_size: Annotated[int, arg(metavar="INT")] = 64
    """Most questions to answer at a time."""
    max_waiting: Annotated[int, arg(metavar="INT")] = 1024
    """Most questions that wait; more are refused with status 429."""

    def __call__(self) -> None:
        from lrd_peft.integrations.extras import require_extra

        require_extra("fastapi", "uvicorn")
        from lrd_peft.integrations.serving import serve

        serve(
            self.run,
            host=self.host,
            port=self.port,
            name=self.name,
            device=self.device,
            max_batch_size=self.max_batch_size,
            max_waiting=self.max_waiting,
            say=_say,
        )


@dataclass(frozen=True)
class Play:
    """`lrd play`."""

    run: Model
    """Run folder, or a saved model that thinks, such as tiny-latent-student."""
    dataset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: that of the run)")] = None
    """Data set that problems are offered from."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, arg(metavar="INT")] = 7860
    """Port (0 = any that is free)."""
    probe_problems: Annotated[int, arg(metavar="INT")] = 1500
    """Training problems that the probes are fitted on (0 = no probes)."""
    no_browser: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Do not open the page in a browser."""

    def __call__(self) -> None:
        from lrd_peft.integrations.extras import require_extra

        require_extra("gradio")
        from lrd_peft.integrations.play_page import play

        play(
            self.run,
            dataset=self.dataset,
            host=self.host,
            port=self.port,
            num_probed=self.probe_problems,
            open_browser=not self.no_browser,
            say=_say,
        )


@dataclass(frozen=True)
class Push:
    """`lrd push`."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    repo: Annotated[Positional[str], arg(metavar="REPO")]
    """Repository of the hub, such as me/my-student; created if needed."""
    part: Literal["student", "teacher", "records", "store"] = "student"
    """What to upload; records and store become dataset repositories."""
    private: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Make a new repository private."""

    def __call__(self) -> None:
        from lrd_peft.integrations.push import push_run

        print(f"uploaded  {push_run(self.run, self.repo, part=self.part, private=self.private or None)}")


@dataclass(frozen=True)
class Import:
    """`lrd import`."""

    project: Annotated[Positional[Literal["coconut", "codi", "pccot", "simcot"]], arg(metavar="PROJECT")]
    """Whose code wrote the checkpoint: coconut, codi, pccot or simcot."""
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """File of tensors, or a folder with one."""
    base: Annotated[str, arg(metavar="NAME")]
    """Model that the training started from."""
    output: Annotated[Path, arg(metavar="PATH")]
    """Folder to write."""
    num_thoughts: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: pccot_args.json's, or 6)")] = (
        None
    )
    """Number of thoughts."""
    lora_alpha: Annotated[
        float | None, arg(metavar="FLOAT", help_behavior_hint="(default: what the checkpoint says, or 32)")
    ] = None
    """Scale of the adapter."""

    def __call__(self) -> None:
        from lrd_peft.integrations.import_checkpoint import import_checkpoint

        folder = import_checkpoint(
            self.project,
            self.checkpoint,
            base=self.base,
            output=self.output,
            num_thoughts=self.num_thoughts,
            lora_alpha=self.lora_alpha,
        )
        print(f"written  {folder}\nnext     lrd ablate {folder} --dataset NAME, lrd play {folder} --dataset NAME")


_LM_EVAL_HELP = """\
usage: lrd lm-eval --model_args pretrained=RUN[,NAME=VALUE ...] --tasks TASK[,TASK ...] [arguments of lm_eval]

{description}

model_args:
  pretrained     run folder, or a saved model that thinks, such as tiny-latent-student
  num_thoughts   number of thoughts (default: the model's own)
  force_marker   put the answer marker after the thoughts (default: as the model was saved)
  max_gen_toks   tokens to write where a task sets no limit (default: 256)
  device, dtype, revision, trust_remote_code

All other arguments are those of lm_eval run, which lm_eval run --help lists. Example:
  lrd lm-eval --model_args pretrained=runs/demo --tasks gsm8k --limit 100"""


@dataclass(frozen=True)
class LmEval:
    """`lrd lm-eval`, as the completion of shells knows it; `lm_eval` reads its arguments."""

    arguments: Annotated[Positional[tuple[str, ...]], arg(metavar="ARGUMENT")] = ()
    """Arguments of lm_eval run, such as --model_args pretrained=RUN --tasks gsm8k."""


def lm_eval(arguments: Sequence[str], description: str) -> None:
    """Run the command line of lm-evaluation-harness with this package's model type."""
    if not arguments or any(each in ("-h", "--help") for each in arguments):
        print(_LM_EVAL_HELP.format(description=description))
        return
    from lrd_peft.integrations.extras import require_extra

    require_extra("lm_eval")
    from lrd_peft.integrations.lm_eval_model import run_harness

    run_harness(arguments)


def _say(line: str) -> None:
    print(line, flush=True)


KINDS: dict[str, type[Any]] = {
    "lm-eval": LmEval,
    "export": Export,
    "push": Push,
    "import": Import,
    "serve": Serve,
    "play": Play,
}
"""Name and arguments of each command."""
