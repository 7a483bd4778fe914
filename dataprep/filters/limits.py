"""Thresholds as the compiled loops take them: a rule that is off has a limit that nothing exceeds."""

from __future__ import annotations

import math


def at_most(limit: float | None) -> float:
    """An upper limit; infinity for None."""
    return math.inf if limit is None else float(limit)


def at_least(limit: float | None) -> float:
    """A lower limit; minus infinity for None."""
    return -math.inf if limit is None else float(limit)
