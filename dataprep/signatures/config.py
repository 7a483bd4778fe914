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
    """Hashes of a document's signature. dedupe cuts them into bands x rows, 20 x 8 by default, and needs so many."""

    ngram: Annotated[int, Field(ge=1, le=MAX_INT)] = 5
    """Words of a shingle, the piece of text that is hashed. Fewer find documents alike that share phrases only."""

    seed: Annotated[int, Field(ge=0)] = 1
    """Chooses the hash functions. Corpora that are deduplicated together need the same."""
