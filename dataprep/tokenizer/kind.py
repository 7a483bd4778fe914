"""The tokenizer stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.tokenizer.config import TokenizerConfig
from dataprep.tokenizer.report_figures import TOKENIZER_FIGURES

_EXAMPLE = """\
stages:
  tokenizer:
    documents: dedupe
    vocab_size: 32768
    sample_characters: 1000000000
    temperature: 2          # rare languages weigh more than they come
"""

TOKENIZER = StageKind(
    config=TokenizerConfig,
    function="dataprep.tokenizer.stage:run",
    summary="train a byte-level BPE tokenizer",
    makes="A Hugging Face tokenizer directory: byte-level BPE, four special tokens and a chat template.",
    example=_EXAMPLE,
    figures=TOKENIZER_FIGURES,
)
