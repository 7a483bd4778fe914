"""How raw files are read: which fields hold what, and how large a record may be.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.contracts.config import StrictModel
from dataprep.config import (
    MAX_INT,
)

ExtractorName = Literal["resiliparse", "trafilatura"]


class Columns(StrictModel):
    """Which fields of a JSON Lines row, or columns of a Parquet file, hold what."""

    text: str = "text"
    """the document; a row, or a Parquet file, without it is quarantined"""

    url: str | None = "url"
    """None: not there; so for those below"""

    date: str | None = "date"
    title: str | None = "title"


class ReadLimits(StrictModel):
    """Beyond these a record is quarantined instead of read."""

    max_record_bytes: Annotated[int, Field(ge=1, le=2**40)] = 16 * 2**20
    """Of a page, a text, a JSON line or a Parquet row's text."""

    max_html_depth: Annotated[int, Field(ge=1, le=MAX_INT)] = 2_000
    """Elements open at once; extraction is quadratic in it."""

    max_html_attributes: Annotated[int, Field(ge=1, le=MAX_INT)] = 2_000
    """of one tag; parsing is quadratic in them"""

    extract_timeout_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 10.0
    """CPU time of a page's extraction, in a process of its own."""

    extract_memory_gib: Annotated[float, Field(gt=0, le=2**20)] = 1.0
    """what that process may grow by"""
