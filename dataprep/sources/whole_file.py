"""Files that are one document each: a page of HTML, a text, or source code."""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

from cluster.contracts.compression import DamagedStream, decompressed
from cluster.contracts.records import Quarantined
from dataprep.sources.charset import decode_text
from dataprep.sources.code_languages import code_language
from dataprep.sources.formats import Codec
from dataprep.sources.records import HtmlPage, PlainText, Provenance, SourceRecord, Unwanted

_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16 and UTF-32 hold zero bytes


def read_html_file(stream: BinaryIO, uri: str, *, codec: Codec | None, max_record_bytes: int) -> SourceRecord:
    """The page that a file is; quarantined for what `_content` refuses."""
    content = _content(stream, uri, codec, max_record_bytes)
    return content if isinstance(content, Quarantined) else HtmlPage(Provenance(uri, 0), content, charset=None)


def read_text_file(stream: BinaryIO, uri: str, *, codec: Codec | None, max_record_bytes: int) -> SourceRecord:
    """The text that a file is, UTF-8 or what it looks like; quarantined as "binary" and for what `_content` refuses."""
    content = _content(stream, uri, codec, max_record_bytes)
    if isinstance(content, Quarantined):
        return content
    if _is_binary(content):
        return Quarantined(uri, 0, "binary", "holds zero bytes")
    return PlainText(Provenance(uri, 0), decode_text(content))


def read_code_file(stream: BinaryIO, uri: str, *, max_record_bytes: int) -> SourceRecord:
    """The source code that a file is, with its language; unwanted as "unknown_language", quarantined as texts are."""
    record = read_text_file(stream, uri, codec=None, max_record_bytes=max_record_bytes)
    if not isinstance(record, PlainText):
        return record
    language = code_language(uri)
    if language is None:
        return Unwanted(record.provenance, "unknown_language", uri.rsplit("/", 1)[-1])
    return replace(record, language=language)


def _is_binary(content: bytes) -> bool:
    """Whether a file is no text: it holds a zero byte, and no byte order mark that would explain it."""
    return b"\0" in content and not content.startswith(_BYTE_ORDER_MARKS)


def _content(stream: BinaryIO, uri: str, codec: Codec | None, max_bytes: int) -> bytes | Quarantined:
    """All of a file, or a record that quarantines it: "record_too_large", or the reason of its `DamagedStream`."""
    content = bytearray()
    try:
        for chunk in decompressed(stream, codec):
            content += chunk
            if len(content) > max_bytes:
                return Quarantined(uri, 0, "record_too_large", f"over {max_bytes} bytes")
    except DamagedStream as damage:
        return Quarantined(uri, len(content), damage.reason, damage.detail)
    return bytes(content)
