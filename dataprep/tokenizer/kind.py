"""The tokenizer stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.tokenizer.config import TokenizerConfig

TOKENIZER = StageKind(
    config=TokenizerConfig,
    function="dataprep.tokenizer.stage:run",
    summary="train a byte-level BPE tokenizer",
    headline=("vocab_size",),
)
