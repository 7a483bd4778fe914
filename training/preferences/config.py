"""The settings of the preferences stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputFiles,
    StageConfig,
)
from training.config import Fraction


class PreferencesConfig(StageConfig):
    """Preference pairs out of conversations: the person's answer against one made worse at equal length."""

    uses_seed: ClassVar[bool] = False  # pairs are drawn by `split_seed` and the row itself

    kind: Literal["preferences"] = "preferences"

    conversations: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """JSON Lines, as for SFT"""

    heldout_fraction: Fraction = 0.2
    """of first prompts, kept out of training"""

    split_seed: Annotated[int, Field(ge=0)] = 0
    """chooses which; the same in all stages that split"""

    min_words: Annotated[int, Field(ge=4)] = 4
    """shorter answers give no pair: too few words to disturb"""

    max_words: Annotated[int | None, Field(ge=4)] = None
    """longer answers give no pair; None: no limit"""

    disturbed_per_answer: Annotated[int, Field(ge=0)] = 4
    """training pairs per answer against its own words, reordered"""

    other_answers_per_answer: Annotated[int, Field(ge=0)] = 0
    """... against answers to other prompts, of as many words"""

    heldout_per_answer: Annotated[int, Field(ge=1)] = 2
    """held-out pairs per answer and kind of negative in use"""

    texts: Annotated[list[str] | None, InputFiles(), Field(min_length=1)] = None
    """JSON Lines with a `text` a row: neighbouring sentences make further pairs, for reward models to learn from first
    principles what good text is where conversations are few (Askell et al., 2021). None: no such pairs.
    """

    text_answers: Annotated[int, Field(ge=1)] = 4_000
    """sentences drawn from the texts; one pair each"""

    text_max_words: Annotated[int, Field(ge=4)] = 24
    """of either sentence; the least is min_words"""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.disturbed_per_answer and not self.other_answers_per_answer:
            yield "disturbed_per_answer", "is 0, and so is other_answers_per_answer: there would be no pairs"
        if self.max_words is not None and self.max_words < self.min_words:
            yield "max_words", f"is below min_words {self.min_words}"
        if self.texts is not None and self.text_max_words < self.min_words:
            yield "text_max_words", f"is below min_words {self.min_words}"
