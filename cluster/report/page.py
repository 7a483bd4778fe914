"""What every page of the reports is made with: the template environment, the contents, how figures are written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.terminal import duration

MINUS = "\N{MINUS SIGN}"
_SPELLINGS = {"heldout": "held-out", "kl": "KL", "pii": "PII", "eos": "EOS", "se": "standard error", "num": "number of"}
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """An entry of the contents: the id of the element it leads to, and its name."""

    id: str
    name: str
    parts: tuple[Section, ...] = ()


def render(template: str, **variables: Any) -> str:
    """The page, with all that is not marked as safe escaped. Raises where a template names what it was not given."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["difference"] = difference
    environment.filters["bound"] = bound
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["words"] = words
    environment.filters["percent"] = percent
    environment.filters["duration"] = duration
    return environment.get_template(template).render(variables)


def figure(value: object) -> str:
    """A figure as tables have it: four digits, thousands apart, "–" for what is not there."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def difference(value: float | None) -> str:
    """A difference with its sign: "+0.02", "−3", "0"; "–" where there is none to tell."""
    if value is None:
        return "–"
    text = figure(abs(value))
    return text if value == 0 else f"{'+' if value > 0 else MINUS}{text}"


def bound(value: float) -> str:
    """An end of an interval: three digits, since it is no more certain than that."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", MINUS)


def percent(fraction: float) -> str:
    """ "58%", "0.4%": a whole number from 10 on, a digit more below."""
    return f"{fraction:.0%}" if fraction >= 0.1 or fraction == 0 else f"{fraction:.1%}"


def words(name: str) -> str:
    """A figure's name as a sentence has it: "heldout_loss" is "held-out loss"."""
    return " ".join(_SPELLINGS.get(word, word) for word in name.split("_"))
