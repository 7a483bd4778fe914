"""An interrupt is never lost, nor taken for a failure, and only once obeyed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from cluster.interrupts import STOPPED, watched_interrupts


def _interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)  # the handler runs before this ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_raise_an_interrupt_and_are_remembered(number: int) -> None:
    with watched_interrupts() as interrupts:
        assert not interrupts.asked_to_stop
        with pytest.raises(KeyboardInterrupt):
            _interrupt(number)
        assert interrupts.asked_to_stop


def test_an_interrupt_that_comes_back_as_another_error_is_still_known() -> None:
    def library() -> None:
        try:
            _interrupt()
        except KeyboardInterrupt:
            raise ValueError("a library's own error") from None

    with watched_interrupts() as interrupts:
        with pytest.raises(ValueError, match="a library's own"):
            library()
        assert interrupts.asked_to_stop
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_an_interrupt_swallowed_in_a_destructor_is_raised_again() -> None:
    class Swallows:
        def __del__(self) -> None:
            _interrupt()

    def work() -> None:
        Swallows()
        time.sleep(1)

    with watched_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert interrupts.asked_to_stop


def test_a_swallowed_signal_comes_again_as_itself_where_the_other_is_ignored() -> None:
    class Swallows:
        def __del__(self) -> None:
            _interrupt(signal.SIGTERM)

    def work() -> None:
        Swallows()
        time.sleep(1)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts its background jobs
    try:
        with watched_interrupts(), pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_cut_the_stopping_short() -> None:
    def work() -> None:
        try:
            _interrupt()
        finally:
            _interrupt(signal.SIGTERM)
            ended.append("whole")

    ended: list[str] = []
    with watched_interrupts(), pytest.raises(KeyboardInterrupt):
        work()
    assert ended == ["whole"]


def test_a_second_signal_is_raised_where_the_first_was_swallowed() -> None:
    with watched_interrupts():
        with suppress(KeyboardInterrupt):  # as a library may do
            _interrupt()
        with pytest.raises(KeyboardInterrupt):
            _interrupt()


def test_a_second_signal_does_not_cut_short_what_a_context_does_as_it_ends() -> None:
    @contextmanager
    def session() -> Iterator[None]:
        try:
            yield
        finally:
            _interrupt()
            ended.append("whole")

    ended: list[str] = []
    with watched_interrupts(), pytest.raises(KeyboardInterrupt), session():
        _interrupt()
    assert ended == ["whole"]


def test_the_third_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from cluster.interrupts import watched_interrupts\n"
        "with watched_interrupts():\n"
        "    for _ in range(3):\n"
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1)\n"
        "        except KeyboardInterrupt: pass\n"
        "time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == STOPPED


def test_a_process_that_cannot_stop_ends_after_its_time_and_says_so() -> None:
    code = (
        "import os, signal, time\n"
        "from cluster import interrupts\n"
        "interrupts.STOP_WITHIN_S = 0.5\n"
        "with interrupts.watched_interrupts(lambda: print('stopped', flush=True)):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)\n"
        "    except KeyboardInterrupt: pass\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (STOPPED, "stopped\n")


def test_a_main_thread_in_native_code_does_not_keep_the_process_alive() -> None:
    code = (
        "import ctypes, os, signal, threading\n"
        "from cluster import interrupts\n"
        "interrupts.STOP_WITHIN_S = 0.5\n"
        "signals = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "with interrupts.watched_interrupts(lambda: print('stopped', flush=True)):\n"
        "    signals.start()\n"
        "    class Span(ctypes.Structure): _fields_ = [('s', ctypes.c_long), ('ns', ctypes.c_long)]\n"
        "    span = Span(60, 0)\n"
        # Blocked here, the signal goes to another thread, and nothing interrupts the call.
        "    ctypes.CDLL(None).pthread_sigmask(0, (ctypes.c_ulong * 16)(1 << (signal.SIGTERM - 1)), None)\n"
        "    ctypes.CDLL(None).nanosleep(ctypes.byref(span), None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (STOPPED, "stopped\n"), done.stderr


def test_the_handlers_before_it_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with watched_interrupts():
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_a_signal_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with watched_interrupts() as interrupts:
            _interrupt()
            assert not interrupts.asked_to_stop
    finally:
        signal.signal(signal.SIGINT, before)
