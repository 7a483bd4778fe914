"""Which personal data is replaced, and by what.

Kept apart from the kernels so that a job spec is checked without loading Numba.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cluster.contracts.config import StrictModel
from dataprep.config import Text
from dataprep.pii.kinds import KINDS, PiiKind


class PiiSettings(StrictModel):
    """Personal data and secrets, replaced by typed placeholders in the text that is written.

    Filters, signatures and decontamination see the text before that.
    """

    kinds: Annotated[tuple[PiiKind, ...], Field(min_length=1)] = KINDS
    """What is replaced; all kinds by default."""

    placeholders: dict[PiiKind, Text] = Field(default_factory=dict)
    """Kind to the text that stands for it. A kind that is not listed is replaced by its name, as in
    `<EMAIL_ADDRESS>`.
    """

    source_code: bool = False
    """Whether source code (inputs of format code) is searched too. Most matches there are no personal data."""
