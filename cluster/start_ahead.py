"""What a run starts before the stage that needs it: workers, and what a stage has beside its workers.

Both take many seconds to start, most of them imports. On a Ray of the run's own, workers are started while the data
stages before theirs run, and servers while the stage before theirs trains. What can't be started ahead is started by
its stage.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cluster.contracts.config import WorkerGroup
from cluster.contracts.stage_kind import load
from cluster.plan import PlannedStage
from cluster.stage_kinds import STAGE_KINDS
from training.launch.standing_group import StageNeeds, StandingGroups


class StartedAhead:
    """What a run has started ahead. `available` is Ray's resource table; `own_ray`: nobody else uses this Ray."""

    def __init__(self, groups: StandingGroups, available: Mapping[str, float], *, own_ray: bool) -> None:
        self._groups, self._own_ray = groups, own_ray
        self._cpus = available.get("CPU", 0.0)
        self._to_close: set[str] = set()

    def prepare(self, to_come: Sequence[PlannedStage]) -> None:
        """Before the first of the stages that are still to run: start what can be started, end what is in its way."""
        needs = [needs_of(stage) for stage in to_come]
        self._groups.make_room(needs, self._cpus)
        started_for = self._groups.start_ahead(needs, self._cpus)
        if started_for is not None:  # and while it starts, this process imports what it has to import as well
            _or_later(STAGE_KINDS[to_come[started_for].kind].load_function)
        if self._own_ray and len(to_come) > 1 and can_start_beside(to_come[0], to_come[1], self._cpus):
            stage = to_come[1]
            self._to_close.add(STAGE_KINDS[stage.kind].close_ahead)
            _or_later(lambda: load(STAGE_KINDS[stage.kind].start_ahead)(stage.config, stage.inputs))

    def close(self, *, ray_ends: bool) -> None:
        """End what no stage has taken; where `ray_ends`, it ends with its Ray."""
        for target in self._to_close:
            load(target)(ray_ends)


@contextmanager
def started_ahead(groups: StandingGroups, available: Mapping[str, float], *, own_ray: bool) -> Iterator[StartedAhead]:
    """Start things ahead for the length of the block. A block that fails leaves them to the end of its Ray."""
    ahead = StartedAhead(groups, available, own_ray=own_ray)
    try:
        yield ahead
    except BaseException:
        ahead.close(ray_ends=True)
        raise
    ahead.close(ray_ends=False)


def needs_of(stage: PlannedStage) -> StageNeeds:
    """What a stage needs of the workers that stand ready."""
    kind, workers, roles = STAGE_KINDS[stage.kind], getattr(stage.config, "workers", None), stage.config.roles()
    booked = {
        "CPU": any(each.cpus for *_, each in roles),
        "GPU": any(each.gpus for *_, each in roles),
        "memory": any(each.memory_gib for *_, each in roles),
    }
    return StageNeeds(
        workers=workers if kind.runs_on_workers and isinstance(workers, WorkerGroup) else None,
        books=frozenset(name for name, in_any_amount in booked.items() if in_any_amount),
        module=kind.function.partition(":")[0],
        import_ahead=kind.import_ahead,
    )


def can_start_beside(stage: PlannedStage, following: PlannedStage, cpus: float) -> bool:
    """Whether what `following` needs beside its workers can be started while `stage` runs on its workers.

    A GPU and reserved memory belong to the stage that runs. A stage that has such things of its own, as another PPO
    stage does, may call them by the same names.
    """
    kind, workers = STAGE_KINDS[stage.kind], getattr(following.config, "workers", None)
    if not STAGE_KINDS[following.kind].start_ahead or not kind.runs_on_workers or kind.start_ahead:
        return False
    beside = [role for role in following.config.roles() if role[2] is not workers]
    if any(each.gpus or each.memory_gib for *_, each in beside):
        return False
    return sum(count * each.cpus for _, count, each in [*stage.config.roles(), *beside]) <= cpus + 1e-9


def _or_later(function: Callable[[], object]) -> None:
    """Do something ahead of its stage. What goes wrong is for the stage to tell, which comes to it again."""
    try:
        function()
    except Exception:
        traceback.print_exc()
