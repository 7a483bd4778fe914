"""The settings of MinHash signatures.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cluster.contracts.config import StrictModel
from dataprep.config import MAX_INT


class MinHashSettings(StrictModel):
    """Signatures for near-duplicates. Corpora can be deduplicated together only where these agree."""

    num_hashes: Annotated[int, Field(ge=1, le=1024)] = 160
    """per document; dedupe cuts them into 20 bands of 8 rows"""

    ngram: Annotated[int, Field(ge=1, le=MAX_INT)] = 5
    """terms of a shingle"""

    seed: Annotated[int, Field(ge=0)] = 1
    """chooses the hash functions"""
