"""Which prompts an update answers: a pure function of (seed, update), so the same for any number of workers.

Shape letters: Q prompts of an update.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.errors import InputError
from training.conversations.artifact import Split, read_located_conversations, read_located_prompts
from training.conversations.prompts import distinct_prompts


@dataclass(frozen=True)
class PromptSet:
    """Encoded prompts, ending where the assistant begins to speak; duplicates count once."""

    train: list[list[int]]
    heldout: list[list[int]]
    num_too_long: int  # left out, of both sides
    num_refused: int = 0  # by the chat template, of both sides


def read_prompts(encoder: ChatEncoder, uri: str, *, max_prompt_tokens: int) -> PromptSet:
    """What stands before the first answers in the conversations artifact at `uri`, and its prompts alone, as token ids.

    Raises `InputError` where a side of the split is left without a prompt.
    """
    sides: list[list[list[int]]] = []
    num_too_long = num_refused = 0
    splits: tuple[tuple[str, Split], ...] = (("training", "train"), ("held-out", "heldout"))
    for name, split in splits:
        rows = [*read_located_conversations(uri, split), *read_located_prompts(uri, split)]
        found = encoder.encode_prompts((prompt.messages, prompt.tools) for prompt in distinct_prompts(rows))
        encoded = [ids for ids in found if not isinstance(ids, ChatRefused)]
        num_refused += len(found) - len(encoded)
        short = [ids for ids in encoded if len(ids) <= max_prompt_tokens]
        num_too_long += len(encoded) - len(short)
        if not short:
            raise InputError(
                f"{uri}: no {name} prompt is left of {len(found)} (max_prompt_tokens {max_prompt_tokens}; the "
                "conversations stage's heldout_fraction says how many are held out)"
            )
        sides.append(short)
    return PromptSet(train=sides[0], heldout=sides[1], num_too_long=num_too_long, num_refused=num_refused)


def prompts_of_update(num_prompts: int, *, update: int, prompts_per_update: int, seed: int) -> list[int]:
    """The prompt numbers of one update, `[Q]`: without repetition until all have been taken, then in a new order."""
    first = update * prompts_per_update
    epochs = range(first // num_prompts, (first + prompts_per_update - 1) // num_prompts + 1)
    orders = np.concatenate([np.random.default_rng([seed, epoch]).permutation(num_prompts) for epoch in epochs])
    start = first - epochs[0] * num_prompts
    return [int(number) for number in orders[start : start + prompts_per_update]]


def share_of_rank(num_prompts: int, *, rank: int, world_size: int, num_minibatches: int) -> list[int]:
    """Which of an update's prompts a rank answers: its slice of each minibatch in turn.

    This way minibatch m has the same prompts for any number of workers, and all samples of a prompt stay on one rank.
    `num_prompts` must be a multiple of `num_minibatches * world_size`.
    """
    places = np.arange(num_prompts).reshape(num_minibatches, world_size, -1)
    return [int(place) for place in places[:, rank].reshape(-1)]
