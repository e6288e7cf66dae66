"""What the library logs, as the command line shows it."""

from __future__ import annotations

import contextlib
import io
import logging

import pytest

from lrd_peft.runtime.logs import shown_logs


def test_messages_go_to_standard_output_and_warnings_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("lrd_peft.somewhere")
    with shown_logs():
        logger.info("%s: begins", "teacher")
        logger.warning("a checkpoint is removed")
        logger.debug("never shown")
    logger.info("nobody listens any more")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("teacher: begins\n", "a checkpoint is removed\n")


def test_standard_output_can_be_redirected_while_messages_are_shown() -> None:
    file = io.StringIO()
    with shown_logs(), contextlib.redirect_stdout(file):
        logging.getLogger("lrd_peft.somewhere").info("into the file")
    assert file.getvalue() == "into the file\n"


def test_blocks_nest_and_say_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("lrd_peft.somewhere")
    with shown_logs():
        with shown_logs():
            logger.info("inner")
        logger.info("outer")
    assert capsys.readouterr().out == "inner\nouter\n"
