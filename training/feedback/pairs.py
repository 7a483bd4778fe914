"""Preference pairs: what one row of a preferences artifact holds, and how the artifact's files are read."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import orjson

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.records import Message
from training.conversations.prompt_answers import PromptAnswer
from training.conversations.reading import parse_messages


class PreferencePair(TypedDict):
    """One row of a preferences artifact."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    negative: Literal["disturbed_order", "other_answer"]  # how `rejected` was made


TRAIN_FILE = "pairs.jsonl"


HELDOUT_FILE = "heldout.jsonl"


TEXT_FILE = "text_pairs.jsonl"


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


def preference_pair(
    preferred: PromptAnswer, rejected: str, negative: Literal["disturbed_order", "other_answer"]
) -> PreferencePair:
    """The answer of `preferred` over the text `rejected`, to the same prompt."""
    return PreferencePair(
        prompt=[Message(role=role, content=content) for role, content in preferred.prompt],  # type: ignore[typeddict-item]
        chosen=[Message(role="assistant", content=preferred.answer)],
        rejected=[Message(role="assistant", content=rejected)],
        negative=negative,
    )
