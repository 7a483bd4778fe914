"""Makes answers that are worse by construction: a person's words in another order, or another prompt's answer.

In a disturbed answer the first word, the last one and those beside punctuation stay in place. Otherwise a capital in
the middle, or "the." at the end, would give the answer away to a judge that sees no order at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from training.conversations.prompt_answers import PromptAnswer, word_spans
from training.feedback.rows import PreferencePair, preference_pair

_NUM_CANDIDATES = 16  # orders tried for one disturbed answer


def disturb_order(text: str, generator: random.Random) -> str | None:
    """`text` with its words in another order. None where every order of them gives the same text.

    Of some random orders, the one that leaves the fewest words beside the neighbour they had. Only words
    with plain spaces around them move, and neither the first nor the last: both texts have the same length,
    the same multiset of space-separated words, and of tokens under any BPE that splits at spaces.
    """
    spans = word_spans(text)
    gaps = [text[end:start] for (_, end), (start, _) in pairwise(spans)]
    movable = [i for i in range(1, len(spans) - 1) if gaps[i - 1] == " " and gaps[i] == " "]
    original = [text[start:end] for start, end in spans]
    neighbours = set(_neighbours(original))
    best: tuple[int, list[str]] | None = None
    for _ in range(_NUM_CANDIDATES):
        order = list(movable)
        generator.shuffle(order)
        shuffled = list(original)
        for slot, source in zip(movable, order, strict=True):
            shuffled[slot] = original[source]
        kept = sum(pair in neighbours for pair in _neighbours(shuffled))
        if shuffled != original and (best is None or kept < best[0]):
            best = kept, shuffled
    if best is None:
        return None
    pieces = [text[: spans[0][0]], best[1][0]]
    for gap, word in zip(gaps, best[1][1:], strict=True):
        pieces += [gap, word]
    return "".join([*pieces, text[spans[-1][1] :]])


def disturbed_pairs(rows: Sequence[PromptAnswer], *, per_answer: int, seed: int) -> list[PreferencePair]:
    """Up to `per_answer` pairs for each answer: it over different disturbed orders of it."""
    pairs = []
    for row in rows:
        # Seeded by the row itself, so that one more conversation changes no other one's pairs.
        generator = random.Random(f"{seed}\n{row.prompt}\n{row.answer}")
        made: dict[str, None] = {}
        for _ in range(2 * per_answer):
            text = disturb_order(row.answer, generator)
            if text is not None and len(made) < per_answer:
                made.setdefault(text)
        pairs += [preference_pair(row, text, "disturbed_order") for text in made]
    return pairs


def other_answer_pairs(rows: Sequence[PromptAnswer], *, per_answer: int, seed: int) -> list[PreferencePair]:
    """Up to `per_answer` pairs for each answer: it over answers to other prompts, of as many words."""
    answers_to: dict[tuple[tuple[str, str], ...], set[str]] = {}
    by_length: dict[int, list[str]] = {}
    for row in rows:
        answers_to.setdefault(row.prompt, set()).add(row.answer)
        by_length.setdefault(row.num_words, []).append(row.answer)
    pairs = []
    for row in rows:
        generator = random.Random(f"{seed}\n{row.prompt}\n{row.answer}")
        candidates = sorted(set(by_length[row.num_words]) - answers_to[row.prompt])
        chosen = generator.sample(candidates, min(per_answer, len(candidates)))
        pairs += [preference_pair(row, text, "other_answer") for text in chosen]
    return pairs


def _neighbours(sequence: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(sequence))
