"""No step is lost and none is doubled, whatever an earlier attempt left."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cluster.contracts.errors import CorruptArtifact
from training.metrics.metrics_log import METRICS, MetricsLog, read_metrics


def test_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    output = tmp_path / "output"
    first = MetricsLog(str(output), tmp_path, first_step=0)
    for step in range(7):
        first.append({"step": step, "attempt": 1})
    second = MetricsLog(str(output), tmp_path, first_step=5)
    first.append({"step": 7, "attempt": 1})  # the first attempt is not quite dead yet
    for step in range(5, 9):
        second.append({"step": step, "attempt": 2})
    written = second.close()
    rows = read_metrics(output / METRICS)
    assert [row["step"] for row in rows] == list(range(9))
    assert [row["attempt"] for row in rows] == [1] * 5 + [2] * 4
    assert written.size == (output / METRICS).stat().st_size
    assert written.sha256 == hashlib.sha256((output / METRICS).read_bytes()).hexdigest()


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 0}\n{"step": 1, "lo')
    assert read_metrics(tmp_path / METRICS) == [{"step": 0}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(CorruptArtifact, match="line 2 is not JSON"):
        read_metrics(tmp_path / METRICS)
