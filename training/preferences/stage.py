"""Preference pairs out of conversations: a person's answer against one made worse, at equal length.

Two kinds of worse answers. *Disturbed order*: the same words in another order, so that neither length nor
any count of words tells the two apart. *Other answer*: what somebody answered to another prompt, with as
many words. In a disturbed answer the first word, the last and those beside punctuation stay in place: else
a capital in the middle, or "the." at the end, would give it away to a judge that reads no order at all.

Where `texts` are given, neighbouring sentences of theirs make further pairs, which only reward models are
trained on; held-out pairs are of conversations alone.

Rows are in TRL's format: `prompt`, `chosen` and `rejected` are lists of messages.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.records import Conversation, Message, Quarantined
from training.config import PreferencesConfig
from training.conversations.prompt_answers import Exchange, PreferencePair, exchanges, word_spans
from training.conversations.reading import (
    QUARANTINE_FILE,
    parse_messages,
    parse_text,
    quarantine_parquet,
    read_conversations,
    read_rows,
    split_conversations,
)
from training.feedback.sentences import sentence_exchanges

TRAIN_FILE = "pairs.jsonl"
HELDOUT_FILE = "heldout.jsonl"
TEXT_FILE = "text_pairs.jsonl"

_NUM_CANDIDATES = 16  # orders tried for one disturbed answer


def disturb_order(text: str, generator: random.Random) -> str | None:
    """`text` with its words in another order; None where no other order gives another text.

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


def disturbed_pairs(rows: Sequence[Exchange], *, per_answer: int, seed: int) -> list[PreferencePair]:
    """Up to `per_answer` pairs for each exchange: its answer over different disturbed orders of it."""
    pairs = []
    for row in rows:
        # Seeded by the row itself, so that one more conversation changes no other one's pairs.
        generator = random.Random(f"{seed}\n{row.prompt}\n{row.answer}")
        made: dict[str, None] = {}
        for _ in range(2 * per_answer):
            text = disturb_order(row.answer, generator)
            if text is not None and len(made) < per_answer:
                made.setdefault(text)
        pairs += [row.pair(text, "disturbed_order") for text in made]
    return pairs


def other_answer_pairs(rows: Sequence[Exchange], *, per_answer: int, seed: int) -> list[PreferencePair]:
    """Up to `per_answer` pairs for each exchange: its answer over answers to other prompts, of as many words."""
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
        pairs += [row.pair(text, "other_answer") for text in chosen]
    return pairs


@dataclass(frozen=True)
class PairSets:
    """Both sides, and what was left out on the way."""

    train: list[PreferencePair]
    heldout: list[PreferencePair]
    counts: dict[str, int]


def build_pairs(conversations: Sequence[Conversation], config: PreferencesConfig) -> PairSets:
    """All pairs of both sides; no held-out prompt or answer occurs among the training exchanges."""
    split = split_conversations(conversations, fraction=config.heldout_fraction, seed=config.split_seed)
    train, heldout = exchanges(split.train), exchanges(split.heldout)
    train_answers = {row.answer for row in train}
    novel = [row for row in heldout if row.answer not in train_answers]
    sides = {}
    num_short = num_long = num_undisturbed = 0
    for side, rows in (("train", train), ("heldout", novel)):
        fitting = [row for row in rows if row.num_words >= config.min_words]
        num_short += len(rows) - len(fitting)
        if config.max_words is not None:
            num_long += sum(row.num_words > config.max_words for row in fitting)
            fitting = [row for row in fitting if row.num_words <= config.max_words]
        pairs: list[PreferencePair] = []
        for wanted, build in (
            (config.disturbed_per_answer, disturbed_pairs),
            (config.other_answers_per_answer, other_answer_pairs),
        ):
            per_answer = min(wanted, config.heldout_per_answer) if side == "heldout" else wanted
            pairs += build(fitting, per_answer=per_answer, seed=config.split_seed)
        num_undisturbed += len(fitting) - len({(_key(p["prompt"]), p["chosen"][0]["content"]) for p in pairs})
        sides[side] = pairs
    counts = {
        "num_conversations": len(conversations),
        "num_leaking_conversations": split.num_leaking,
        "num_train_answers": len(train),
        "num_heldout_answers": len(heldout),
        "num_heldout_answers_also_in_train": len(heldout) - len(novel),
        "num_answers_too_short": num_short,
        "num_answers_too_long": num_long,
        "num_answers_without_pair": num_undisturbed,
        "num_train_pairs": len(sides["train"]),
        "num_heldout_pairs": len(sides["heldout"]),
    }
    kinds = Counter(f"{side}_{pair['negative']}" for side, pairs in sides.items() for pair in pairs)
    return PairSets(sides["train"], sides["heldout"], counts | {f"num_{k}_pairs": n for k, n in sorted(kinds.items())})


def build_text_pairs(config: PreferencesConfig) -> tuple[list[PreferencePair], list[Quarantined]]:
    """One pair of disturbed order for each of `text_answers` sentences of `texts`, and the rows without a text."""
    if config.texts is None:
        return [], []
    texts, quarantined = read_rows(config.texts, parse_text)
    drawn = sentence_exchanges(
        texts,
        count=config.text_answers,
        min_words=config.min_words,
        max_words=config.text_max_words,
        seed=config.split_seed,
    )
    return disturbed_pairs(drawn, per_answer=1, seed=config.split_seed), quarantined


def run(config: PreferencesConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Write `pairs.jsonl`, `heldout.jsonl` and the rows that were no conversations. Needs neither model nor Ray."""
    conversations, quarantined = read_conversations(config.conversations)
    sets = build_pairs(conversations, config)
    text_pairs, quarantined_texts = build_text_pairs(config)
    quarantined += quarantined_texts
    if not sets.train or not sets.heldout:
        raise InputError(
            f"{len(conversations)} conversations give {len(sets.train)} training and {len(sets.heldout)} held-out "
            f"pairs; both sides need some: lower min_words ({config.min_words}) or change heldout_fraction "
            f"({config.heldout_fraction})"
        )
    files = [
        _write(output, TRAIN_FILE, _json_lines(sets.train)),
        _write(output, HELDOUT_FILE, _json_lines(sets.heldout)),
        _write(output, TEXT_FILE, _json_lines(text_pairs)),
        _write(output, QUARANTINE_FILE, quarantine_parquet(quarantined)),
    ]
    context.progress.update(len(conversations), len(conversations), "conversations")
    metrics = {**sets.counts, "num_text_pairs": len(text_pairs), "num_quarantined": len(quarantined)}
    return StageResult(metrics, files)


def read_pairs(uri: str) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(training, held-out) pairs of a preferences artifact, of conversations. Raises `CorruptArtifact`."""
    return _read(uri, TRAIN_FILE), _read(uri, HELDOUT_FILE)


def read_text_pairs(uri: str) -> list[PreferencePair]:
    """The pairs of sentences of a preferences artifact. Raises `CorruptArtifact`."""
    return _read(uri, TEXT_FILE)


def _read(uri: str, name: str) -> list[PreferencePair]:
    try:
        lines = storage.read_bytes(storage.join(uri, name)).splitlines()
        return [_parse_pair(orjson.loads(line)) for line in lines]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{uri}/{name} does not hold preference pairs: {error!r}") from error


def _parse_pair(row: dict[str, Any]) -> PreferencePair:
    return PreferencePair(
        prompt=parse_messages(row["prompt"]),
        chosen=parse_messages(row["chosen"]),
        rejected=parse_messages(row["rejected"]),
        negative=row["negative"],
    )


def _neighbours(sequence: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(sequence))


def _key(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _write(output: str, name: str, content: bytes) -> WrittenFile:
    storage.write_bytes(storage.join(output, name), content)
    return WrittenFile(name, len(content), hashlib.sha256(content).hexdigest())
