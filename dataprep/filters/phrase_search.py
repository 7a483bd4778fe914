"""Counts listed words and phrases in texts, whatever their case, by a trie of code points.

The trie is walked from every place where a word begins. An entry counts only where it is not part of a longer word: the
characters on either side must be no letters, digits or "_" (Python's `\\w`). Letters of scripts without spaces need no
such border, whether they are in an entry or beside it.

Shape letter: N nodes of the trie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

from dataprep.text.characters import TABLE_SIZE, UNSPACED, character_flags, decode, flags_of, lower_characters
from dataprep.text.column import TextColumn
from dataprep.text.hash_table import find_slot, insert, new_table
from dataprep.text.hashing import mix
from dataprep.text.numba_pointers import pointer_to

_CODE_BITS = 21  # of a code point; the key of an edge is (node << 21 | code point)
_ROOT = 0


@dataclass(frozen=True)
class PhraseTrie:
    """A set of phrases. Its edges are in a hash table, from a mixed key to the node that the edge leads to."""

    edge_keys: npt.NDArray[np.uint64]
    edge_stamps: npt.NDArray[np.int64]
    edge_targets: npt.NDArray[np.int64]
    is_entry_N: npt.NDArray[np.uint8]  # 1 where an entry ends at the node

    @classmethod
    def of(cls, phrases: Iterable[str]) -> PhraseTrie:
        """The trie of `phrases` in lower case; empty ones are left out."""
        children: dict[tuple[int, int], int] = {}
        entries: set[int] = set()
        for phrase in phrases:
            node = _ROOT
            for character in phrase:
                code = _lower_of(character)
                node = children.setdefault((node, code), len(children) + 1)
            entries.add(node)
        is_entry_N = np.zeros(len(children) + 1, np.uint8)
        is_entry_N[list(entries - {_ROOT})] = 1
        keys, stamps = new_table(len(children))
        targets = np.zeros(len(keys), np.int64)
        edges = np.array([node << _CODE_BITS | code for node, code in children], np.uint64)
        _fill(edges, keys, stamps, targets)
        return cls(keys, stamps, targets, is_entry_N)

    def count(self, column: TextColumn) -> npt.NDArray[np.int64]:
        """[D] how often entries occur in each document. Of those that begin at one place, only the longest counts."""
        return _count(
            column.data, column.offsets, character_flags(), lower_characters(), word_characters(),
            self.edge_keys, self.edge_stamps, self.edge_targets, self.is_entry_N,
        )  # fmt: skip


@lru_cache(maxsize=1)
def word_characters() -> npt.NDArray[np.uint8]:
    """[0x20000] 1 for each code point that is one of Python's `\\w`, 0 for the others."""
    return np.array([chr(code).isalnum() or chr(code) == "_" for code in range(TABLE_SIZE)], np.uint8)


def _lower_of(character: str) -> int:
    code = ord(character)
    return int(lower_characters()[code]) if code < TABLE_SIZE else code


@numba.njit(cache=True)
def _fill(edges, keys_array, stamps_array, targets):
    keys, stamps = pointer_to(keys_array), pointer_to(stamps_array)
    mask = np.uint64(keys_array.size - 1)
    for e in range(edges.size):
        key = mix(edges[e])
        insert(keys, stamps, mask, key, 1)
        targets[find_slot(keys, stamps, mask, key, 1)] = e + 1


@numba.njit(cache=True)
def _count(
    data_array, offsets, flags_array, lower_array, word_array, keys_array, stamps_array, targets_array, entry_array
):
    data, flags, lower, is_word = (
        pointer_to(data_array), pointer_to(flags_array), pointer_to(lower_array), pointer_to(word_array)
    )  # fmt: skip
    keys, stamps, targets = pointer_to(keys_array), pointer_to(stamps_array), pointer_to(targets_array)
    is_entry = pointer_to(entry_array)
    mask = np.uint64(keys_array.size - 1)
    counts_D = np.zeros(offsets.size - 1, np.int64)
    for d in range(counts_D.size):
        i, stop = offsets[d], offsets[d + 1]
        inside = False  # whether the character before belongs to a word of a spaced script
        while i < stop:
            code, width = decode(data, i, stop)
            unspaced = flags_of(code, flags) & UNSPACED != 0
            if not inside or unspaced:
                end = _longest_entry(data, i, stop, flags, lower, is_word, keys, stamps, mask, targets, is_entry)
                if end > i:
                    counts_D[d] += 1
                    while i < end:
                        code, width = decode(data, i, end)
                        i += width
                    inside = _is_word(code, is_word) and flags_of(code, flags) & UNSPACED == 0
                    continue
            inside = not unspaced and _is_word(code, is_word)
            i += width
    return counts_D


@numba.njit(cache=True)
def _longest_entry(data, i, stop, flags, lower, is_word, keys, stamps, mask, targets, is_entry):
    """Where the longest entry ends that begins at byte `i` and ends where a word may end; `i` where there is none."""
    found = i
    node = np.int64(_ROOT)
    while i < stop:
        code, width = decode(data, i, stop)
        folded = np.int64(lower[code]) if code < TABLE_SIZE else code
        slot = find_slot(keys, stamps, mask, mix(np.uint64(node << _CODE_BITS | folded)), 1)
        if stamps[slot] != 1:
            break
        node = targets[slot]
        i += width
        if is_entry[node] != 0:
            if i == stop or flags_of(code, flags) & UNSPACED:
                found = i
            else:
                following, _ = decode(data, i, stop)
                if not _is_word(following, is_word) or flags_of(following, flags) & UNSPACED:
                    found = i
    return found


@numba.njit(cache=True)
def _is_word(code, is_word):
    return code >= TABLE_SIZE or is_word[code] != 0
