"""Makes prompts and answers out of running text: each sentence is the answer to the one before it.

A reward model that has few conversations to learn from learns first what good text is (preference model
pre-training: Askell et al., "A General Language Assistant as a Laboratory for Alignment", 2021, section 4).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from cluster.contracts.hashing import order_key
from training.conversations.prompt_answers import PromptAnswer, words

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")


def neighbouring_sentences(
    texts: Iterable[str], *, count: int, min_words: int, max_words: int, seed: int
) -> list[PromptAnswer]:
    """`count` pairs of neighbouring sentences that have `min_words` to `max_words` words each, or all there are.

    They are drawn by a hash of `seed` and themselves, so that one more text changes few of those drawn, and come
    in the order of that hash. A sentence begins with a capital.
    """
    found: dict[PromptAnswer, None] = {}
    for text in texts:
        for pair in _neighbours(text):
            lengths = [len(words(sentence)) for sentence in (pair.prompt[0][1], pair.answer)]
            if min(lengths) >= min_words and max(lengths) <= max_words:
                found.setdefault(pair)
    return heapq.nsmallest(count, found, key=lambda pair: order_key(seed, pair.prompt[0][1], pair.answer))


def _neighbours(text: str) -> Iterator[PromptAnswer]:
    for before, sentence in pairwise(_BETWEEN_SENTENCES.split(text)):
        if sentence[:1].isupper():
            yield PromptAnswer((("user", before),), sentence)
