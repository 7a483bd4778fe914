"""Turns a stream of token ids into a stream of text: whole characters only, and cut at stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what a decoder shows for a character whose bytes are not all there
_MAX_HELD_IDS = 8  # a character has at most 4 bytes; ids held longer than this are no text and are shown as they are


class TextStream:
    """Feed ids in with `push`, get text out; `finish` gives what was still held back.

    A decoder works on context (spaces, multi-byte characters), so ids can't be decoded one by one: the last
    finished stretch is decoded again in front of the new ids and its text taken off.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [string for string in stop if string]
        self._ids: list[int] = []
        self._context = 0  # ids from here on are decoded
        self._done = 0  # ids up to here have become text
        self._pending = ""  # text that may be the beginning of a stop string
        self.stopped = False  # a stop string came up; nothing follows

    def push(self, token_id: int) -> str:
        """The text that is certain now; often empty."""
        if self.stopped:
            return ""
        self._ids.append(token_id)
        known, whole = self._decode(self._done), self._decode(len(self._ids))
        if whole.endswith(_INCOMPLETE) and len(self._ids) - self._done < _MAX_HELD_IDS:
            return ""
        self._context, self._done = self._done, len(self._ids)
        return self._release(whole[len(known) :])

    def finish(self) -> str:
        """The rest: an incomplete character, and text that never became a stop string."""
        if self.stopped:
            return ""
        rest = self._decode(len(self._ids))[len(self._decode(self._done)) :]
        text = self._release(rest)
        if not self.stopped:
            text, self._pending = text + self._pending, ""
        return text

    def _decode(self, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[self._context : end], skip_special_tokens=True)
        return text

    def _release(self, text: str) -> str:
        self._pending += text
        found = [at for at in (self._pending.find(string) for string in self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._pending[: min(found)]
        held = max((_overlap(self._pending, string) for string in self._stop), default=0)
        cut = len(self._pending) - held
        released, self._pending = self._pending[:cut], self._pending[cut:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without being all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
