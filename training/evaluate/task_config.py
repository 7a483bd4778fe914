"""The settings of one task of an evaluation. Importing this costs Pydantic only."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cluster.contracts.config import ReferenceFiles, StrictModel


class Task(StrictModel):
    """Items in JSON Lines, and how answers to them are judged.

    A row has `prompt` (text) or `messages`, and may have `id` and `group`, by which figures are given apart. Beside it:
    `exact_match` wants `answer` (text or a list of texts); `multiple_choice` wants `choices` and `answer`, the place of
    the right one from 0; `checks` wants `checks`, a list of {check: NAME, ...}; `pairs` wants `chosen` and `rejected`;
    `refusals` wants `should_refuse`.
    """

    kind: Literal["exact_match", "multiple_choice", "checks", "pairs", "refusals"]
    """How an item is judged. `exact_match`: the answer is a given text, but for case, punctuation and articles.
    `multiple_choice`: the right choice is the likeliest. `checks`: the answer passes every check of its row. `pairs`:
    the chosen answer is likelier than the rejected one. `refusals`: whether the answer declines, and should.
    """

    inputs: Annotated[tuple[str, ...], ReferenceFiles()] = ()
    """JSON Lines with the items; plain, .gz or .zst. `refusals` may leave them out for 60 probes of our own."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest answer, in tokens, of the kinds whose items are answered."""

    normalise_length: Literal["none", "tokens", "bytes"] = "none"
    """What the log-probability of a text is divided by in `multiple_choice` and `pairs`, so that short texts are not
    favoured: nothing, its tokens, or its bytes in UTF-8.
    """

    max_items: Annotated[int | None, Field(ge=1)] = None
    """Items that are taken, at even distances over the files. `null` takes all."""

    @property
    def is_answered(self) -> bool:
        """Whether items are answered (greedily); else log-probabilities are compared."""
        return self.kind in ("exact_match", "checks", "refusals")

    @model_validator(mode="after")
    def _has_items(self) -> Self:
        if not self.inputs and self.kind != "refusals":
            raise ValueError(f"a task of kind {self.kind} needs inputs; only refusals has items of our own")
        return self
