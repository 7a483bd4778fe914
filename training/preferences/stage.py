"""The preferences stage: pairs out of conversations, a person's answer against a worse one of equal length.

There are two kinds of worse answers. *Disturbed order* has the same words in another order, so that neither length nor
any count of words tells the two apart. *Other answer* is what somebody answered to another prompt, with as many words.
`training/feedback/worse_answers.py` makes both.

Where `texts` are given, neighbouring sentences of theirs make further pairs. Only reward models are trained on these;
held-out pairs come from conversations alone.

Rows are in TRL's format: `prompt`, `chosen` and `rejected` are lists of messages.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError
from cluster.contracts.records import Conversation, Message, Quarantined
from training.conversations.prompt_answers import prompt_answers
from training.conversations.reading import (
    QUARANTINE_FILE,
    parse_text,
    quarantine_parquet,
    read_conversations,
    read_rows,
)
from training.conversations.splitting import split_conversations
from training.feedback.pairs import HELDOUT_FILE, TEXT_FILE, TRAIN_FILE, PreferencePair
from training.feedback.sentences import neighbouring_sentences
from training.feedback.worse_answers import disturbed_pairs, other_answer_pairs
from training.preferences.config import PreferencesConfig


@dataclass(frozen=True)
class PairSets:
    """Both sides, and what was left out on the way."""

    train: list[PreferencePair]
    heldout: list[PreferencePair]
    counts: dict[str, int]


def build_pairs(conversations: Sequence[Conversation], config: PreferencesConfig) -> PairSets:
    """All pairs of both sides; no held-out prompt or answer occurs in a pair for training."""
    split = split_conversations(conversations, fraction=config.heldout_fraction, seed=config.split_seed)
    train, heldout = prompt_answers(split.train), prompt_answers(split.heldout)
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
    drawn = neighbouring_sentences(
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


def _key(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _write(output: str, name: str, content: bytes) -> WrittenFile:
    storage.write_bytes(storage.join(output, name), content)
    return WrittenFile(name, len(content), hashlib.sha256(content).hexdigest())
