"""The settings of the quality_classifier stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import InputFiles, Resources, Sections, StageConfig, not_in_fingerprint
from dataprep.sources.config import Columns
from dataprep.sources.formats import format_of

MAX_INT32 = 2**31 - 1  # fastText's counts


MIN_CLASSIFIER_MIB = 33  # above glibc's largest threshold for fresh memory, 32 MiB


class QualityClassifierConfig(StageConfig):
    """A fastText classifier of good and bad documents, which a clean stage applies."""

    kind: Literal["quality_classifier"] = "quality_classifier"

    sections: ClassVar[Sections] = {
        "Inputs": ("positive", "negative", "columns", "heldout_fraction"),
        "Features": ("word_ngrams", "dimensions", "buckets", "min_count"),
        "Training": ("epochs", "lr"),
        "Execution": ("worker",),
    }

    positive: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """Files of good documents, given as clean's inputs are."""

    negative: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """Files of other documents, such as a sample of the raw data, given as clean's inputs are."""

    columns: Columns = Columns()
    """Which fields of JSON Lines, or columns of Parquet, hold what."""

    word_ngrams: Annotated[int, Field(ge=1, le=MAX_INT32)] = 2
    """Words of the longest n-gram that is a feature. 1 looks at single words only."""

    dimensions: Annotated[int, Field(ge=1, le=MAX_INT32)] = 100
    """Length of a feature's vector."""

    buckets: Annotated[int, Field(ge=1, le=MAX_INT32)] = 500_000
    """Slots for hashes of n-grams, each of 4 x `dimensions` bytes of memory and file. More slots mean fewer collisions.
    """

    min_count: Annotated[int, Field(ge=1, le=MAX_INT32)] = 1
    """Fewest occurrences of a word that is a feature."""

    epochs: Annotated[int, Field(ge=1, le=MAX_INT32)] = 5
    """Passes over the documents."""

    lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate at the beginning; it falls to 0 in a straight line."""

    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the documents that is kept back, to measure the classifier on. 0 measures nothing."""

    worker: Resources = not_in_fingerprint(default_factory=Resources)
    """What the training process gets."""

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
