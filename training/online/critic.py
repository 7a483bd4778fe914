"""The critic: a transformer trunk with a scalar head. It gives the value of the state before each answer token.

Shape letters: B rows, T tokens of a row, K kept positions, A answer tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.online.rollout import RolloutBatch


class Critic(nn.Module):
    """Any Hugging Face trunk (`AutoModel`) and a linear head on its last hidden states."""

    def __init__(self, trunk: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.value_head = nn.Linear(hidden_size, 1, bias=True)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @classmethod
    def from_reward_model(cls, model: Any) -> Critic:
        """Trunk and head of a `...ForSequenceClassification` with one label (what TRL and OpenRLHF start from).

        Its score of a whole conversation is a first guess of the value of a part.
        """
        critic = cls(model.base_model, model.config.hidden_size)
        with torch.no_grad():
            critic.value_head.weight.copy_(model.score.weight)
        return critic

    @classmethod
    def from_policy(cls, model: Any) -> Critic:
        """A causal model's trunk and a head of zeros: it begins by valuing every state at 0."""
        return cls(model.base_model, model.config.hidden_size)

    def forward(self, input_ids: Tensor, positions_K: Tensor) -> Tensor:
        """Values at `positions_K` of each row, float32 `[B, K]`."""
        hidden_BTD = self.trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        return self.value_head(hidden_BTD[:, positions_K]).squeeze(-1).float()


def answer_values(critic: nn.Module, batch: RolloutBatch) -> Tensor:
    """The value of the state in which each answer token was chosen, `[B, A]`, 0 in the padding."""
    return batch.answers_of(critic(batch.input_ids_BT, batch.kept_positions))
