"""The dedupe stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.dedupe.config import DedupeConfig
from dataprep.dedupe.report_figures import DEDUPE_FIGURES

_EXAMPLE = """\
stages:
  dedupe:
    parts: clean
    url: true                          # the same page, fetched twice
    fuzzy: {bands: 20, rows: 8, verify: 0.6}
    keep_best: language_score
"""

DEDUPE = StageKind(
    config=DedupeConfig,
    function="dataprep.dedupe.stage:run",
    summary="find exact and near duplicates",
    makes=(
        "A list of removals for each part of the corpus, and the groups of duplicates to look at. No document "
        "is written again."
    ),
    example=_EXAMPLE,
    figures=DEDUPE_FIGURES,
    is_corpus=True,
)
