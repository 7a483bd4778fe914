"""A Hugging Face causal LM over rows of different lengths: fills caches from prompts, decodes one token for each.

Prefill stores the keys and values of all tokens but a row's newest one, and `decode` takes the newest of every row. So
all logits come from one place, prefill needs none, and a row whose cache was dropped (new weights, or no room) is
prefilled again by the same call. Prompts are padded on the right, where causal attention can't see the padding, and
positions count from 0 in every row.

Shape letters: n rows, T tokens, K cached positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cluster.contracts.errors import InputError
from cluster.contracts.model_needs import other_attention
from serving.engine.kv_cache import SlotCache

SELF_CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}  # nats


class RaggedModel:
    """The model and its slots. Row i is slot i; callers keep rows in slots 0..n-1 without holes.

    Raises `InputError` for an architecture that this can't run right: windowed or recurrent layers, or one whose
    ragged decoding differs from its plain forward pass, which is tried out on a few tokens.
    """

    def __init__(self, model: Any, *, max_cached_tokens: int) -> None:
        config = model.config.get_text_config()
        if other := other_attention(model.config):
            raise InputError(
                f"engine 'torch' runs models with full attention in every layer; {config.model_type!r} has {other}"
            )
        self.model = model.eval().requires_grad_(False)
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 1 << 30
        self.device: torch.device = model.device
        self.cache = SlotCache(config.num_hidden_layers, max_cached_tokens)
        self._self_check()

    @torch.inference_mode()
    def prefill(self, sequences: Sequence[Sequence[int]], *, first_slot: int) -> None:
        """Store keys and values of `sequences` (each without its newest token) in slots `first_slot..`.

        Equal sequences (answers to one prompt) are computed once. Room must have been reserved.
        """
        distinct: dict[tuple[int, ...], int] = {}
        source_n = [distinct.setdefault(tuple(sequence), len(distinct)) for sequence in sequences]
        longest = max(map(len, distinct))
        if longest == 0:
            return
        padded = [list(sequence) + [0] * (longest - len(sequence)) for sequence in distinct]
        self.cache.begin_prefill(first_slot, torch.tensor(source_n, device=self.device))
        self.model(
            input_ids=torch.tensor(padded, device=self.device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )

    @torch.inference_mode()
    def decode(self, tokens_n: Sequence[int], lengths_n: Sequence[int]) -> torch.Tensor:
        """Logits (n, V) after each row's newest token `tokens_n[i]`; the row has `lengths_n[i]` tokens with it."""
        longest = max(lengths_n)
        lengths = torch.tensor(lengths_n, device=self.device)
        positions = lengths - 1
        self.cache.begin_decode(torch.arange(len(tokens_n), device=self.device), positions, longest)
        mask_n11K = (torch.arange(longest, device=self.device) < lengths[:, None])[:, None, None, :]
        output = self.model(
            input_ids=torch.tensor(tokens_n, device=self.device)[:, None],
            position_ids=positions[:, None],
            attention_mask=mask_n11K,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @torch.no_grad()
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy new weights in, converting dtype and device. Checked whole before anything is changed.

        A tensor that shares its storage with another one (tied embeddings) may be left out.
        """
        own = self.model.state_dict(keep_vars=False)
        unknown = sorted(set(state) - set(own))
        given = {own[name].data_ptr() for name in state if name in own}
        missing = sorted(name for name, tensor in own.items() if name not in state and tensor.data_ptr() not in given)
        misshapen = [
            f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in state.items()
            if name in own and tensor.shape != own[name].shape
        ]
        if unknown or missing or misshapen:
            raise InputError(
                "these weights are not this model's: "
                f"unknown {unknown[:5]}, missing {missing[:5]}, of another shape {misshapen[:5]}"
            )
        for name, tensor in state.items():
            own[name].copy_(tensor)

    def _self_check(self) -> None:
        """Decode three ragged rows and compare with plain forward passes of each."""
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(self.vocab_size, (length,), generator=generator).tolist() for length in (1, 7, 4)]
        self.cache.reserve(len(rows), max(map(len, rows)), live_rows=0)
        self.prefill([row[:-1] for row in rows], first_slot=0)
        ragged = torch.log_softmax(self.decode([r[-1] for r in rows], [len(r) for r in rows]).float(), -1)
        with torch.inference_mode():
            plain = torch.stack([self.model(torch.tensor([row], device=self.device)).logits[0, -1] for row in rows])
        difference = float((ragged - torch.log_softmax(plain.float(), -1)).abs().max())
        tolerance = SELF_CHECK_TOLERANCE.get(self.model.dtype, 1e-3)
        if not difference <= tolerance:
            raise InputError(
                f"engine 'torch' can't run {self.model.config.model_type!r}: its log-probabilities decoded from a "
                f"cache differ from a plain forward pass by {difference:.3g} (allowed {tolerance})"
            )
