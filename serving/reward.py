"""The reward deployment: scores whole conversations, which it takes as token ids."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.config import ServerConfig
from serving.engine.reward_batches import score_sequences
from serving.models import import_ahead, load_reward_model
from serving.weight_updates.store import wait_for_release


class RewardServer:
    """One replica of a sequence classifier with one output. `store` says when the model is there; None: it is."""

    def __init__(self, model_uri: str, config: ServerConfig, store: Any | None = None) -> None:
        if store is not None:
            import_ahead()
            wait_for_release(store)
        self._config = config
        self._model = load_reward_model(model_uri, config)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")

    async def score(self, sequences: list[list[int]]) -> list[float]:
        """One reward per sequence of token ids, in their order. Calls are worked on one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._score, sequences)

    def _score(self, sequences: list[list[int]]) -> list[float]:
        return score_sequences(
            self._model,
            sequences,
            max_batch_size=self._config.max_batch_size,
            max_batch_tokens=self._config.max_batch_tokens,
        )
