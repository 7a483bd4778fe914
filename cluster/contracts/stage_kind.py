"""What a kind of stage is: its settings, its code, and what it shows. Each kind is declared once, in its own folder.

`cluster/stage_kinds.py` lists them. The runner, the report, `plan`, `explain` and `serve` read all they know about a
kind from its record, so that a new kind is a folder and one line of that list.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from cluster.contracts.artifacts import StageFunction
from cluster.contracts.config import InputOf, StageConfig

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A figure of `metrics.jsonl` that the report draws over the steps."""

    key: str
    """The figure's name in `metrics.jsonl`."""
    label: str
    """What the vertical axis says: a name, and behind a comma the unit, as "loss, nats per token"."""
    reference: str | None = None
    """The metric of the stage that the curve is read against; the report draws it as a dotted line."""
    reference_name: str = ""
    """What that line is called; the metric's name where it is left out."""


@dataclass(frozen=True)
class Gate:
    """What a stage must show: `figure` must be `wanted` ("lower" or "higher") than a bound.

    The bound is made of `against`, which is what the figure is read against: another figure of the same stage, or a
    number that stands for chance.
    """

    figure: str
    wanted: Literal["lower", "higher"]
    against: str | float
    bound: Callable[[float, Metrics], float] = lambda reference, metrics: reference
    """(the value of `against`, all metrics) -> the bound; the value itself where it is left out."""
    needs: tuple[str, ...] = ()
    """Further figures that `bound` reads; where one of them is missing, the gate is not judged."""


@dataclass(frozen=True)
class Table:
    """A metric of several values that the report shows as a table.

    The metric is a list of rows, each a mapping from column to value, or one mapping from name to value. An empty one
    is not shown.
    """

    key: str
    title: str


@dataclass(frozen=True)
class ReportFigures:
    """What a stage shows of its metrics."""

    headline: tuple[str, ...] = ()
    """The metrics that the line of a finished stage shows, in this order, as far as they are there."""
    gates: tuple[Gate, ...] = ()
    """What the report holds the stage's metrics against."""
    curves: tuple[Curve, ...] = ()
    """What the report draws from the stage's `metrics.jsonl`."""
    tables: tuple[Table, ...] = ()
    """What the report shows of metrics that are no single figures."""


@dataclass(frozen=True)
class StageKind:
    """One kind of stage."""

    config: type[StageConfig]
    """The Pydantic model of its settings; its field `kind` holds the kind's name."""
    function: str
    """The stage's function as "module:name", imported only when the stage runs."""
    summary: str
    """What the stage does, in a few words: `raymill explain` lists it."""
    makes: str = ""
    """What the stage's artifact holds, for people."""
    example: str = ""
    """A worked example: the stage in a spec's YAML, for `raymill explain` and the stage's page in docs/stages."""
    figures: ReportFigures = ReportFigures()
    """What the stage shows of its metrics, on the terminal and in the report."""
    model: Literal["policy", "reward"] | None = None
    """Whether the artifact is a model that `raymill serve` serves, and in which role."""
    is_corpus: bool = False
    """Whether the artifact is a corpus of documents, which `raymill inspect` looks into."""
    runs_on_workers: bool = False
    """Whether the function hands its setting `workers` to `run_workers`. Such stages take one another's workers over,
    and these may be started before the stage is."""
    check_settings: str = ""
    """Asks libraries whether they take the stage's settings, before Ray starts: "module:name" of a function of its
    settings that raises `InputError`."""
    import_ahead: str = ""
    """What these workers may call before the stage begins, to import what its module imports late: "module:name"."""
    start_ahead: str = ""
    """Starts, while the stage before it runs, what the stage needs beside its workers: "module:name" of a function of
    its settings and the URIs of its inputs (by role), which may not be there yet. It returns at once."""
    close_ahead: str = ""
    """Ends what `start_ahead` started and no stage has taken: "module:name" of a function that is told whether Ray is
    about to end anyway."""
    runs_without_ray: bool = False
    """Whether the function takes a `launch` argument, by which `raymill train` runs it in plain processes."""

    @property
    def name(self) -> str:
        """The kind's name in a spec."""
        return str(self.config.model_fields["kind"].default)

    def takes(self, field: str, other: StageKind) -> bool:
        """Whether the input `field` may be an artifact of the kind `other`."""
        return self.inputs[field].takes(other.name, other.model)

    @property
    def inputs(self) -> Mapping[str, InputOf]:
        """Field of the settings -> the kinds of artifact it takes."""
        return self.config.input_fields()

    def load_function(self) -> StageFunction:
        """Import the stage's code, and with it whatever that needs."""
        function: StageFunction = load(self.function)
        return function


@cache
def load(target: str) -> Any:
    """What "module:name" names. Raises what importing the module raises, and `AttributeError` for an unknown name."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
