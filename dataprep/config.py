"""What the settings of several data stages share; each stage's own are in its folder's `config.py`.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from cluster.contracts.config import Resources, StageConfig, not_in_fingerprint

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class DataConfig(StageConfig):
    """What the stages on Ray Data share. None of them draws anything by the spec's seed."""

    uses_seed: ClassVar[bool] = False

    workers: Resources = not_in_fingerprint(default_factory=Resources)
    """What each task gets. Ray runs as many tasks at the same time as its CPUs, GPUs and reserved memory allow."""

    max_workers: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """Most tasks at the same time. `null` runs as many as the cluster has room for."""

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("worker", 1, self.workers)]


MAX_INT = 2**63 - 1  # what the kernels compute with


Count = Annotated[int, Field(ge=0, le=MAX_INT)]


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{value!a} is no text: it holds half of a surrogate pair; leave that out") from error
    return value


Text = Annotated[str, AfterValidator(_encodable)]
