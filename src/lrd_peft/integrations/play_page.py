"""`lrd play`: a page in the browser where one asks a model, looks into its thoughts and changes them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before gradio is imported: it asks the network for news of itself otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio.themes import Soft

from lrd_peft.integrations.listening import listen_errors
from lrd_peft.integrations.playground import NUM_PROBED, Playground, counted, load_playground
from lrd_peft.integrations.thought_explorer import CHANGES
from lrd_peft.pipeline.from_config import quiet_libraries
from lrd_peft.runtime.errors import UserError

_CSS = """
.answers {font-size: 1.05rem}
.answers b {font-size: 1.4rem}
.gradio-container .main, .gradio-container .wrap, .gradio-container main, .gradio-container .column {min-width: 0}
.scrolls {overflow-x: auto; max-width: calc(100vw - 7rem)}
.scrolls td {white-space: nowrap}
.scrolls table {border-collapse: collapse; width: 100%}
.scrolls th, .scrolls td {padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--border-color-primary)}
.scrolls th {font-weight: 600; vertical-align: bottom}
.gradio-container {max-width: 1200px !important; min-width: 0 !important; margin: 0 auto}
footer {display: none !important}
"""


def make_page(play: Playground, *, title: str) -> gr.Blocks:
    """Return the page.

    Args:
        play: What it does.
        title: Name of the model.
    """
    count = play.model.options.num_thoughts
    first = play.problem()
    with gr.Blocks(title=f"{title} thinks", analytics_enabled=False) as page:
        gr.Markdown(
            f"# {title}\n\nThis model has {counted(count)} before it answers. Change them and see whether the answer "
            "needs them."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                question = gr.Textbox(first.question_text, label="Question", lines=3, elem_id="question")
                another = gr.Button(f"Take a problem of {play.dataset}", elem_id="another")
                change = gr.Radio(
                    [(words, key) for key, words in CHANGES.items()],
                    value="own",
                    label="The thoughts are",
                    elem_id="change",
                )
                other = gr.Textbox(label="The other question", lines=2, visible=False, elem_id="other")
                number = gr.Slider(0, 2 * count, value=count, step=1, label="Number of thoughts", elem_id="number")
                think = gr.Button("Think", variant="primary", elem_id="think")
            with gr.Column(scale=3, min_width=300):
                answers = gr.Markdown(elem_id="answers", elem_classes="answers")
                table = gr.HTML(elem_id="thoughts")
                gr.Markdown(
                    "A thought is a hidden state. The LM head reads the tokens that it would write there. The columns "
                    "behind are read by probes, linear maps fitted on training problems: in brackets the share of "
                    "held-out problems that the best slot's probe reads right, and the share that a guess gets."
                )
                steps = gr.Markdown(elem_id="steps")

        def ask(question: str, change: str, number: int, other: str) -> Any:
            try:
                return play.ask(question, change, int(number), other)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        def take() -> str:
            return play.problem().question_text

        def show_other(change: str, text: str) -> Any:
            return gr.Textbox(visible=change == "other", value=text or play.problem().question_text)

        inputs, outputs = [question, change, number, other], [answers, table, steps]
        think.click(ask, inputs, outputs, api_name="think")
        question.submit(ask, inputs, outputs, api_visibility="private")
        another.click(take, None, question, api_name="problem").then(ask, inputs, outputs, api_visibility="private")
        change.change(show_other, [change, other], other, api_visibility="private").then(
            ask, inputs, outputs, api_visibility="private"
        )
        number.release(ask, inputs, outputs, api_visibility="private")
        page.load(ask, inputs, outputs, api_visibility="private")
    return page


def play(
    target: str,
    *,
    dataset: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    num_probed: int = NUM_PROBED,
    open_browser: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        dataset: Data set that problems are offered from (None: that of the run; gsm-mini for a saved model).
        host: Address to listen on.
        port: Port; 0 for any that is free.
        num_probed: Training problems that the probes are fitted on; 0 for no probes.
        open_browser: Open the page.
        say: Told the address as soon as it listens.

    Raises:
        UserError: If there is no model that thinks, or the address is taken.
    """
    quiet_libraries()
    page = make_page(load_playground(target, dataset=dataset, num_probed=num_probed), title=Path(target).name)
    # System fonts only: a page that works without the network.
    fonts: Sequence[str] = ("ui-sans-serif", "system-ui", "sans-serif")
    theme = Soft(font=fonts, font_mono=("ui-monospace", "monospace"))
    with listen_errors(host, port):
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or _free_port(host),
            inbrowser=open_browser,
            quiet=True,
            share=False,
            prevent_thread_lock=True,
            theme=theme,
            css=_CSS,
            footer_links=[],
        )
    say(f"playing  {Path(target).name} at {address} (Ctrl-C ends it)")
    page.block_thread()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
