"""The fields of a template such as "Positive?\\n\\n{text}". Kept apart so that a spec is checked without more."""

from __future__ import annotations

import re
from string import Formatter

_ITEM = re.compile(r"(.+?)\[([0-9]+)\]")

Piece = tuple[str, str | None, int | None]  # text, then the column whose value follows it, and the item in that


def parsed_template(text: str) -> list[Piece]:
    """The pieces of a template. Raises `ValueError` where it is none."""
    pieces: list[Piece] = []
    for literal, field, form, conversion in Formatter().parse(text):
        if field is None:
            pieces.append((literal, None, None))
            continue
        match = _ITEM.fullmatch(field)
        name = match[1] if match else field
        if form or conversion or not name or set(name) & set("[]{}."):
            raise ValueError(
                f"{{{field}}} is no field; a field is a column's name, or {{name[0]}} for an item of a list"
            )
        pieces.append((literal, name, int(match[2]) if match else None))
    return pieces
