"""Ctrl-C and SIGTERM, remembered, so that a run that was asked to stop ends as stopped wherever it stood.

Python raises `KeyboardInterrupt` in the main thread at whatever line that is at. Inside a call of Ray's it can come
back as an error of Ray's, inside a callback it is printed and forgotten, and the processes that got the same signal
break what the driver waits for. An exception alone therefore can't say whether a run failed or was stopped. The signal
can, so the handler here writes it down before it raises.

A handler runs between two lines of Python, so a main thread that is inside a long call of native code hears of nothing.
A thread beside it, which Python tells of each signal at once, sees to it that the process ends all the same.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130  # the shell's exit code for an interrupt
STOP_WITHIN_S = 45.0  # Ray itself gives up a dead GCS after 60 s, and ends the process with 1
_AGAIN_AFTER_S = 0.1
_IMPATIENT = 3  # so many signals end the process at once; its Ray dies with it


class Interrupts:
    """Whether this process was asked to stop."""

    def __init__(self, farewell: Callable[[], None] = lambda: None) -> None:
        self._farewell = farewell
        self._leaver: threading.Timer | None = None
        self._leaver_lock = threading.RLock()  # a signal's handler may itself be interrupted by another signal's
        self._asked = False
        self._signals = 0  # that were not swallowed
        self._sent_again = 0
        self._newest: int = signal.SIGINT
        self._sender: threading.Timer | None = None

    @property
    def asked_to_stop(self) -> bool:
        """Whether Ctrl-C or SIGTERM has arrived."""
        return self._asked

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if the process was asked to stop and something swallowed it."""
        if self.asked_to_stop:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._newest = number
        self._signals += 1
        self._leave_in_time()
        if self._signals >= _IMPATIENT:
            os._exit(STOPPED)
        # A second one may come while the first is obeyed, in an `except` or `finally` block: to raise again there would
        # cut Ray's own stopping short. Outside of any such block the first was swallowed.
        if self._signals == 1 or sys.exception() is None:
            raise KeyboardInterrupt

    def _listen(self, wakeup_fd: int) -> None:
        """In a thread: hear of every signal as it comes, until the other end is closed."""
        arrived = 0
        while numbers := os.read(wakeup_fd, 64):
            arrived += sum(number in (signal.SIGINT, signal.SIGTERM) for number in numbers)
            if arrived:
                self._asked = True
                self._leave_in_time()
            if arrived - self._sent_again >= _IMPATIENT:
                os._exit(STOPPED)

    def _leave_in_time(self) -> None:
        """From the first signal on, the process has `STOP_WITHIN_S`."""
        with self._leaver_lock:
            if self._leaver is None:
                self._leaver = threading.Timer(STOP_WITHIN_S, self._leave)
                self._leaver.daemon = True
                self._leaver.start()

    def _again(self) -> None:
        """The interrupt was swallowed: send it once more, when whoever swallows it has returned.

        It is the signal that came: SIGINT may be one that this process ignores.
        """
        self._signals = 0
        self._sent_again += 1
        self._sender = threading.Timer(
            _AGAIN_AFTER_S, signal.pthread_kill, (threading.main_thread().ident, self._newest)
        )
        self._sender.daemon = True
        self._sender.start()

    def _leave(self) -> None:
        """End the process, whatever it still waits for: a Ray that got the signal too answers no more."""
        self._farewell()
        os._exit(STOPPED)

    def _close(self) -> None:
        for timer in (self._sender, self._leaver):
            if timer is not None:
                timer.cancel()


@contextmanager
def watched_interrupts(farewell: Callable[[], None] = lambda: None) -> Iterator[Interrupts]:
    """Handle SIGINT and SIGTERM alike for the length of the block, in the main thread.

    `farewell` is called where the block has not ended `STOP_WITHIN_S` after the first signal; the process then ends.
    """
    interrupts = Interrupts(farewell)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    report = sys.unraisablehook

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        # In a destructor or a callback of native code nobody can catch it.
        if isinstance(what.exc_value, KeyboardInterrupt):
            interrupts._again()
        else:
            report(what)

    # Whoever was started with a signal ignored, as a shell's background jobs are, goes on ignoring it.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupts._handle) for number in numbers}
    sys.unraisablehook = unraisable
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    listener = threading.Thread(target=interrupts._listen, args=(read_fd,), daemon=True, name="raymill-interrupts")
    listener.start()
    previous_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        yield interrupts
    finally:
        signal.set_wakeup_fd(previous_fd)
        os.close(write_fd)
        listener.join()
        os.close(read_fd)
        sys.unraisablehook = report
        interrupts._close()
        for number, handler in previous.items():
            signal.signal(number, handler)
