"""Trains a fastText classifier of good and bad text, in a process of its own.

Source: Li et al. 2024, DataComp-LM, arXiv:2406.11794, section 4.4.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.contracts.errors import InputError, StageFailed
from dataprep.filters.quality import MODEL_FILE, NEGATIVE, POSITIVE, one_line
from dataprep.killable_process import child_environment
from dataprep.quality_classifier.config import QualityClassifierConfig

_TRAIN = "import sys; from dataprep.quality_classifier.training import _train_here; _train_here(*sys.argv[1:])"
# glibc's defaults, whatever the environment says: memory of 32 MiB and more is new, and new memory is zeros.
_FRESH_MEMORY = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": str(2**25)}
_REFUSED = 3  # the process's exit status
_PR_SET_PDEATHSIG = 1  # prctl(2)


def train(rows: Iterable[tuple[str, bool]], *, config: QualityClassifierConfig, seed: int, scratch: Path) -> Path:
    """Train a model on (text, whether it is a good one); returns its file. Raises `InputError` where fastText can't.

    It is trained on one thread, since with more no two runs are the same, and in a process of its own: on one thread
    fastText sets a tenth of its table and takes the rest of the memory as it is, and only new memory is zeros.
    """
    inputs, output = scratch / "train.txt", scratch / MODEL_FILE
    with open(inputs, "w", encoding="utf-8") as file:
        for text, is_positive in rows:
            file.write(f"{POSITIVE if is_positive else NEGATIVE} {one_line(text)}\n")
    settings = {
        "input": str(inputs),
        "dim": config.dimensions,
        "wordNgrams": config.word_ngrams,
        "epoch": config.epochs,
        "lr": config.lr,
        "minCount": config.min_count,
        "bucket": config.buckets,
        "seed": seed % 2**31,  # as much as fastText takes
        "thread": 1,
        "verbose": 0,
    }
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, json.dumps(settings), str(output)],
        env={**child_environment(), **_FRESH_MEMORY},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _REFUSED:
        raise InputError(f"fastText could not train on these documents: {done.stderr.strip()}")
    if done.returncode != 0:
        raise StageFailed(f"fastText's process ended with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return output


def _train_here(settings: str, output: str) -> None:
    """What that process does: it trains, saves the model and ends. It ends, too, when its parent does."""
    import fasttext

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        fasttext.train_supervised(**json.loads(settings)).save_model(output)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)


def area_under_curve(scores: npt.NDArray[np.float64], is_positive: npt.NDArray[np.bool_]) -> float:
    """The probability that a positive document scores above a negative one; ties count half. NaN without both kinds."""
    order, ranks = np.unique(scores, return_inverse=True)
    counts = np.bincount(ranks, minlength=len(order))
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    num_positive = int(is_positive.sum())
    num_negative = len(scores) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    above = mean_ranks[ranks][is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))
