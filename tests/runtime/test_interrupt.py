"""Signals: at once, or at the next safe place; the second one at once whatever is under way."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from lrd_peft.runtime.interrupt import Stopped, asked, heard, signal_asked, take_up, until_safe

BOTH = pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@BOTH
def test_a_signal_ends_the_work_at_once(number: int, status: int) -> None:
    with pytest.raises(Stopped, match=signal.Signals(number).name) as stopped, heard():
        send(number)
        pytest.fail("it went on")
    assert stopped.value.status == status


@BOTH
def test_or_at_the_next_safe_place(number: int, status: int) -> None:
    done = []
    with pytest.raises(Stopped) as stopped, heard(), until_safe():
        with until_safe():
            send(number)
            done.append(asked())
        done.append("after the inner block")
    assert done == [True, "after the inner block"]
    assert stopped.value.status == status


def test_the_second_signal_does_not_wait() -> None:
    with pytest.raises(Stopped), heard(), until_safe():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        pytest.fail("it went on")


def test_what_another_process_was_told_is_not_the_first_signal() -> None:
    done = []
    with pytest.raises(Stopped) as stopped, heard(), until_safe():
        assert signal_asked() == 0
        take_up(signal.SIGTERM)
        send(signal.SIGINT)
        done.append(signal_asked())
        take_up(signal.SIGTERM)
        done.append(signal_asked())
        send(signal.SIGTERM)
        pytest.fail("it went on")
    assert done == [signal.SIGINT, signal.SIGINT] and stopped.value.status == 143


def test_an_error_in_the_work_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ZeroDivisionError), heard(), until_safe():
        send(signal.SIGTERM)
        _ = 1 // 0


def test_nothing_stays_behind() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped), heard():
        send(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not asked()
    with heard(), until_safe():
        assert not asked()


def test_another_thread_has_no_signals_to_hear() -> None:
    seen: list[bool] = []

    def work() -> None:
        with heard(), until_safe():
            seen.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
