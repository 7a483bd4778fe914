"""The settings of the dedupe stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import InputOf, StrictModel, not_in_fingerprint
from dataprep.config import DataConfig


class FuzzySettings(StrictModel):
    """Banded LSH over the MinHash signatures: documents that agree in every row of some band are candidates.

    Two documents of Jaccard similarity s meet with probability 1 - (1 - s^rows)^bands. The signatures must have
    bands x rows hashes or more.
    """

    bands: Annotated[int, Field(ge=1)] = 20

    rows: Annotated[int, Field(ge=1)] = 8
    """hashes of a band"""

    similarity: Annotated[float | None, Field(gt=0, lt=1)] = None
    """choose bands and rows for this one instead"""

    verify: Annotated[float | None, Field(gt=0, lt=1)] = 0.55
    """Candidates must be this similar to one of up to 8 leaders of their bucket, as estimated from one bit of each hash
    (standard deviation 0.07); None: all candidates are duplicates.
    """

    @model_validator(mode="after")
    def _one_way(self) -> FuzzySettings:
        # By value, not by what was given: a resolved spec gives the defaults too.
        defaults = {name: FuzzySettings.model_fields[name].default for name in ("bands", "rows")}
        if self.similarity is not None and (self.bands, self.rows) != (defaults["bands"], defaults["rows"]):
            raise ValueError("give either similarity, or bands and rows")
        return self


class DedupeConfig(DataConfig):
    """Exact, URL and near duplicates across all documents, and against earlier corpora."""

    stage_version: ClassVar[int] = 5  # 5: `#!` tells pages apart

    kind: Literal["dedupe"] = "dedupe"

    parts: Annotated[str, InputOf(("clean", "repeated_lines"))]
    """the documents"""

    against: Annotated[list[str], InputOf(("clean", "repeated_lines", "dedupe"))] = Field(default_factory=list)
    """earlier corpora, clean, repeated_lines or dedupe stages, or directories: their documents win and are left alone
    """

    exact: bool = True
    """remove documents of the same normalised text"""

    url: bool = False
    """Remove documents of the same page: URLs equal but for scheme, `www.`, fragment (unless `#!`) and tracking."""

    fuzzy: FuzzySettings | None = FuzzySettings()
    """None: near duplicates stay"""

    keep_best: str | None = None
    """Of a group, keep the document with the most of this: a column of numbers (`language_score`) or a score of a
    filter family that annotated (`gopher_quality.num_words`). Documents without the score (null, NaN) come after all
    others; of equals the lowest doc_id stays. None: the lowest doc_id.
    """

    clusters: bool = True
    """write the groups too, clusters-*.parquet, to look at"""

    union_find_gib: Annotated[float, Field(ge=0)] = not_in_fingerprint(default=4.0)
    """memory of the driver for joining groups, 16 bytes a document; more than that is mapped from files on its disk"""

    task_gib: Annotated[float, Field(gt=0)] = not_in_fingerprint(default=0.25)
    """memory of a task for the keys and sketches it works on, beside its program; less means more tasks and smaller
    reads. Documents that share a key, such as copies of a text, are one task however many they are
    """
