"""Cleans conversations by the data room's own parts: language, bad words, evaluation sets, personal data.

A conversation is judged as one text, of all that user and assistant say. The first rule that fails is its reason. What
is replaced by placeholders is replaced in every message, also in reasoning and in the arguments of calls, after all
else has been judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.contracts.records import Conversation
from dataprep.filters.config import BadWordsSettings, DecontaminationSettings
from dataprep.kernel_cache import keep_compiled_kernels
from dataprep.pii.config import PiiSettings
from training.conversations.config import CleaningSettings, ConversationsConfig
from training.conversations.part import Cleaned, Cleaner

_JUDGED_ROLES = ("user", "assistant")


def cleaner_of(config: ConversationsConfig) -> Cleaner | None:
    """The cleaner of a stage's settings, read once in a process; None where they clean nothing.

    Raises `InputError` for a word list or an evaluation set that can't be read, or of which nothing is looked for.
    """
    return None if config.cleaning == CleaningSettings() else _cleaner(config.cleaning.model_dump_json())


@lru_cache(maxsize=2)
def _cleaner(settings: str) -> Cleaner:
    return ConversationCleaner(CleaningSettings.model_validate_json(settings))


class ConversationCleaner:
    """Cleans batches of conversations, each conversation by itself."""

    def __init__(self, settings: CleaningSettings) -> None:
        keep_compiled_kernels()  # before a module with kernels is imported
        from dataprep.filters.bad_words import BadWords
        from dataprep.filters.decontamination import EvaluationIndex, items_left_out

        self._settings = settings
        self._bad_words = self._index = None
        if settings.bad_words is not None:
            self._words = BadWordsSettings(**settings.bad_words.model_dump())
            self._bad_words = BadWords.read(self._words)
        if settings.contamination is not None:
            sets = DecontaminationSettings(**settings.contamination.model_dump())
            items_left_out(sets)  # which refuses sets of which nothing would be looked for
            self._index = EvaluationIndex.read(sets)

    def __call__(self, conversations: Sequence[Conversation]) -> Cleaned:
        from dataprep.text.column import TextColumn

        settings = self._settings
        texts = pa.array(["\n\n".join(_judged(conversation)) for conversation in conversations], pa.large_string())
        column = TextColumn(texts)
        reasons = np.full(len(conversations), None, object)
        counts = Counter[str]()
        if settings.languages is not None:
            self._judge_languages(texts, reasons, counts)
        if self._bad_words is not None:
            _set(reasons, self._bad_words.judge(column, self._words).codes_D > 0, "bad_words")
        if self._index is not None:
            hits = self._index.find(column)
            counts.update(f"passages of {self._index.texts[number].file}" for number in hits.texts)
            _set(reasons, hits.counts_D() > 0, "contaminated")
        cleaned = list(conversations)
        if settings.pii is not None:
            kept = [n for n, reason in enumerate(reasons) if reason is None]
            found = self._without_personal_data([conversations[n] for n in kept], counts)
            for n, conversation in zip(kept, found, strict=True):
                cleaned[n] = conversation
        return Cleaned(cleaned, reasons.tolist(), counts)

    def _judge_languages(self, texts: pa.LargeStringArray, reasons: Any, counts: Counter[str]) -> None:
        from dataprep.filters.language import identify

        identified, scores = identify(texts)
        languages = identified.to_pylist()
        counts.update(f"language {language}" for language in languages)
        wanted = set(self._settings.languages or ())
        _set(reasons, np.array([language not in wanted for language in languages], bool), "language")
        _set(reasons, scores < self._settings.language_threshold, "language_score")

    def _without_personal_data(
        self, conversations: Sequence[Conversation], counts: Counter[str]
    ) -> Iterator[Conversation]:
        from dataprep.pii.redact import redact
        from dataprep.text.column import TextColumn

        assert self._settings.pii is not None
        texts: list[str] = []
        for conversation in conversations:
            _with_texts(conversation, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
        found = redact(
            TextColumn(pa.array(texts, pa.large_string())), PiiSettings.model_validate(self._settings.pii.model_dump())
        )
        counts.update({f"placeholders of {kind}": count for kind, count in found.counts.items()})
        replaced = iter(found.texts.to_pylist())
        return (_with_texts(conversation, lambda _: next(replaced)) for conversation in conversations)


def _judged(conversation: Conversation) -> Iterator[str]:
    return (message["content"] for message in conversation["messages"] if message["role"] in _JUDGED_ROLES)


def _set(reasons: Any, fails: Any, reason: str) -> None:
    """Give a reason to those that fail and have none yet."""
    reasons[fails & np.array([found is None for found in reasons], bool)] = reason


def _with_texts(conversation: Conversation, change: Any) -> Conversation:
    """The conversation with every text of its messages changed, one after another in a fixed order."""
    messages = []
    for message in conversation["messages"]:
        changed = {**message, "content": change(message["content"])}
        if "reasoning_content" in message:
            changed["reasoning_content"] = change(message["reasoning_content"])
        if "tool_calls" in message:
            changed["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": _changed(call["function"]["arguments"], change)}}
                for call in message["tool_calls"]
            ]
        messages.append(changed)
    return {**conversation, "messages": messages}  # type: ignore[typeddict-item]


def _changed(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    return value
