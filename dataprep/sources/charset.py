"""Bytes to characters: by what is declared where the bytes agree, else as they look."""

from __future__ import annotations

from resiliparse.parse.encoding import bytes_to_str, detect_encoding


def decode_html(body: bytes, charset: str | None) -> str:
    """The characters of a page: by the server's charset or its own `<meta>`, or as its bytes look.

    A declared encoding that the bytes contradict gives way to the detected one; bytes that are no characters
    of either become U+FFFD.
    """
    return _decode(body, charset or detect_encoding(body, from_html_meta=True) or "utf-8")


def decode_text(content: bytes) -> str:
    """The characters of a text without a declaration: UTF-8, or as its bytes look; U+FFFD for what is no character."""
    return _decode(content, "utf-8")


def _decode(content: bytes, declared: str) -> str:
    try:
        return bytes_to_str(content, declared, errors="strict", fallback_encodings=())
    except (UnicodeError, LookupError):  # also of "undefined", a codec whose every use is an error
        return bytes_to_str(content, detect_encoding(content) or "utf-8", errors="replace", fallback_encodings=())
