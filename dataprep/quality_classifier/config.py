"""The settings of the quality_classifier stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import InputFiles, Resources, StageConfig, not_in_fingerprint
from dataprep.sources.config import Columns
from dataprep.sources.formats import format_of

MAX_INT32 = 2**31 - 1  # fastText's counts


MIN_CLASSIFIER_MIB = 33  # above glibc's largest threshold for fresh memory, 32 MiB


class QualityClassifierConfig(StageConfig):
    """A fastText classifier of good and bad documents, which a clean stage applies."""

    kind: Literal["quality_classifier"] = "quality_classifier"

    positive: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """files of good documents, as clean's inputs"""

    negative: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """files of others: a sample of the raw data"""

    columns: Columns = Columns()
    """which fields of JSON Lines, or columns of Parquet, hold what"""

    word_ngrams: Annotated[int, Field(ge=1, le=MAX_INT32)] = 2
    """words of the longest n-gram that is a feature"""

    dimensions: Annotated[int, Field(ge=1, le=MAX_INT32)] = 100
    """of a feature's vector"""

    buckets: Annotated[int, Field(ge=1, le=MAX_INT32)] = 500_000
    """For hashes of n-grams; each takes 4 x `dimensions` bytes."""

    min_count: Annotated[int, Field(ge=1, le=MAX_INT32)] = 1
    """occurrences of a word, to be a feature"""

    epochs: Annotated[int, Field(ge=1, le=MAX_INT32)] = 5
    """passes over the documents"""

    lr: Annotated[float, Field(gt=0)] = 0.1
    """learning rate at the beginning; it falls to 0"""

    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """of the documents, kept back to measure on"""

    worker: Resources = not_in_fingerprint(default_factory=Resources)
    """what the training process gets"""

    @model_validator(mode="after")
    def _table_is_fresh(self) -> QualityClassifierConfig:
        size_mib = 4 * self.buckets * self.dimensions / 2**20
        if size_mib < MIN_CLASSIFIER_MIB:
            raise ValueError(
                f"buckets x dimensions make a table of {size_mib:.0f} MiB; it must be {MIN_CLASSIFIER_MIB} or more:"
                " fastText leaves most of it as it gets it, and only large memory comes as zeros. Raise buckets"
            )
        return self

    def check_input(self, uri: str) -> None:
        """Raise `InputError` for a file of no known format."""
        format_of(uri)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("trainer", 1, self.worker)]
