"""The repeated_lines stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.repeated_lines.config import RepeatedLinesConfig
from dataprep.repeated_lines.report_figures import REPEATED_LINES_FIGURES

_EXAMPLE = """\
stages:
  repeated_lines:
    parts: clean
    min_documents: 7         # anywhere
    min_site_documents: 4    # or on one site
    min_words_left: 50
  dedupe:
    parts: repeated_lines
"""

REPEATED_LINES = StageKind(
    config=RepeatedLinesConfig,
    function="dataprep.repeated_lines.stage:run",
    summary="cut lines that stand in many documents",
    makes="A corpus as clean's, without the lines that stand in many documents.",
    example=_EXAMPLE,
    figures=REPEATED_LINES_FIGURES,
    is_corpus=True,
)
