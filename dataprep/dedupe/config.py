"""The settings of the dedupe stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import InputOf, Sections, StrictModel, not_in_fingerprint
from dataprep.config import DataConfig


class FuzzySettings(StrictModel):
    """Banded LSH over the MinHash signatures: documents that agree in every row of some band are candidates.

    Two documents of Jaccard similarity s meet with probability 1 - (1 - s^rows)^bands. The signatures must have
    bands x rows hashes or more.
    """

    bands: Annotated[int, Field(ge=1)] = 20
    """Number of bands that a signature is cut into. More bands find less similar pairs, at more memory and time."""

    rows: Annotated[int, Field(ge=1)] = 8
    """Hashes in a band. More rows ask for more similar pairs."""

    similarity: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Jaccard similarity at which two documents should be found; bands and rows are chosen for it from the hashes that
    there are. `null` takes `bands` and `rows` as given. Give one or the other.
    """

    verify: Annotated[float | None, Field(gt=0, lt=1)] = 0.55
    """Least similarity of a candidate to one of up to 8 leaders of its bucket, estimated from one bit of each hash
    (standard deviation 0.07). Raising it spares more documents that are only alike; `null` takes every candidate for a
    duplicate.
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

    sections: ClassVar[Sections] = {
        "Inputs": ("parts", "against"),
        "What counts as a duplicate": ("exact", "url", "fuzzy"),
        "What stays and what is written": ("keep_best", "clusters"),
        "Execution": ("workers", "max_workers", "union_find_gib", "task_gib"),
    }

    parts: Annotated[str, InputOf(("clean", "repeated_lines"))]
    """The stage whose documents are deduplicated: a clean or repeated_lines stage, or a directory with such an
    artifact.
    """

    against: Annotated[list[str], InputOf(("clean", "repeated_lines", "dedupe"))] = Field(default_factory=list)
    """Earlier corpora: clean, repeated_lines or dedupe stages, or directories. Their documents win and are left alone;
    documents of `parts` that repeat them are removed. Empty compares the documents with one another only.
    """

    exact: bool = True
    """Whether documents of the same normalised text are removed."""

    url: bool = False
    """Whether documents of the same page are removed. URLs are the same where they differ only in scheme, `www.`,
    tracking parameters, or a fragment that does not begin with `#!`.
    """

    fuzzy: FuzzySettings | None = FuzzySettings()
    """How near duplicates are found, by banded LSH over MinHash signatures. `null` keeps near duplicates."""

    keep_best: str | None = None
    """Which document of a group stays: the one with the highest value of this column (`language_score`) or of this
    score of a filter family that annotated (`gopher_quality.num_words`). Documents without the score come last, and of
    equals the lowest doc_id stays. `null` keeps the lowest doc_id.
    """

    clusters: bool = True
    """Whether the groups of duplicates are written too, as `clusters-*.parquet`, to look at. It costs one more pass
    over the groups.
    """

    union_find_gib: Annotated[float, Field(ge=0)] = not_in_fingerprint(default=4.0)
    """Memory of the driver for joining groups, in GiB. It takes 4 bytes a document, and 4 more for each of `exact`,
    `url` and `fuzzy` that is on. What needs more is mapped from files on the driver's disk, which is slower.
    """

    task_gib: Annotated[float, Field(gt=0)] = not_in_fingerprint(default=0.25)
    """Memory of one task for the keys and sketches it works on, in GiB, beside its program. Less means more tasks and
    smaller reads. Documents that share a key, such as copies of a text, are one task however many they are.
    """
