"""A model that reads given texts and says how likely it finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.records import Message
from training.evaluate.config import EvaluateConfig
from training.inference.sequence_scores import answer_logprobs


@dataclass(frozen=True)
class Reader:
    """A model that reads given texts."""

    model: Any
    encoder: ChatEncoder
    token_bytes_V: npt.NDArray[np.int64] | None  # None where the tokenizer does not tell
    config: EvaluateConfig

    def logprobs(
        self, sequences: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]]
    ) -> tuple[list[float], list[int]]:
        """(summed log-probability of the tokens under its mask, how many there are) of each sequence."""
        scored = answer_logprobs(
            self.model,
            sequences,
            masks,
            pad_token_id=self.encoder.tokenizer.pad_token_id,
            batch_size=self.config.batch_size,
        )
        return scored.logprobs_N.tolist(), scored.num_tokens_N.tolist()

    def num_bytes(self, ids: Sequence[int]) -> int:
        """Bytes of text that tokens stand for."""
        if self.token_bytes_V is not None:
            return int(self.token_bytes_V[np.asarray(ids, np.int64)].sum())
        return len(self.encoder.tokenizer.decode(ids, skip_special_tokens=True).encode())


def preferred(first: float, second: float) -> float:
    """1 where the first score is the higher one, 0 where the second is, and 0.5 for equal ones."""
    return 1.0 if first > second else 0.5 if first == second else 0.0


def assistant(text: str) -> list[Message]:
    """A text as what an assistant says."""
    return [Message(role="assistant", content=text)]
