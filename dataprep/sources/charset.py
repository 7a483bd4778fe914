"""Bytes to characters: by the encoding that is declared, or, where the bytes contradict it, the one they look like."""

from __future__ import annotations

from resiliparse.parse.encoding import bytes_to_str, detect_encoding


def decode_html(body: bytes, charset: str | None) -> str:
    """The characters of a page, by the charset that the server named, or its own `<meta>`, or the one it looks like.

    A declared encoding that the bytes contradict gives way to the one that is detected. Bytes that are no characters in
    either become U+FFFD.
    """
    return _decode(body, charset or detect_encoding(body, from_html_meta=True) or "utf-8")


def decode_text(content: bytes) -> str:
    """The characters of a text that declares nothing: UTF-8, or what its bytes look like; U+FFFD for other bytes."""
    return _decode(content, "utf-8")


def _decode(content: bytes, declared: str) -> str:
    try:
        return bytes_to_str(content, declared, errors="strict", fallback_encodings=())
    except (UnicodeError, LookupError):  # also of "undefined", a codec whose every use is an error
        return bytes_to_str(content, detect_encoding(content) or "utf-8", errors="replace", fallback_encodings=())
