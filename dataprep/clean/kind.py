"""The clean stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.clean.config import CleanConfig
from dataprep.clean.report_figures import CLEAN_FIGURES

_EXAMPLE = """\
stages:
  clean:
    inputs: [crawl/*.warc.gz, books.jsonl.zst]
    languages: [en, de]
    language_threshold: 0.5
    gopher_quality: {min_doc_words: 30}   # the other limits stay as published
    c4: null                              # these rules are off
    profiles:
      german:
        languages: [de]
        gopher_quality: {stop_words: [der, die, das, und, ist, nicht, mit, von]}
    pii: {kinds: [email_address, phone_number]}
"""

CLEAN = StageKind(
    config=CleanConfig,
    function="dataprep.clean.stage:run",
    summary="extract, identify language, filter",
    makes=(
        "A corpus: the documents that were kept, as Parquet (text, URL, date, title, language and its score) "
        "with their MinHash signatures; beside them what was dropped, with the reason, and what could not be "
        "read."
    ),
    example=_EXAMPLE,
    figures=CLEAN_FIGURES,
    is_corpus=True,
)
