"""The settings of the preferences stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputFiles,
    InputOf,
    Resources,
    Sections,
    StageConfig,
    WorkerGroup,
    not_in_fingerprint,
)
from training.config import SCORING_MODEL, Fraction
from training.feedback.config import FeedbackSource


class PreferencesConfig(StageConfig, FeedbackSource):
    """Feedback on answers, for reward models, DPO and KTO: of files of one's own, or made of conversations."""

    stage_version: ClassVar[int] = 2
    uses_seed: ClassVar[bool] = False  # pairs are drawn by `pair_seed` and the row itself, the split by `split_seed`

    kind: Literal["preferences"] = "preferences"

    sections: ClassVar[Sections] = {
        "Files of one's own": (
            "inputs",
            "heldout_inputs",
            "file_format",
            "rows",
            "columns",
            "score_range",
            "score_weights",
            "deduplicate",
        ),
        "Split": ("heldout_fraction", "split_seed", "heldout_prompts_of"),
        "Pairs of rankings and scores": ("pairs_of_a_prompt", "min_score_difference"),
        "Sampled answers": ("candidates", "scored_by", "scoring_batch_size", "workers"),
        "Pairs made of conversations": ("conversations", "pair_seed"),
        "Answers that give pairs": ("min_words", "max_words"),
        "Pairs of an answer": ("disturbed_per_answer", "other_answers_per_answer", "heldout_per_answer"),
        "Pairs of sentences": ("texts", "text_answers", "text_max_words"),
    }

    inputs: Annotated[list[str] | None, InputFiles(), Field(min_length=1)] = None
    """Files, directories and globs of feedback: pairs, rankings, scores or labels as JSON Lines, JSON, Parquet, CSV,
    TSV or Arrow, plain, .gz, .zst or .bz2. `null` reads none.
    """

    heldout_inputs: Annotated[list[str] | None, InputFiles(), Field(min_length=1)] = None
    """Such files whose rows are all held out. Rows of `inputs` that ask a prompt of theirs are left out. `null` reads
    none.
    """

    deduplicate: bool = True
    """Whether rows of files that say the same count once."""

    heldout_fraction: Fraction | None = None
    """Share of the first prompts in `inputs`, with all that follows on them, that is kept out of training. `null` takes
    0.1, and 0 where there are `heldout_inputs`.
    """

    split_seed: Annotated[int, Field(ge=0)] = 0
    """Chooses which first prompts are held out."""

    heldout_prompts_of: Annotated[str | None, InputOf(("conversations",))] = None
    """The conversations stage, or a directory with its artifact, that earlier models learned from: what it holds out is
    held out here too. `null` goes by `heldout_fraction` alone.
    """

    pairs_of_a_prompt: Literal["all", "best_and_worst"] = "all"
    """Which pairs the ranked or scored answers to one prompt give: `all` that differ, or the best over the worst alone.
    """

    min_score_difference: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Scored answers give a pair where their scores differ by more than this share of the scale."""

    candidates: Annotated[str | None, InputOf(("candidates",))] = None
    """The candidates stage, or a directory with its artifact, whose answers are scored by `scored_by`. They are on the
    side that their prompts are on. Answers that their length cut off are left out. `null` takes none.
    """

    scored_by: Annotated[str | None, SCORING_MODEL] = None
    """The reward model that scores the candidates: a stage that makes one, or a directory. `null` scores none."""

    scoring_batch_size: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=16)
    """Answers of one worker's forward pass of the reward model."""

    workers: WorkerGroup | None = not_in_fingerprint(default=None)
    """The workers that score the candidates. `null` takes one with a CPU."""

    conversations: Annotated[str | None, InputOf(("conversations",))] = None
    """The conversations stage, or a directory with its artifact, whose answers give pairs: a person's answer is the
    chosen one, and the rejected one is made worse at equal length. `null` makes none.
    """

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
        yield from self.source_conflicts()
        if self.inputs is None and self.conversations is None and self.candidates is None:
            yield "inputs", "is missing, and so are conversations and candidates; give one of them"
        if (self.candidates is None) != (self.scored_by is None):
            yield "scored_by", "scores candidates, and only these are scored; give both or neither"
        if self.inputs is None:
            for name in ("heldout_inputs", "heldout_prompts_of", "rows", "score_range", "score_weights"):
                if getattr(self, name) is not None:
                    yield name, "has no effect without inputs"
        if self.conversations is not None and not self.disturbed_per_answer and not self.other_answers_per_answer:
            yield "disturbed_per_answer", "is 0, and so is other_answers_per_answer: there would be no pairs"
        if self.conversations is None and self.texts is not None:
            yield "texts", "have no effect without conversations"
        if self.max_words is not None and self.max_words < self.min_words:
            yield "max_words", f"is below min_words {self.min_words}"
        if self.texts is not None and self.text_max_words < self.min_words:
            yield "text_max_words", f"is below min_words {self.min_words}"

    @property
    def scorers(self) -> WorkerGroup:
        """The workers that score the candidates."""
        return self.workers or WorkerGroup()

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.scorers.num_workers, self.scorers)] if self.candidates is not None else []

    @property
    def share_held_out(self) -> float:
        """The share of the prompts of `inputs` that is held out."""
        if self.heldout_fraction is not None:
            return self.heldout_fraction
        return 0.1 if self.heldout_inputs is None else 0.0

    def check_input(self, uri: str) -> None:
        """Raise `InputError` for a file of no known format."""
        self.check_file(uri)
