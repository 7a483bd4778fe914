"""mC4's rule: a page needs some lines that are long enough to be running text.

Source: Xue et al. 2021, arXiv:2010.11934, section 3.1.
"""

from __future__ import annotations

import numpy as np

from dataprep.filters.config import Mc4Settings
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.text.column import TextColumn

NAME = "mc4"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("num_long_lines",)
REASONS: tuple[str, ...] = ("too_few_long_lines",)


def mc4(column: TextColumn, settings: Mc4Settings) -> Judged:
    """Measure and judge each document."""
    lines = column.lines
    long_lines = np.concatenate([[0], np.cumsum(lines.num_chars >= settings.long_line_characters)])
    scores = Scores(SCORES, np.diff(long_lines[lines.doc_offsets])[None].astype(np.float64))
    return Judged(first_failing(scores, [Limit(REASONS[0], SCORES[0], least=settings.min_long_lines)]), REASONS, scores)
