"""Continuous batching over a Hugging Face causal LM: rows join and leave the batch at every step.

`step` admits waiting requests while slots and KV budget last, prefills them, decodes one token for every live row in
one pass, and drops finished rows. A row is its list of tokens, and its cache can always be made again from them. This
is used twice:

- New weights: every live row goes back to the head of the queue and is prefilled again under the new weights. So no
  token is ever made from keys of older weights.
- No room for the rows to grow: the youngest row goes back to the queue. So memory stays within `max_batch_tokens`
  without reserving each answer's full length.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.records import GenerateRequest, SamplingParams
from serving.engine.kv_cache import ROUND_POSITIONS, rounded_up
from serving.engine.protocol import EngineLoad, FinishReason, TokenEvent
from serving.engine.ragged_model import RaggedModel
from serving.engine.sampling import sample_tokens, uniforms


@dataclass
class _Row:
    """A request under way."""

    request_id: int
    tokens: list[int]  # prompt and answer so far; keys and values are cached for all but the last
    prompt_length: int
    sampling: SamplingParams
    seed: int
    stop_ids: frozenset[int] = field(default_factory=frozenset)

    @property
    def answer_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    def add(self, token: int) -> FinishReason | None:
        """Append a sampled token; says whether and why the answer ends with it."""
        self.tokens.append(token)
        if token in self.stop_ids:
            return "stop"
        return "length" if self.answer_length >= self.sampling.max_new_tokens else None


class TorchEngine:
    """See the module.

    Args:
        model: a Hugging Face causal LM on its device; the engine owns its weights from here on.
        max_batch_size: rows decoded together.
        max_batch_tokens: KV positions of the batch, padding included.
        max_prefill_tokens: prompt tokens admitted between two decode steps (one longer prompt goes alone).
        max_model_len: longest prompt and answer together, tokens; None: as long as positions and cache reach.
        version: of the weights the model came with.
        seed: draws the seeds of requests that bring none; None: from the system.

    Raises `InputError` for a model it can't run right and for a `max_model_len` beyond the model's positions.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_batch_size: int = 64,
        max_batch_tokens: int = 32_768,
        max_prefill_tokens: int = 4_096,
        max_model_len: int | None = None,
        version: int = 0,
        seed: int | None = None,
    ) -> None:
        self._model = RaggedModel(model, max_cached_tokens=max_batch_tokens)
        positions = self._model.max_positions
        if max_model_len is not None and max_model_len > positions:
            raise InputError(f"max_model_len is {max_model_len}; this model has positions for {positions} tokens")
        cache_length = max_batch_tokens // ROUND_POSITIONS * ROUND_POSITIONS
        self.max_model_len = min(max_model_len if max_model_len is not None else positions, cache_length)
        self.max_batch_size = max_batch_size
        self.max_batch_tokens = max_batch_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self._version = version
        self._seeds = random.Random(seed)
        self._next_id = 0
        self._live: list[_Row] = []  # row i lies in slot i
        self._waiting: deque[_Row] = deque()

    @property
    def version(self) -> int:
        return self._version

    def submit(self, request: GenerateRequest) -> int:
        """Queue a request. Raises `InputError` for one that can never be answered."""
        prompt, sampling = list(request.prompt_ids), request.sampling
        self._check(prompt, sampling)
        seed = sampling.seed if sampling.seed is not None else self._seeds.getrandbits(64)
        row = _Row(self._next_id, prompt, len(prompt), sampling, seed, frozenset(sampling.stop_token_ids))
        self._next_id += 1
        self._waiting.append(row)
        return row.request_id

    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it is."""
        self._waiting = deque(row for row in self._waiting if row.request_id != request_id)
        self._drop([slot for slot, row in enumerate(self._live) if row.request_id == request_id])

    def step(self) -> list[TokenEvent]:
        """One token for every row that fits into the batch."""
        self._preempt_until_rows_can_grow()
        self._admit()
        if not self._live:
            return []
        rows = self._live
        logits_BV = self._model.decode([row.tokens[-1] for row in rows], [len(row.tokens) for row in rows])
        with torch.inference_mode():
            draws = uniforms([row.seed for row in rows], [row.answer_length for row in rows])
            tokens_B, logprobs_B = sample_tokens(logits_BV, torch.from_numpy(draws), [row.sampling for row in rows])
        events, finished = [], []
        for slot, (row, token, logprob) in enumerate(zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True)):
            if not math.isfinite(logprob):
                raise StageFailed(f"the policy's logits are not finite under version {self._version} of its weights")
            reason = row.add(token)
            events.append(TokenEvent(row.request_id, token, logprob, self._version, reason))
            if reason is not None:
                finished.append(slot)
        self._drop(finished)
        return events

    def update_weights(self, version: int, state: Mapping[str, torch.Tensor]) -> None:
        """Take new weights; live rows are prefilled again before they go on."""
        self._model.load_state(state)
        self._version = version
        self._waiting.extendleft(sorted(self._live, key=lambda row: -row.request_id))
        self._live = []

    def load(self) -> EngineLoad:
        return EngineLoad(
            num_running=len(self._live),
            num_waiting=len(self._waiting),
            batch_tokens=_padded_tokens(len(self._live), self._longest()),
            max_batch_tokens=self.max_batch_tokens,
        )

    def _check(self, prompt: list[int], sampling: SamplingParams) -> None:
        length = len(prompt) + sampling.max_new_tokens
        if not prompt:
            raise InputError("the prompt is empty; at least one token is needed")
        if not all(0 <= token < self._model.vocab_size for token in prompt):
            raise InputError(f"the prompt holds token ids outside of 0 to {self._model.vocab_size - 1}")
        if sampling.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {sampling.max_new_tokens}; at least 1 is needed")
        if length > self.max_model_len:
            raise InputError(
                f"prompt ({len(prompt)} tokens) and max_new_tokens ({sampling.max_new_tokens}) make {length}; "
                f"this server takes {self.max_model_len} together"
            )
        if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
            raise InputError(f"temperature is {sampling.temperature}; it must be 0 or more")
        if not 0 < sampling.top_p <= 1:
            raise InputError(f"top_p is {sampling.top_p}; it must be above 0 and at most 1")
        if sampling.top_k < 0:
            raise InputError(f"top_k is {sampling.top_k}; it must be 0 (no limit) or more")

    def _longest(self) -> int:
        return max((len(row.tokens) for row in self._live), default=0)

    def _preempt_until_rows_can_grow(self) -> None:
        """Send the youngest rows back to the queue until the batch fits its budget. One row always fits."""
        while len(self._live) > 1 and _padded_tokens(len(self._live), self._longest()) > self.max_batch_tokens:
            youngest = max(range(len(self._live)), key=lambda slot: self._live[slot].request_id)
            self._waiting.appendleft(self._live[youngest])
            self._drop([youngest])

    def _admit(self) -> None:
        """Move waiting rows into the batch, oldest first, and prefill them in groups of similar length."""
        admitted: list[_Row] = []
        longest, prefill_tokens = self._longest(), 0
        while self._waiting and len(self._live) + len(admitted) < self.max_batch_size:
            row = self._waiting[0]
            longest = max(longest, len(row.tokens))
            prefill_tokens += len(row.tokens)
            num_rows = len(self._live) + len(admitted) + 1
            if num_rows > 1 and _padded_tokens(num_rows, longest) > self.max_batch_tokens:
                break
            if admitted and prefill_tokens > self.max_prefill_tokens:
                break
            admitted.append(self._waiting.popleft())
        longest = max([self._longest(), *(len(row.tokens) for row in admitted)])
        self._model.cache.reserve(len(self._live) + len(admitted), longest, live_rows=len(self._live))
        for group in _length_groups(admitted, self.max_prefill_tokens):
            self._model.prefill([row.tokens[:-1] for row in group], first_slot=len(self._live))
            self._live.extend(group)

    def _drop(self, slots: list[int]) -> None:
        """Take rows out of the batch, filling their slots with the last rows."""
        if not slots:
            return
        gone = set(slots)
        num_left = len(self._live) - len(gone)
        targets = sorted(slot for slot in gone if slot < num_left)
        sources = [slot for slot in range(num_left, len(self._live)) if slot not in gone]
        if targets:
            longest = max(len(self._live[slot].tokens) for slot in sources)
            with torch.inference_mode():
                self._model.cache.move(sources, targets, longest)
            for source, target in zip(sources, targets, strict=True):
                self._live[target] = self._live[source]
        del self._live[num_left:]


def _padded_tokens(num_rows: int, longest: int) -> int:
    """KV positions that rows of up to `longest` tokens take up."""
    return num_rows * rounded_up(longest, ROUND_POSITIONS)


def _length_groups(rows: list[_Row], max_tokens: int) -> list[list[_Row]]:
    """Rows sorted by length, cut so that a group's padded size stays within `max_tokens` and padding below half."""
    groups: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: (len(row.tokens), row.tokens)):
        length = len(row.tokens)
        group = groups[-1] if groups else None
        if group and (len(group) + 1) * length <= max_tokens and length <= 2 * max(len(group[0].tokens), 16):
            group.append(row)
        else:
            groups.append([row])
    return groups
