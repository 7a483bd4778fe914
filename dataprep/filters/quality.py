"""What a fastText classifier of good and bad text gives documents: the probability that they are good.

`quality_classifier/stage.py` trains such a classifier. Source: Li et al. 2024, DataComp-LM, arXiv:2406.11794, section
4.4: bigrams of words, positive against negative documents, and a threshold on the probability of the positive label. A
model is fastText's own `.bin` file and nothing else: that format holds numbers and strings, where a pickle could run
code.

Shape letter: D documents.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from dataprep.filters.config import QualitySettings
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.text.column import TextColumn

NAME = "quality"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("positive_probability",)
REASONS: tuple[str, ...] = ("low_quality",)
MODEL_FILE = "model.bin"
_LABEL = "__label__"
POSITIVE, NEGATIVE = f"{_LABEL}positive", f"{_LABEL}negative"


def one_line(text: str) -> str:
    """A text in the form that fastText reads: one line, in which nothing is a label."""
    return " ".join(text.replace(_LABEL, "__label ").split())


@lru_cache(maxsize=1)
def local_model(uri: str) -> Path:
    """The local path of a model file. A remote one is copied, once in each process."""
    if storage.is_local(uri):
        return storage.local_path(uri)
    target = Path(tempfile.mkdtemp(prefix="raymill-classifier-")) / MODEL_FILE
    storage.download_file(uri, target)
    return target


@lru_cache(maxsize=1)
def load(path: Path) -> Any:
    """The model in a `.bin` file. Raises `InputError` for a file that is none, or has other labels."""
    from fasttext.FastText import _FastText

    try:
        model = _FastText(str(path))
    except ValueError as error:
        raise InputError(f"{path} is no fastText model: {error}") from error
    if set(model.get_labels()) != {POSITIVE, NEGATIVE}:
        raise InputError(f"{path} tells {', '.join(model.get_labels())} apart; it must tell {POSITIVE} from {NEGATIVE}")
    return model


def probabilities(model: Any, texts: Iterable[str]) -> npt.NDArray[np.float64]:
    """[D] the probability, 0 to 1, that the model gives the positive label for each text."""
    predict = model.f.predict
    found = ({label: p for p, label in predict(f"{one_line(text)}\n", 2, 0.0, "strict")} for text in texts)
    return np.array([min(1.0, labels.get(POSITIVE, 0.0)) for labels in found])


def judge(column: TextColumn, model: Any, settings: QualitySettings) -> Judged:
    """Measure and judge each document."""
    scores = Scores(SCORES, probabilities(model, (text.as_py() for text in column.texts))[None])
    return Judged(
        first_failing(scores, [Limit(REASONS[0], SCORES[0], least=settings.min_probability)]), REASONS, scores
    )
