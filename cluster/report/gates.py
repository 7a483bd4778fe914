"""What a run's stages had to show, and whether they did: each kind's gates, held against a stage's metrics."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.contracts.stage_kind import Gate, Metrics
from cluster.stage_kinds import STAGE_KINDS


@dataclass(frozen=True)
class Reading:
    """A gate held against a stage's metrics."""

    figure: str
    value: float
    against: str  # the name of the figure that it is read against; "chance" for a number
    reference: float  # the value of that figure
    wanted: str  # "lower" or "higher"
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the stage has shown what it must."""
        return self.value < self.bound if self.wanted == "lower" else self.value > self.bound


def readings(kind: str, metrics: Metrics) -> list[Reading]:
    """Every gate of a kind of stage whose figures are among `metrics`; none for a kind that isn't known here."""
    gates = STAGE_KINDS[kind].figures.gates if kind in STAGE_KINDS else ()
    return [reading for gate in gates if (reading := read_gate(gate, metrics)) is not None]


def read_gate(gate: Gate, metrics: Metrics) -> Reading | None:
    """The gate held against `metrics`; None where a figure that it needs isn't there."""
    reference = metrics.get(gate.against) if isinstance(gate.against, str) else gate.against
    value = metrics.get(gate.figure)
    if value is None or reference is None or any(metrics.get(name) is None for name in gate.needs):
        return None
    against = gate.against if isinstance(gate.against, str) else "chance"
    return Reading(gate.figure, value, against, reference, gate.wanted, gate.bound(reference, metrics))
