"""How raw files are read: which fields hold what, and how large a record may be.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.contracts.config import StrictModel
from dataprep.config import MAX_INT

ExtractorName = Literal["resiliparse", "trafilatura"]


class Columns(StrictModel):
    """Which fields of a JSON Lines row, or columns of a Parquet file, hold what."""

    text: str = "text"
    """The field that holds the document. A row, or a Parquet file, without it is quarantined."""

    url: str | None = "url"
    """The field that holds the document's URL. `null` says that there is none."""

    date: str | None = "date"
    """The field that holds the document's date, kept as it is written. `null` says that there is none."""

    title: str | None = "title"
    """The field that holds the document's title. `null` says that there is none."""


class ReadLimits(StrictModel):
    """Beyond these a record is quarantined instead of read."""

    max_record_bytes: Annotated[int, Field(ge=1, le=2**40)] = 16 * 2**20
    """Largest page, text, JSON line, or text of a Parquet row, in bytes."""

    max_html_depth: Annotated[int, Field(ge=1, le=MAX_INT)] = 2_000
    """Most HTML elements open at once. Extraction takes time in the square of it."""

    max_html_attributes: Annotated[int, Field(ge=1, le=MAX_INT)] = 2_000
    """Most attributes of one HTML tag. Parsing takes time in the square of it."""

    extract_timeout_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 10.0
    """CPU seconds that the extraction of one page may take, in a process of its own."""

    extract_memory_gib: Annotated[float, Field(gt=0, le=2**20)] = 1.0
    """Memory that this process may grow by, in GiB."""
