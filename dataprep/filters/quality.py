"""A fastText classifier of good and bad text: training it, and the probability it gives a document.

Source: Li et al. 2024, DataComp-LM, arXiv:2406.11794, section 4.4: bigrams of words, positive against negative
documents, a threshold on the probability of the positive label. A model is fastText's own `.bin` file and nothing
else: that format holds numbers and strings, where a pickle could run code.

Shape letter: D documents.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.contracts import storage
from cluster.contracts.errors import InputError, StageFailed
from dataprep.config import QualityClassifierConfig
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.filters.settings import QualitySettings
from dataprep.killable_process import child_environment
from dataprep.text.column import TextColumn

SCORES: tuple[str, ...] = ("positive_probability",)
REASONS: tuple[str, ...] = ("low_quality",)
MODEL_FILE = "model.bin"
_LABEL = "__label__"
POSITIVE, NEGATIVE = f"{_LABEL}positive", f"{_LABEL}negative"
_TRAIN = "import sys; from dataprep.filters.quality import _train_here; _train_here(*sys.argv[1:])"
_FRESH_MEMORY = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # glibc's own, whatever was set
_REFUSED = 3  # the process's exit status
_PR_SET_PDEATHSIG = 1  # prctl(2)


def one_line(text: str) -> str:
    """A text as fastText reads it: one line, in which nothing is a label."""
    return " ".join(text.replace(_LABEL, "__label ").split())


def train(rows: Iterable[tuple[str, bool]], *, config: QualityClassifierConfig, seed: int, scratch: Path) -> Path:
    """The file of the model of (text, whether it is a good one) rows. Raises `InputError` where fastText can't.

    On one thread, since with more no two runs are the same. In a process of its own: fastText fills a tenth of its
    table on one thread and takes the rest as it comes, and only new memory comes as zeros.
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
    """What the process does: train, save and end, or end with its parent."""
    import fasttext

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        fasttext.train_supervised(**json.loads(settings)).save_model(output)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)


@lru_cache(maxsize=1)
def local_model(uri: str) -> Path:
    """The path of a model file; a remote one is copied once for each process."""
    if storage.is_local(uri):
        return storage.local_path(uri)
    target = Path(tempfile.mkdtemp(prefix="raymill-classifier-")) / MODEL_FILE
    storage.download_file(uri, target)
    return target


@lru_cache(maxsize=1)
def load(path: Path) -> Any:
    """The model in a `.bin` file. Raises `InputError` for anything else."""
    from fasttext.FastText import _FastText

    try:
        model = _FastText(str(path))
    except ValueError as error:
        raise InputError(f"{path} is no fastText model: {error}") from error
    if set(model.get_labels()) != {POSITIVE, NEGATIVE}:
        raise InputError(f"{path} tells {', '.join(model.get_labels())} apart; it must tell {POSITIVE} from {NEGATIVE}")
    return model


def probabilities(model: Any, texts: Iterable[str]) -> npt.NDArray[np.float64]:
    """[D] the probability, 0 to 1, that each text is a positive one."""
    predict = model.f.predict
    found = ({label: p for p, label in predict(f"{one_line(text)}\n", 2, 0.0, "strict")} for text in texts)
    return np.array([min(1.0, labels.get(POSITIVE, 0.0)) for labels in found])


def judge(column: TextColumn, model: Any, settings: QualitySettings) -> Judged:
    """Measure and judge each document."""
    scores = Scores(SCORES, probabilities(model, (text.as_py() for text in column.texts))[None])
    return Judged(
        first_failing(scores, [Limit(REASONS[0], SCORES[0], least=settings.min_probability)]), REASONS, scores
    )


def area_under_curve(scores: npt.NDArray[np.float64], is_positive: npt.NDArray[np.bool_]) -> float:
    """The probability that a positive document scores above a negative one, ties for half; NaN without both."""
    order, ranks = np.unique(scores, return_inverse=True)
    counts = np.bincount(ranks, minlength=len(order))
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    num_positive = int(is_positive.sum())
    num_negative = len(scores) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    above = mean_ranks[ranks][is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))
