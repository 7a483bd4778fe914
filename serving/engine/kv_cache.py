"""The key-value cache of the live batch: row b's tokens lie at positions 0.. of slot b, with no padding before them.

Rows differ in length, so a decode step writes the key of row b at the row's own position, and attends over the first
`length_b` keys by a mask. Nothing is concatenated or copied per step (`DynamicCache` copies all of it). A new row takes
the slot after the last one, and one other row is moved into the hole that a finished row leaves.

Shape letters: L layers, B slots, n live rows, H key-value heads, K cached positions, T prompt tokens, D head size.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

ROUND_POSITIONS = 64  # the length of the buffers grows in these steps
ROUND_SLOTS = 8


def rounded_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `value`."""
    return -(-value // step) * step


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, `(B, H, K, D)` each; what `SlotCache.begin_*` set says where `update` writes."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        slots, length = self._cache.capacity
        self.keys = key_states.new_zeros((slots, key_states.shape[1], length, key_states.shape[3]))
        self.values = value_states.new_zeros((slots, value_states.shape[1], length, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values; returns those to attend over."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self._cache
        if cache.decode_positions_n is None:
            first, last = cache.prefill_slots
            length = key_states.shape[2]
            self.keys[first:last, :, :length] = key_states[cache.prefill_source_n]
            self.values[first:last, :, :length] = value_states[cache.prefill_source_n]
            return key_states, value_states
        rows_n = cache.decode_rows_n
        self.keys[rows_n, :, cache.decode_positions_n] = key_states[:, :, 0]
        self.values[rows_n, :, cache.decode_positions_n] = value_states[:, :, 0]
        num_rows, length = cache.decode_extent
        return self.keys[:num_rows, :, :length], self.values[:num_rows, :, :length]

    def resize(self, slots: int, length: int, num_rows: int) -> None:
        """Give the buffers another capacity, keeping the first `num_rows` slots."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((slots, old.shape[1], length, old.shape[3]))
            kept = min(length, old.shape[2])
            new[:num_rows, :, :kept] = old[:num_rows, :, :kept]
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        return 0  # positions are passed with every call; the model never derives them from here

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # prefill attends to itself alone; decode brings its own mask


class SlotCache(Cache):
    """All layers' slots. Call `reserve`, then `begin_prefill` or `begin_decode` before a forward pass."""

    def __init__(self, num_layers: int, max_tokens: int) -> None:
        self.max_tokens = max_tokens  # slots times positions; spare slots are taken only within it
        self.capacity = (0, 0)  # slots, positions
        self.prefill_slots = (0, 0)
        self.prefill_source_n = torch.empty(0, dtype=torch.long)
        self.decode_rows_n = torch.empty(0, dtype=torch.long)
        self.decode_positions_n: torch.Tensor | None = None
        self.decode_extent = (0, 0)
        super().__init__(layers=[SlotLayer(self) for _ in range(num_layers)])

    def reserve(self, slots: int, length: int, *, live_rows: int) -> None:
        """Make room for `slots` rows of up to `length` tokens; the first `live_rows` slots keep their content.

        Growing on one side gives back what the other no longer needs, so the buffers follow the batch.
        """
        if slots <= self.capacity[0] and length <= self.capacity[1]:
            return
        positions = rounded_up(length, ROUND_POSITIONS)
        spare = min(rounded_up(slots, ROUND_SLOTS), self.max_tokens // positions)
        self.capacity = (max(slots, spare), positions)
        for layer in self.layers:
            layer.resize(*self.capacity, live_rows)

    def begin_prefill(self, first_slot: int, source_n: torch.Tensor) -> None:
        """The next forward pass fills slots `first_slot..`; slot i takes row `source_n[i]` of the pass's batch."""
        self.prefill_slots = (first_slot, first_slot + len(source_n))
        self.prefill_source_n = source_n
        self.decode_positions_n = None

    def begin_decode(self, rows_n: torch.Tensor, positions_n: torch.Tensor, longest: int) -> None:
        """The next forward pass adds one token to each of the first slots, at its own position."""
        self.decode_rows_n, self.decode_positions_n = rows_n, positions_n
        self.decode_extent = (len(rows_n), longest)

    def move(self, sources: list[int], targets: list[int], longest: int) -> None:
        """Copy slots `sources` over slots `targets`, up to position `longest`."""
        for layer in self.layers:
            layer.keys[targets, :, :longest] = layer.keys[sources, :, :longest]
            layer.values[targets, :, :longest] = layer.values[sources, :, :longest]
