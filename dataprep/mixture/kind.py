"""The mixture stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.mixture.config import MixtureConfig
from dataprep.mixture.report_figures import MIXTURE_FIGURES

_EXAMPLE = """\
stages:
  mixture:
    tokens: [tokenize]
    tokenizer: tokenizer
    sources: {books/*: 2, "crawl-*": 1, spam.jsonl: 0}
    languages: {de: 1.5}
    max_epochs: 4
    total_tokens: 10000000000
"""

MIXTURE = StageKind(
    config=MixtureConfig,
    function="dataprep.mixture.stage:run",
    summary="weigh sources, languages and lengths",
    makes="An index over token shards that says how often each range of documents comes. No token is copied.",
    example=_EXAMPLE,
    figures=MIXTURE_FIGURES,
)
