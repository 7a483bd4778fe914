"""Decides what becomes of a batch of texts: which are kept, what stays of them, and why the others go.

Texts are judged by their URL, their language, the filter families of the language's profile, the quality classifier and
decontamination, in this order. The first rule that fails is a text's reason. What is hashed and signed later is what
the families left of the text.

Shape letters: D texts of the batch, K of them kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.clean.config import CleanConfig
from dataprep.filters import decontamination, quality, url_blocklist
from dataprep.filters.config import DecontaminationSettings, QualitySettings
from dataprep.filters.decontamination import EvaluationIndex
from dataprep.filters.evaluation_sets import EvaluationText
from dataprep.filters.families import Families, FamilyDecisions
from dataprep.filters.language import identify
from dataprep.filters.scores import struct_type
from dataprep.filters.url_blocklist import UrlBlocklist
from dataprep.text.column import TextColumn

EMPTY, LANGUAGE, LANGUAGE_SCORE, CONTAMINATED = "empty_text", "language", "language_score", "contaminated"
NOTHING_LEFT = "nothing_left"  # a text whose lines were all cut


class Passage(NamedTuple):
    """A passage that a text shares with an evaluation set."""

    row: int  # the text's place in the batch
    text: str
    source: EvaluationText


@dataclass(frozen=True)
class Decisions:
    """What is decided about each text of a batch."""

    reasons_D: npt.NDArray[Any]  # object: why a text is dropped; "" for one that is kept
    languages_D: pa.StringArray
    scores_D: npt.NDArray[np.float32]  # how likely the language is, 0 to 1
    kept: TextColumn  # what stays of the K texts that are kept
    annotations: Mapping[str, pa.StructArray] = field(default_factory=dict)  # family -> its scores of these
    passages: Sequence[Passage] = ()  # that they share with evaluation sets, also of dropped texts

    @property
    def keep_D(self) -> npt.NDArray[np.bool_]:
        return self.reasons_D == ""


class DocumentFilter:
    """All rules of a clean stage, with the files that they need, which are read once."""

    def __init__(self, config: CleanConfig, classifier: Path | None = None) -> None:
        """`classifier` is the model of the quality classifier. Raises `InputError` for a file that can't be read."""
        self._classifier = None if classifier is None else quality.load(classifier)
        self._config = config
        self._blocklist = None if config.url_blocklist is None else UrlBlocklist(config.url_blocklist)
        self._index = None if config.decontamination is None else EvaluationIndex.read(config.decontamination)
        profiles = list(config.profiles.values())
        self._families = [Families(config), *map(Families, profiles)]
        self._thresholds = np.array([settings.language_threshold for settings in (config, *profiles)])
        self._profile_of = {code: n for n, profile in enumerate(profiles, start=1) for code in profile.languages}

    def judge(self, texts: pa.LargeStringArray, urls: Sequence[str | None] | None = None) -> Decisions:
        """Decide about texts in normal form; `urls` [D] are the addresses that they are from."""
        config = self._config
        reasons_D = np.full(len(texts), "", object)
        reasons_D[TextColumn(texts).num_chars_D == 0] = EMPTY
        blocked = None if self._blocklist is None else self._blocklist.judge(urls or [None] * len(texts))
        if blocked is not None and config.url_blocklist is not None and config.url_blocklist.mode == "filter":
            for code, reason in enumerate(blocked.reasons, start=1):
                _set(reasons_D, blocked.codes_D == code, reason)
        labels, scores_D = identify(texts)
        languages_D = labels.to_numpy(zero_copy_only=False)
        if config.languages is not None:
            _set(reasons_D, ~np.isin(languages_D, config.languages), LANGUAGE)
        profiles_D = np.array([self._profile_of.get(language, 0) for language in languages_D], np.int64)
        _set(reasons_D, scores_D < self._thresholds[profiles_D], LANGUAGE_SCORE)

        parts: list[tuple[npt.NDArray[np.int64], FamilyDecisions]] = []
        for profile, families in enumerate(self._families):
            rows = np.flatnonzero((reasons_D == "") & (profiles_D == profile))
            if len(rows) or profile == 0:
                found = families.judge(TextColumn(texts.take(pa.array(rows))))
                reasons_D[rows] = found.reasons_D
                parts.append((rows[found.rows_K], found))
        kept, annotations = _in_order(parts)
        left_K = kept.num_chars_D > 0
        if not left_K.all():  # cut line by line
            kept = _drop(kept, reasons_D, annotations, left_K, NOTHING_LEFT)
        if self._classifier is not None:
            kept = _good_enough(kept, reasons_D, annotations, self._classifier, config.quality)
        passages: list[Passage] = []
        if self._index is not None and config.decontamination is not None:
            kept, passages = _decontaminate(kept, reasons_D, annotations, self._index, config.decontamination)
        if blocked is not None and url_blocklist.NAME in config.annotated_families():
            annotations[url_blocklist.NAME] = blocked.scores.take(np.flatnonzero(reasons_D == "")).struct_array()
        return Decisions(reasons_D, pa.array(languages_D, pa.string()), scores_D, kept, annotations, passages)


def _in_order(
    parts: Sequence[tuple[npt.NDArray[np.int64], FamilyDecisions]],
) -> tuple[TextColumn, dict[str, pa.StructArray]]:
    """(texts, scores by family) that all profiles kept, in the order of the batch.

    Scores are null where the profile of a text has no such family.
    """
    columns = {name: found.names for _, part in parts for name, found in part.scores.items()}
    if len(parts) == 1:
        ((_, part),) = parts
        return part.kept, {name: part.scores[name].struct_array() for name in columns}
    order = pa.array(np.argsort(np.concatenate([rows for rows, _ in parts])))
    texts = pa.concat_arrays([part.kept.texts for _, part in parts]).take(order)
    annotations = {}
    for name, names in columns.items():
        columns_of_parts = [
            part.scores[name].struct_array() if name in part.scores else pa.nulls(len(rows), struct_type(names))
            for rows, part in parts
        ]
        annotations[name] = pa.concat_arrays(columns_of_parts).take(order)
    return TextColumn(texts), annotations


def _good_enough(
    kept: TextColumn,
    reasons_D: npt.NDArray[Any],
    annotations: dict[str, pa.StructArray],
    classifier: Any,
    settings: QualitySettings,
) -> TextColumn:
    """Those of the kept texts that the classifier finds good enough; sets the reasons of the others."""
    judged = quality.judge(kept, classifier, settings)
    if settings.mode == "annotate":
        annotations[quality.NAME] = judged.scores.struct_array()
        return kept
    return _drop(kept, reasons_D, annotations, judged.codes_D == 0, judged.reasons[0])


def _drop(
    kept: TextColumn,
    reasons_D: npt.NDArray[Any],
    annotations: dict[str, pa.StructArray],
    left_K: npt.NDArray[np.bool_],
    reason: str,
) -> TextColumn:
    """Those of the kept texts that are left; sets the reason of the others and takes out their annotations."""
    reasons_D[np.flatnonzero(reasons_D == "")[~left_K]] = reason
    for name in annotations:
        annotations[name] = annotations[name].filter(pa.array(left_K))
    return kept.filter(left_K)


def _decontaminate(
    kept: TextColumn,
    reasons_D: npt.NDArray[Any],
    annotations: dict[str, pa.StructArray],
    index: EvaluationIndex,
    settings: DecontaminationSettings,
) -> tuple[TextColumn, list[Passage]]:
    """(what stays of the kept texts, the passages that were found); sets the reasons of texts that are dropped."""
    hits = index.find(kept)
    rows = np.flatnonzero(reasons_D == "")
    places = np.repeat(np.arange(len(kept)), hits.counts_D())
    passages = [
        Passage(int(rows[place]), kept.data[start:end].tobytes().decode(), index.texts[number])
        for place, start, end, number in zip(places, hits.starts, hits.ends, hits.texts, strict=True)
    ]
    if settings.mode == "annotate":
        annotations[decontamination.NAME] = hits.scores(kept).struct_array()
        return kept, passages
    if settings.action == "cut":
        kept = hits.without(kept).edited(kept)
        left = kept.num_chars_D > 0
    else:
        left = hits.counts_D() == 0
    return _drop(kept, reasons_D, annotations, left, CONTAMINATED), passages


def _set(reasons_D: npt.NDArray[Any], fails_D: npt.NDArray[np.bool_], reason: str) -> None:
    """Give a reason to those that fail and have none yet."""
    reasons_D[fails_D & (reasons_D == "")] = reason
