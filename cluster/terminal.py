"""What a person sees while stages run: a bar on a terminal, plain lines anywhere else.

Ray, DeepSpeed and the libraries under them print to file descriptors 1 and 2 as they please. `quiet_terminal` points
both at a log file and keeps the real ones for a `Terminal`. So what libraries print is kept in the log, and the user
sees only what Raymill says.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

_LINE_INTERVAL_S = 10.0  # between two plain lines of one stage


class Terminal:
    """The user's terminal or pipe, apart from the process's stdout and stderr, to which libraries print."""

    def __init__(self, console: Console, log_path: Path | None = None) -> None:
        self.console = console
        self.log_path = log_path

    def line(self, text: str, *, style: str = "") -> None:
        """One line, taken literally."""
        self.console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, position: int, count: int) -> Iterator[BarDisplay | LineDisplay]:
        """The display of one running stage."""
        label = f"[{position}/{count}] {name}"
        if self.console.is_terminal:
            with BarDisplay(self, label) as bar:
                yield bar
        else:
            self.line(f"{label} ...")
            yield LineDisplay(self, label)


@contextmanager
def quiet_terminal(log_path: Path) -> Iterator[Terminal]:
    """A terminal on the original stdout, while descriptors 1 and 2 go to `log_path`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept_out, kept_err = os.dup(1), os.dup(2)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    with os.fdopen(kept_out, "w", buffering=1, closefd=False) as stream:
        try:
            yield Terminal(Console(file=stream, force_terminal=stream.isatty()), log_path)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept_out, 1)
            os.dup2(kept_err, 2)
            stream.flush()
    os.close(kept_out)
    os.close(kept_err)


class BarDisplay:
    """A live bar with rate and remaining time."""

    def __init__(self, terminal: Terminal, label: str) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=terminal.console,
            transient=True,
        )
        self._task = self._progress.add_task(escape(label), total=None, detail="")
        self._clock = _Clock()

    def __enter__(self) -> BarDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: float, total: float | None, unit: str, figures: dict[str, float | str]) -> None:
        detail = escape(self._clock.describe(done, total, unit, figures))
        self._progress.update(self._task, completed=done, total=total, detail=detail)

    def note(self, message: str) -> None:
        self._progress.console.print("    " + escape(message), highlight=False)


class LineDisplay:
    """A plain line every ten seconds, for logs and pipes."""

    def __init__(self, terminal: Terminal, label: str) -> None:
        self._terminal, self._label = terminal, label
        self._clock = _Clock()
        self._last = time.monotonic()

    def update(self, done: float, total: float | None, unit: str, figures: dict[str, float | str]) -> None:
        now = time.monotonic()
        detail = self._clock.describe(done, total, unit, figures)
        if now - self._last >= _LINE_INTERVAL_S:
            self._last = now
            self._terminal.line(f"{self._label}: {detail}")

    def note(self, message: str) -> None:
        self._terminal.line(f"{self._label}: {message}")


class _Clock:
    """Rate and remaining time. Both count from the first update, so that a resumed stage counts only its own work."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None  # (time, done)
        self._unit = ""

    def describe(self, done: float, total: float | None, unit: str, figures: dict[str, float | str]) -> str:
        now = time.monotonic()
        if self._start is None or unit != self._unit or done < self._start[1]:
            self._start, self._unit = (now, done), unit
        elapsed, advanced = now - self._start[0], done - self._start[1]
        count = f"{done:,.0f}/{total:,.0f} {unit}" if total is not None else f"{done:,.0f} {unit}"
        parts = [count]
        if advanced > 0 and elapsed > 0:
            rate = advanced / elapsed
            parts.append(f"{_number(rate)} {unit}/s")
            if total is not None:
                parts.append(f"{duration((total - done) / rate)} left")
        parts += [f"{name.replace('_per_s', '/s')} {_number(value)}" for name, value in figures.items()]
        return " · ".join(parts)


def duration(seconds: float) -> str:
    """ "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
