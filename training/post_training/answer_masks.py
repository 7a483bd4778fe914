"""DPO on answers of several messages: results of tools and what the user says in between carry no loss.

TRL's collator takes every token behind the prompt as the answer's. Where a pair has masks (`EncodedPair.chosen_mask`),
`MaskedPairs` puts them into what the collator gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.feedback.encoded_pairs import EncodedPair

MASK_COLUMNS = ("chosen_mask", "rejected_mask")


def mask_columns(pairs: Sequence[EncodedPair]) -> list[dict[str, list[bool]]]:
    """What each pair's training row has beside its ids: nothing at all where no pair needs a mask."""
    if all(pair.chosen_mask is None and pair.rejected_mask is None for pair in pairs):
        return [{} for _ in pairs]
    return [
        {
            "chosen_mask": pair.chosen_mask or [True] * len(pair.chosen_ids),
            "rejected_mask": pair.rejected_mask or [True] * len(pair.rejected_ids),
        }
        for pair in pairs
    ]


@dataclass(frozen=True)
class MaskedPairs:
    """TRL's collator of pairs, with its `completion_mask` [2P, T] (chosen rows, then rejected) as the pairs say."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(examples)
        for side, column in enumerate(MASK_COLUMNS):
            for number, example in enumerate(examples):
                if column in example:
                    first = len(example["prompt_ids"])
                    mask = torch.tensor(example[column], dtype=batch["completion_mask"].dtype)
                    batch["completion_mask"][side * len(examples) + number, first : first + len(mask)] = mask
        return batch
