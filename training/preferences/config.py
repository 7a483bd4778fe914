"""The settings of the preferences stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputFiles, InputOf, Sections, StageConfig


class PreferencesConfig(StageConfig):
    """Preference pairs out of conversations: the person's answer against one made worse at equal length."""

    stage_version: ClassVar[int] = 2
    uses_seed: ClassVar[bool] = False  # pairs are drawn by `pair_seed` and the row itself

    kind: Literal["preferences"] = "preferences"

    sections: ClassVar[Sections] = {
        "Inputs": ("conversations", "pair_seed"),
        "Answers that give pairs": ("min_words", "max_words"),
        "Pairs of an answer": ("disturbed_per_answer", "other_answers_per_answer", "heldout_per_answer"),
        "Pairs of sentences": ("texts", "text_answers", "text_max_words"),
    }

    conversations: Annotated[str, InputOf(("conversations",))]
    """The conversations stage, or a directory with its artifact. A person's answer is the chosen one of a pair."""

    pair_seed: Annotated[int, Field(ge=0)] = 0
    """Draws the pairs: the order of words, the other answers, the sentences."""

    min_words: Annotated[int, Field(ge=4)] = 4
    """Fewest words of an answer that gives pairs. Shorter ones have too few words to be put in another order."""

    max_words: Annotated[int | None, Field(ge=4)] = None
    """Most words of an answer that gives pairs. `null` sets no limit."""

    disturbed_per_answer: Annotated[int, Field(ge=0)] = 4
    """Training pairs of each answer against its own words in another order. Neither length nor words tell the two
    apart. 0 makes no such pairs.
    """

    other_answers_per_answer: Annotated[int, Field(ge=0)] = 0
    """Training pairs of each answer against answers to other prompts, of as many words. 0 makes no such pairs."""

    heldout_per_answer: Annotated[int, Field(ge=1)] = 2
    """Most held-out pairs of each answer, of each of these two kinds that is in use."""

    texts: Annotated[list[str] | None, InputFiles(), Field(min_length=1)] = None
    """JSON Lines with a `text` a row: neighbouring sentences make further pairs, from which a reward model learns what
    good text is where conversations are few (Askell et al. 2021). Only reward models are trained on them. `null` makes
    none.
    """

    text_answers: Annotated[int, Field(ge=1)] = 4_000
    """Sentences that are drawn from `texts`; each makes one pair."""

    text_max_words: Annotated[int, Field(ge=4)] = 24
    """Most words of either sentence of such a pair. The fewest are `min_words`."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.disturbed_per_answer and not self.other_answers_per_answer:
            yield "disturbed_per_answer", "is 0, and so is other_answers_per_answer: there would be no pairs"
        if self.max_words is not None and self.max_words < self.min_words:
            yield "max_words", f"is below min_words {self.min_words}"
        if self.texts is not None and self.text_max_words < self.min_words:
            yield "text_max_words", f"is below min_words {self.min_words}"
