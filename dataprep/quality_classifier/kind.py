"""The quality_classifier stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.quality_classifier.config import QualityClassifierConfig
from dataprep.quality_classifier.report_figures import QUALITY_CLASSIFIER_FIGURES

_EXAMPLE = """\
stages:
  quality_classifier:
    positive: [chosen/*.jsonl]
    negative: [crawl-sample/*.jsonl.zst]
    word_ngrams: 2
    epochs: 3
  clean:
    inputs: [crawl/*.warc.gz]
    classifier: quality_classifier
    quality: {min_probability: 0.3}
"""

QUALITY_CLASSIFIER = StageKind(
    config=QualityClassifierConfig,
    function="dataprep.quality_classifier.stage:run",
    summary="train a fastText classifier of good and bad documents",
    makes=(
        "A fastText model, which a clean stage applies as its `classifier`, and its accuracy and AUC on "
        "held-out documents."
    ),
    example=_EXAMPLE,
    figures=QUALITY_CLASSIFIER_FIGURES,
)
