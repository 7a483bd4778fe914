"""Settings by which files of feedback are read: what a row is, and which columns hold what.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cluster.contracts.config import StrictModel
from training.conversations.file_names import FileFormat, file_format

RowKind = Literal["pairs", "rankings", "scores", "labels"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FeedbackColumns(StrictModel):
    """The columns of rows of feedback, by what they hold."""

    prompt: str | None = None
    """The column of what is asked: a text, a list of messages, or a transcript. `null` takes `prompt`, `question`,
    `instruction`, `query`, `messages` or `conversations`, where a row has one. Without a prompt, answers are whole
    conversations, and the prompt is the beginning that they share.
    """

    context: str | None = None
    """The column of what it is asked about, a text that follows the prompt behind a blank line. `null` takes `input` or
    `context`, where a row has one.
    """

    system: str | None = None
    """The column of the system message. `null` takes `system` or `system_prompt`, where a row has one."""

    chosen: str | None = None
    """The column of the better answer of a pair, or of several, each better than each rejected one. `null` takes
    `chosen`.
    """

    rejected: str | None = None
    """The column of the worse answer of a pair, or of several. `null` takes `rejected`."""

    margin: str | None = None
    """The column of how much better the chosen answer is, at least 0. `null` takes `margin`, where a row has one."""

    chosen_score: str | None = None
    """The column of the chosen answer's score. With `rejected_score`, the difference is the pair's margin. `null` reads
    none.
    """

    rejected_score: str | None = None
    """The column of the rejected answer's score. `null` reads none."""

    answers: str | None = None
    """The column of several answers: a list of texts, of conversations, or of objects that hold an answer and its rank
    or scores. `null` takes `answers`, `responses` or `completions`.
    """

    ranks: str | None = None
    """The column of the answers' ranks, a list of as many whole numbers, 1 for the best and equal ones for ties; or
    what such a number is called in each answer's object. `null` takes `ranks` or `rank`; without either, and with
    `rows: rankings`, the best answer comes first.
    """

    answer: str | None = None
    """The column of one answer, which has scores or a label. `null` takes `completion`, `response`, `answer` or
    `output`.
    """

    scores: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)] | None = None
    """The columns of an answer's scores, one for each criterion; with several answers, columns of lists, or what the
    scores are called in each answer's object. `null` takes those of score, scores, overall_score, rating, reward,
    helpfulness, correctness, coherence, complexity and verbosity that there are.
    """

    label: str | None = None
    """The column of the thumb, up or down: true or false, 1 or 0. `null` takes `label`."""

    tools: str | None = None
    """The column of the functions that may be called. `null` takes `tools`, where a row has one."""

    topic: str | None = None
    """The column of the row's topic. `null` takes `topic`, `subset` or `category`, where a row has one."""

    weight: str | None = None
    """The column of the row's weight, a number. `null` takes `weight`, where a row has one."""


class FeedbackSource(StrictModel):
    """How the rows of files become feedback."""

    file_format: FileFormat | None = None
    """The format of all files, where their names do not tell it (.jsonl, .ndjson, .json, .parquet, .csv, .tsv, .arrow;
    .gz, .zst and .bz2 behind it). `null` goes by each file's name.
    """

    rows: RowKind | None = None
    """What a row is: one of `pairs`, `rankings`, `scores`, `labels`. `null` looks at the columns of each row."""

    columns: FeedbackColumns = FeedbackColumns()
    """Which columns hold what, where their names do not tell it."""

    score_range: tuple[float, float] | None = None
    """The lowest and the highest score of each criterion, as [0, 10]; rows with others are quarantined. `null` takes
    what training rows show.
    """

    score_weights: dict[str, float] | None = None
    """What each criterion counts in an answer's one score, which is the weighted sum: {helpfulness: 0.65, verbosity:
    -0.4}. `null` takes the criterion that stands for the whole (score, overall_score, rating, reward), if a row has it,
    and the mean of all otherwise.
    """

    def check_file(self, uri: str) -> None:
        """Raise `InputError` for a file of no known format."""
        file_format(uri, self.file_format)

    def source_conflicts(self) -> Iterator[tuple[str, str]]:
        """(setting, what is wrong with it)."""
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            yield "score_range", f"is {list(self.score_range)}; the lowest score comes first, and then a higher one"
        if (self.columns.chosen_score is None) != (self.columns.rejected_score is None):
            yield "columns", "chosen_score and rejected_score make a margin together; give both or neither"
        if self.score_weights is not None and not any(self.score_weights.values()):
            yield "score_weights", "are all 0, so every answer would have the same score"
        unknown = sorted(set(self.score_weights or ()) - set(self.columns.scores or self.score_weights or ()))
        if unknown:
            yield "score_weights", f"weighs {', '.join(unknown)}, which columns.scores does not name"
