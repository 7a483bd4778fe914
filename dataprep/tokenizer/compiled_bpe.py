"""Byte-level BPE of a whole column of texts in one compiled loop: pre-tokens are cut, merged and remembered.

Within each pre-token (`pretokenizer.py`) of all adjacent pairs of tokens the one that was learnt first is merged, the
leftmost of equals, until no pair is a merge: Sennrich et al. 2016, arXiv:1508.07909, as Hugging Face's library does it.
Most pre-tokens of a text were met before (Zipf's law). So the ids of each are kept in a cache, which finds it by a hash
and compares its bytes.

Shape letters: D documents, T tokens, M merges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numba
import numpy as np
import numpy.typing as npt

from dataprep.text.hashing import hash_bytes, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.tokenizer.pretokenizer import character_classes, pre_token_end

MAX_PRE_TOKEN_BYTES = 1024  # merging takes time quadratic in it; documents with a longer one go elsewhere
_CACHED_PRE_TOKEN_BYTES = 64
_CACHE_ENTRIES = 1 << 17  # pre-tokens, 20 MB in all
_CACHE_BYTES = 16 * _CACHE_ENTRIES  # of the pre-tokens' text; at least as many ids
_NO_PAIR = np.uint64(0xFFFFFFFFFFFFFFFF)
_NO_MERGE = np.int32(0x7FFFFFFF)
_TEXT_START, _TEXT_LENGTH, _IDS_START, _IDS_LENGTH = range(4)  # columns of the cache's entries


class BpeEncoder:
    """Encodes columns of texts by one vocabulary. It must not be used by two threads at once: they share its cache."""

    def __init__(
        self, byte_ids: Sequence[int], merges_M: Sequence[tuple[int, int]], merged_ids_M: Sequence[int]
    ) -> None:
        """`byte_ids` are the ids of the 256 bytes, `merges_M` pairs of ids in the order they were learnt.

        `merged_ids_M` are what these become. Raises `ValueError` where the lengths don't fit.
        """
        if len(byte_ids) != 256 or len(merges_M) != len(merged_ids_M):
            raise ValueError(f"{len(byte_ids)} byte ids, {len(merges_M)} merges of {len(merged_ids_M)} results")
        self._byte_ids = np.array(byte_ids, np.uint32)
        pairs = np.array(merges_M, np.uint64).reshape(-1, 2)
        size = 1 << max(4, int(2 * len(pairs)).bit_length())
        self._pairs = np.full(size, _NO_PAIR, np.uint64)
        self._ranks, self._merged = np.empty(size, np.int32), np.empty(size, np.uint32)
        _fill_pairs(
            pairs[:, 0] << np.uint64(32) | pairs[:, 1], np.array(merged_ids_M, np.uint32), self._pairs, self._ranks,
            self._merged,
        )  # fmt: skip
        self._slots = np.zeros(4 * _CACHE_ENTRIES, np.int32)  # 1 + an entry's number; 0: free
        self._slot_hashes = np.zeros(4 * _CACHE_ENTRIES, np.uint64)
        self._entries = np.zeros((_CACHE_ENTRIES, 4), np.int64)
        self._cached_text = np.zeros(_CACHE_BYTES + _CACHED_PRE_TOKEN_BYTES, np.uint8)
        self._cached_ids = np.zeros(_CACHE_BYTES + _CACHED_PRE_TOKEN_BYTES, np.uint32)
        self._used = np.zeros(3, np.int64)  # entries, bytes of text, ids

    def encode(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(ids [T], offsets [D+1], too_long [D]) of the UTF-8 texts `data[offsets[d]:offsets[d+1]]`.

        A document with a pre-token of more than `MAX_PRE_TOKEN_BYTES` is marked as too long and gets no ids.
        """
        ids = np.empty(max(1, int(offsets[-1] - offsets[0])), np.uint32)
        id_offsets, too_long = np.zeros(len(offsets), np.int64), np.zeros(len(offsets) - 1, bool)
        _encode(
            data, offsets, character_classes(), self._byte_ids, self._pairs, self._ranks, self._merged, self._slots,
            self._slot_hashes, self._entries, self._cached_text, self._cached_ids, self._used, ids, id_offsets,
            too_long,
        )  # fmt: skip
        return ids[: id_offsets[-1]], id_offsets, too_long


def bpe_encoder(vocab: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> BpeEncoder | None:
    """The encoder of a vocabulary of byte strings; None where a byte, or a part or the result of a merge, has no id."""
    try:
        pairs = [(vocab[left], vocab[right]) for left, right in merges]
        return BpeEncoder([vocab[bytes([b])] for b in range(256)], pairs, [vocab[a + b] for a, b in merges])
    except KeyError:
        return None


@numba.njit(cache=True)
def _fill_pairs(keys, merged_ids, pairs, ranks, merged):
    """Fill the hash table of pairs: open addressing with linear probing, at most half full."""
    mask = np.uint64(pairs.size - 1)
    for rank in range(keys.size):
        slot = mix(keys[rank]) & mask
        while pairs[slot] != _NO_PAIR and pairs[slot] != keys[rank]:
            slot = (slot + np.uint64(1)) & mask
        pairs[slot], ranks[slot], merged[slot] = keys[rank], rank, merged_ids[rank]


@numba.njit(cache=True)
def _pair_slot(left, right, pairs, mask):
    """The slot of a pair of ids in the table, or a free slot, which means that the pair is no merge."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    slot = mix(key) & mask
    while pairs[slot] != key and pairs[slot] != _NO_PAIR:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True)
def _rank(left, right, pairs, ranks, mask):
    slot = _pair_slot(left, right, pairs, mask)
    return _NO_MERGE if pairs[slot] == _NO_PAIR else ranks[slot]


@numba.njit(cache=True)
def _merge(data, start, end, byte_ids, pairs, ranks, merged, mask, ids, pair_ranks):
    """Write the ids of a pre-token, `data[start:end]`, to `ids`; returns their number. `pair_ranks` is scratch."""
    count = end - start
    for k in range(count):
        ids[k] = byte_ids[data[start + k]]
    for k in range(count - 1):
        pair_ranks[k] = _rank(ids[k], ids[k + 1], pairs, ranks, mask)
    while count > 1:
        least = _NO_MERGE
        for k in range(count - 1):
            least = min(least, pair_ranks[k])
        if least == _NO_MERGE:
            break
        at = 0
        while pair_ranks[at] != least:
            at += 1
        ids[at] = merged[_pair_slot(ids[at], ids[at + 1], pairs, mask)]
        count -= 1
        for k in range(at + 1, count):
            ids[k] = ids[k + 1]
            pair_ranks[k - 1] = pair_ranks[k]
        if at > 0:
            pair_ranks[at - 1] = _rank(ids[at - 1], ids[at], pairs, ranks, mask)
        if at + 1 < count:
            pair_ranks[at] = _rank(ids[at], ids[at + 1], pairs, ranks, mask)
    return count


@numba.njit(cache=True)
def _encode(
    data_array, offsets, classes_array, byte_ids, pairs, ranks, merged, slots, slot_hashes, entries, cached_text,
    cached_ids, used, ids, id_offsets, too_long,
):  # fmt: skip
    data, classes = pointer_to(data_array), pointer_to(classes_array)
    merge_mask, cache_mask = np.uint64(pairs.size - 1), np.uint64(slots.size - 1)
    pre_token_ids, pair_ranks = np.empty(MAX_PRE_TOKEN_BYTES, np.uint32), np.empty(MAX_PRE_TOKEN_BYTES, np.int32)
    n = 0
    for d in range(offsets.size - 1):
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            end = pre_token_end(data, i, stop, classes)
            length = end - i
            if length > MAX_PRE_TOKEN_BYTES:
                too_long[d] = True
                n = id_offsets[d]
                break
            h = hash_bytes(data, i, end)
            slot = h & cache_mask
            entry = -1
            while slots[slot] != 0:
                if slot_hashes[slot] == h:
                    entry = slots[slot] - 1
                    at = entries[entry, _TEXT_START]
                    same = entries[entry, _TEXT_LENGTH] == length
                    for k in range(length if same else 0):
                        same = same and cached_text[at + k] == data[i + k]
                    if same:
                        break
                    entry = -1
                slot = (slot + np.uint64(1)) & cache_mask
            if entry >= 0:
                at = entries[entry, _IDS_START]
                for k in range(entries[entry, _IDS_LENGTH]):
                    ids[n] = cached_ids[at + k]
                    n += 1
            else:
                count = _merge(data, i, end, byte_ids, pairs, ranks, merged, merge_mask, pre_token_ids, pair_ranks)
                for k in range(count):
                    ids[n + k] = pre_token_ids[k]
                n += count
                if length <= _CACHED_PRE_TOKEN_BYTES and used[0] < _CACHE_ENTRIES and used[1] < _CACHE_BYTES:
                    entry = used[0]
                    slots[slot], slot_hashes[slot] = entry + 1, h
                    entries[entry, _TEXT_START], entries[entry, _TEXT_LENGTH] = used[1], length
                    entries[entry, _IDS_START], entries[entry, _IDS_LENGTH] = used[2], count
                    for k in range(length):
                        cached_text[used[1] + k] = data[i + k]
                    for k in range(count):
                        cached_ids[used[2] + k] = pre_token_ids[k]
                    used[0], used[1], used[2] = used[0] + 1, used[1] + length, used[2] + count
            i = end
        id_offsets[d + 1] = n
