"""Reads evaluation files, which training data must not contain: JSON Lines or text, plain or compressed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from cluster.contracts import storage
from cluster.contracts.compression import DamagedStream, decompressed
from cluster.contracts.errors import InputError
from dataprep.sources.formats import Codec

_JSON_ENDINGS = (".jsonl", ".ndjson")
_CODECS: dict[str, Codec] = {".gz": "gz", ".bz2": "bz2", ".zst": "zst"}


class EvaluationText(NamedTuple):
    """A text of an evaluation set: a string of a JSON row, or a paragraph."""

    file: str  # the URI of the file
    line: int  # where it begins, from 1
    text: str


def read_evaluation_sets(patterns: Sequence[str], fields: Sequence[str] | None) -> list[EvaluationText]:
    """The texts of all files: of JSON Lines every string in a row (or in its `fields`), of a text its paragraphs.

    Raises `InputError` for a file that is missing or is not what its name says.
    """
    texts: list[EvaluationText] = []
    for pattern in patterns:
        files = storage.expand(pattern)
        if not files:
            raise InputError(f"decontamination: {pattern} matches no file")
        for file in files:
            try:
                content = _read(file.uri).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InputError(f"decontamination: {file.uri} is not UTF-8: {error}") from error
            name = file.uri.lower()
            stem = name.rsplit(".", 1)[0] if name.endswith(tuple(_CODECS)) else name
            numbered = _rows(file.uri, content, fields) if stem.endswith(_JSON_ENDINGS) else _paragraphs(content)
            texts += [EvaluationText(file.uri, line, text) for line, text in numbered]
    return texts


def _read(uri: str) -> bytes:
    codec = next((codec for ending, codec in _CODECS.items() if uri.lower().endswith(ending)), None)
    try:
        return b"".join(decompressed(io.BytesIO(storage.read_bytes(uri)), codec))
    except DamagedStream as error:
        raise InputError(f"decontamination: {uri} can't be read ({error}); copy it again") from error


def _rows(uri: str, content: str, fields: Sequence[str] | None) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"decontamination: line {number} of {uri} is no JSON: {error}") from error
        if fields is not None:
            row = [row.get(field) for field in fields] if isinstance(row, dict) else None
        yield from ((number, text) for text in _strings(row))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


def _paragraphs(content: str) -> Iterator[tuple[int, str]]:
    paragraph: list[str] = []
    lines = content.splitlines()
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield number - len(paragraph), "\n".join(paragraph)
            paragraph = []
