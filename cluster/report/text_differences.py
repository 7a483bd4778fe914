"""Two texts side by side: which words only one of them has."""

from __future__ import annotations

import difflib
import re

_MAX_MARKED_WORDS = 2000  # of a text; finding what differs takes time in the square of its length


def marked_differences(first: str, second: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in parts, each with whether the other text lacks it; compared word by word."""
    words = [re.findall(r"\s+|\S+", text) for text in (first, second)]
    if max(map(len, words)) > _MAX_MARKED_WORDS:
        return [(first, False)], [(second, False)]
    parts: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False)
    for tag, a_begin, a_end, b_begin, b_end in matcher.get_opcodes():
        for own, begin, end, side in ((words[0], a_begin, a_end, parts[0]), (words[1], b_begin, b_end, parts[1])):
            if begin < end:
                side.append(("".join(own[begin:end]), tag != "equal"))
    return parts
