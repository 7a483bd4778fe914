"""The quality_classifier stage: trains a fastText model, which a clean stage names as its `classifier`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError
from cluster.contracts.hashing import is_document_drawn
from dataprep.documents import written_file
from dataprep.quality_classifier.config import QualityClassifierConfig
from dataprep.ray_tasks import own_errors, prepare_worker, remote_options
from dataprep.sources.config import ReadLimits
from dataprep.sources.shards import input_files, plan_shards


def run(
    config: QualityClassifierConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext
) -> StageResult:
    """Train and save the model in one Ray task, which reads the documents from storage."""
    import ray

    context.progress.update(0, 1, "models")
    task = ray.remote(train).options(**remote_options(config.worker), max_retries=2)
    with own_errors():
        metrics, files = ray.get(task.remote(config, output, context.seed))
    context.progress.update(1, 1, "models", documents=metrics["num_positive"] + metrics["num_negative"])
    return StageResult(metrics, files)


def train(config: QualityClassifierConfig, output: str, seed: int) -> tuple[dict[str, Any], list[WrittenFile]]:
    """Train on the documents that are not held out, and measure on those that are; returns (metrics, files).

    Raises `InputError` where there are no positive or no negative documents.
    """
    prepare_worker(config.worker.num_threads)
    from dataprep.filters import quality
    from dataprep.quality_classifier import training

    counts = {True: 0, False: 0}
    heldout: list[tuple[str, bool]] = []

    def training_rows() -> Iterator[tuple[str, bool]]:
        for text, is_positive in _documents(config):
            counts[is_positive] += 1
            if is_document_drawn(text, fraction=config.heldout_fraction, seed=seed):
                heldout.append((text, is_positive))
            else:
                yield text, is_positive

    with tempfile.TemporaryDirectory() as scratch:
        path = training.train(training_rows(), config=config, seed=seed, scratch=Path(scratch))
        if not counts[True] or not counts[False]:
            missing = "positive" if not counts[True] else "negative"
            raise InputError(f"{missing}: {', '.join(getattr(config, missing))} has no documents to train on")
        content = path.read_bytes()
        model = quality.load(path)
    storage.write_bytes(storage.join(output, quality.MODEL_FILE), content)
    scores = quality.probabilities(model, (text for text, _ in heldout))
    labels = np.array([is_positive for _, is_positive in heldout], bool)
    metrics = {
        "num_positive": counts[True],
        "num_negative": counts[False],
        "num_heldout": len(heldout),
        "heldout_accuracy": float(np.mean((scores > 0.5) == labels)) if heldout else None,
        "heldout_auc": training.area_under_curve(scores, labels) if len(set(labels.tolist())) == 2 else None,
    }
    return metrics, [written_file(quality.MODEL_FILE, content)]


def _documents(config: QualityClassifierConfig) -> Iterator[tuple[str, bool]]:
    """(text, whether it is positive) of all documents in order, read as a clean stage with default settings does."""
    from dataprep.extract.pages import extracted
    from dataprep.sources.readers import read_sources
    from dataprep.sources.records import PlainText

    limits = ReadLimits()
    for patterns, is_positive in ((config.positive, True), (config.negative, False)):
        for shard in plan_shards(input_files(patterns), None):
            raw = read_sources(shard.sources, columns=config.columns, max_record_bytes=limits.max_record_bytes)
            for record in extracted(raw, "resiliparse", limits):
                if isinstance(record, PlainText) and record.text.strip():
                    yield record.text, is_positive
