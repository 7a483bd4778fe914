"""`metrics.jsonl`: one JSON object per optimizer step. After a resume no step is missing and none is there twice.

A local log is appended to as training goes, so it can be followed. A remote one is kept in scratch and copied whole at
each checkpoint, since object stores can't append.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from cluster.contracts import storage
from cluster.contracts.commit import WrittenFile
from cluster.contracts.config import StageConfig
from cluster.contracts.errors import CorruptArtifact
from training.metrics.trackers import Trackers, open_trackers

METRICS = "metrics.jsonl"


class MetricsLog:
    """The metrics of one run, kept by rank 0."""

    def __init__(self, output: str, scratch: Path, *, first_step: int, trackers: Trackers | None = None) -> None:
        """Open the log at `output`. Rows that an earlier attempt logged from `first_step` on are dropped.

        `trackers` get every row too.
        """
        self._trackers = trackers
        self._uri = storage.join(output, METRICS)
        self._remote = not storage.is_local(output)
        self.path = scratch / METRICS if self._remote else storage.local_path(self._uri)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._remote and storage.exists(self._uri):
            storage.download_file(self._uri, self.path)
        self._stream = self._rewritten(first_step)

    def rewind(self, first_step: int) -> None:
        """Drop the rows from `first_step` on: the run went back there."""
        self._stream.close()
        self._stream = self._rewritten(first_step)
        if self._trackers is not None:
            self._trackers.rewind(first_step)

    def _rewritten(self, first_step: int) -> IO[str]:
        kept = [row for row in read_metrics(self.path) if row["step"] < first_step]
        self.num_events = sum(len(row.get("events", ())) for row in kept)  # bad steps that the log tells of
        # A new file put in the old one's place: a writer that is not quite dead yet keeps writing to the old one.
        rewritten = self.path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(rewritten, self.path)
        return open(self.path, "a")

    def append(self, row: dict[str, Any]) -> None:
        """Log one step; `row` has a `step`."""
        self.num_events += len(row.get("events", ()))
        # JSON has no nan: what is no number is null.
        kept = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        self._stream.write(json.dumps(kept, allow_nan=False) + "\n")
        self._stream.flush()
        if self._trackers is not None:
            self._trackers.log(row["step"], row)

    def publish(self) -> None:
        """Make a remote log current; a local one always is."""
        if self._remote:
            storage.upload_file(self.path, self._uri)

    def close_trackers(self) -> None:
        """Have the trackers send what they hold; may be called twice."""
        if self._trackers is not None:
            self._trackers.close()

    def close(self) -> WrittenFile:
        """End the log; what it is as a file of the artifact."""
        self._stream.close()
        self.publish()
        self.close_trackers()
        content = self.path.read_bytes()
        return WrittenFile(METRICS, len(content), hashlib.sha256(content).hexdigest())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out. Raises `CorruptArtifact`."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text().splitlines(keepends=True), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if line.endswith("\n"):
                raise CorruptArtifact(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def open_stage_log(
    config: StageConfig,
    trackers: Sequence[str],
    *,
    stage: str,
    output: str,
    scratch: Path,
    first_step: int,
    note: Callable[[str], None],
) -> MetricsLog:
    """`metrics.jsonl` of a stage and the trackers of these names, from `first_step` on; for rank 0."""
    opened = open_trackers(
        trackers,
        stage=stage,
        run_id=output.rstrip("/").rsplit("/", 1)[-1],
        output=output,
        scratch=scratch,
        first_step=first_step,
        config=config.model_dump(mode="json", exclude_defaults=True),
        note=note,
    )
    return MetricsLog(output, scratch, first_step=first_step, trackers=opened)
