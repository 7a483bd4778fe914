"""The settings of the repeated_lines stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Sections
from dataprep.config import MAX_INT, DataConfig, Fraction


class RepeatedLinesConfig(DataConfig):
    """Lines that stand in many documents are cut, across the corpus and across files: menus, notices, footers.

    Llama 3 removes lines that are in more than 6 documents of 30 million (arXiv:2407.21783, section 3.1.1). Near copies
    of a document count as few here, so that lines of a page that is there often are left to deduplication: 1,000 copies
    of 300 words with 4 of them changed, or 300 copies with 8, keep their lines at the default threshold. 100 copies
    with 12 changed may lose them, and be dropped; with 16 they do.
    """

    stage_version: ClassVar[int] = 2  # 2: copies are told by bands of MinHashes

    kind: Literal["repeated_lines"] = "repeated_lines"

    sections: ClassVar[Sections] = {
        "Inputs": ("parts",),
        "Which lines are cut": ("min_documents", "min_documents_fraction", "min_site_documents", "min_line_characters"),
        "What becomes of the documents": ("mode", "min_words_left"),
        "Execution": ("workers", "max_workers"),
    }

    parts: Annotated[str, InputOf(("clean",))]
    """The clean stage, or a directory with its artifact, whose documents are edited."""

    mode: Literal["filter", "annotate"] = "filter"
    """`filter` cuts lines and drops documents. `annotate` changes nothing and stores the fractions that would be cut.
    """

    min_documents: Annotated[int | None, Field(ge=2, le=MAX_INT)] = 7
    """A line that stands in so many different documents, anywhere, is cut. Llama 3 cuts lines that are in more than 6
    of 30 million. `null` counts within sites only, by `min_site_documents`.
    """

    min_documents_fraction: Fraction = 0.0
    """Share of all documents, copies counted, that a line must be in as well before `min_documents` cuts it. 0 asks for
    nothing more.
    """

    min_site_documents: Annotated[int | None, Field(ge=2, le=MAX_INT)] = None
    """A line that stands in so many different documents of one site is cut. A site is a host without `www.`; documents
    without a URL are one site. `null` counts no sites.
    """

    min_line_characters: Annotated[int, Field(ge=0, le=MAX_INT)] = 20
    """Shorter lines, in characters, always stay: headings, answers, items of lists."""

    min_words_left: Annotated[int, Field(ge=0, le=MAX_INT)] = 50
    """Fewest words of a document that lost lines; with fewer left it is dropped. 0 drops none."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.min_documents is None and self.min_site_documents is None:
            yield "min_documents", "null needs min_site_documents: give one of them a number, or nothing is repeated"
        if self.min_documents is None and self.min_documents_fraction:
            yield "min_documents_fraction", "goes with min_documents, which is null; give that a number"
