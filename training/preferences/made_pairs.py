"""Pairs made of conversations: a person's answer against a worse one of equal length.

There are two kinds of worse answers. *Disturbed order* has the same words in another order, so that neither length nor
any count of words tells the two apart. *Other answer* is what somebody answered to another prompt, with as many words.
`training/feedback/worse_answers.py` makes both.

Where `texts` are given, neighbouring sentences of theirs make further pairs. Only reward models are trained on these;
held-out pairs come from conversations alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.contracts.records import Conversation, Message
from training.conversations.prompt_answers import prompt_answers
from training.feedback.reading import QuarantinedRow, read_texts
from training.feedback.rows import PreferencePair
from training.feedback.sentences import neighbouring_sentences
from training.feedback.worse_answers import disturbed_pairs, other_answer_pairs
from training.preferences.config import PreferencesConfig


@dataclass(frozen=True)
class PairSets:
    """Both sides, and what was left out on the way."""

    train: list[PreferencePair]
    heldout: list[PreferencePair]
    counts: dict[str, int]


def build_pairs(
    train_conversations: Sequence[Conversation],
    heldout_conversations: Sequence[Conversation],
    config: PreferencesConfig,
) -> PairSets:
    """All pairs of both sides; no held-out prompt or answer occurs in a pair for training."""
    train, heldout = prompt_answers(train_conversations), prompt_answers(heldout_conversations)
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
            pairs += build(fitting, per_answer=per_answer, seed=config.pair_seed)
        num_undisturbed += len(fitting) - len({(_key(p["prompt"]), p["chosen"][0]["content"]) for p in pairs})
        sides[side] = pairs
    counts = {
        "num_conversations": len(train_conversations) + len(heldout_conversations),
        "num_train_answers": len(train),
        "num_heldout_answers": len(heldout),
        "num_heldout_answers_also_in_train": len(heldout) - len(novel),
        "num_answers_too_short": num_short,
        "num_answers_too_long": num_long,
        "num_answers_without_pair": num_undisturbed,
        "num_train_pairs": len(sides["train"]),
        "num_heldout_pairs": len(sides["heldout"]),
    }
    kinds = Counter(f"{side}_{pair['source_name']}" for side, pairs in sides.items() for pair in pairs)
    return PairSets(sides["train"], sides["heldout"], counts | {f"num_{k}_pairs": n for k, n in sorted(kinds.items())})


def build_text_pairs(config: PreferencesConfig) -> tuple[list[PreferencePair], list[QuarantinedRow]]:
    """One pair of disturbed order for each of `text_answers` sentences of `texts`, and the rows without a text."""
    if config.texts is None:
        return [], []
    texts, quarantined = read_texts(config.texts)
    drawn = neighbouring_sentences(
        texts,
        count=config.text_answers,
        min_words=config.min_words,
        max_words=config.text_max_words,
        seed=config.pair_seed,
    )
    pairs = disturbed_pairs(drawn, per_answer=1, seed=config.pair_seed)
    return [PreferencePair(**{**pair, "reward_model_only": True}) for pair in pairs], quarantined


def _key(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)
