"""Slow, readable twins of the compiled text loops: plain Python over strings, one document at a time."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter

from dataprep.text.characters import EDGE, INFIX, QUOTE, UNSPACED, character_flags

_ABBREVIATIONS = set(
    "Mr. Mrs. Ms. Dr. Prof. St. Mt. Jr. Sr. Inc. Ltd. Co. co. Corp. Bros. Gen. Gov. Sen. Rep. Rev. Adm. vs. Ph.D. "
    "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec.".split()
)
_CONTRACTION = re.compile(r"(?<=[^\W\d_])(?:n['’]t|['’](?:ll|ve|re|d|m))$|(?<=.)['’][sS]$")
_INITIALISM = re.compile(r"(?:[^\W\d_]\.)+")
_HOST = re.compile(
    r"(?:[a-z0-9\u0080-\U0010ffff](?:[\w\u0080-\U0010ffff-]*[a-z0-9\u0080-\U0010ffff])?\.)+"
    r"(?:[a-z\u0080-\U0010ffff]{2,})(?::[0-9]{2,5})?(?:[/?#].*)?",
    re.IGNORECASE,
)
_IP_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+){3}(?::[0-9]{2,5})?(?:[/?#].*)?")


def _has(character: str, flag: int) -> bool:
    code = ord(character)
    if code >= 0x20000:
        return flag == UNSPACED and code < 0x40000
    return bool(character_flags()[code] & flag)


def _lower(character: str) -> bool:
    return character.isalpha() and unicodedata.category(character) not in ("Lu", "Lt")


def _upper(character: str) -> bool:
    return character.isalpha() and unicodedata.category(character) != "Ll"


def words(text: str) -> list[str]:
    """`dataprep.text.words.split_words` on one text."""
    return [word for piece in text.split() for word in _piece(piece)]


def _piece(piece: str) -> list[str]:
    left, right = [], []
    while piece and (width := _leading(piece)):
        left.append(piece[:width])
        piece = piece[width:]
    while piece and (width := _trailing(piece)):
        right.append(piece[-width:])
        piece = piece[:-width]
    return left + (_inside(piece) if piece else []) + right[::-1]


def _leading(piece: str) -> int:
    first = piece[0]
    dots = len(piece) - len(piece.lstrip("."))
    if dots:
        return dots if dots > 1 else 0
    if first == "+":
        return 0 if piece[1:2].isdecimal() else 1
    return int(_has(first, EDGE) or unicodedata.category(first) == "Sc" or first in "=%§–—")


def _trailing(piece: str) -> int:
    last, before = piece[-1], piece[-2:-1]
    dots = len(piece) - len(piece.rstrip("."))
    if dots:
        if dots > 1:
            return dots
        if not before or piece in _ABBREVIATIONS:
            return 0
        if _INITIALISM.fullmatch(piece) and not any(_has(c, UNSPACED) for c in piece):
            return 0
        two_capitals = _upper(before) and _upper(piece[-3:-2] or " ")
        return int(_lower(before) or before.isdecimal() or before in "%-+²" or _has(before, EDGE) or two_capitals)
    if _has(last, EDGE) or last in "–—":
        return 1
    if last in "%+" or unicodedata.category(last) == "Sc":
        return int(before.isdecimal())
    match = _CONTRACTION.search(piece)
    return len(match[0]) if match else 0


def _inside(piece: str) -> list[str]:
    if piece in ("cannot", "Cannot"):
        return [piece[:3], piece[3:]]
    unspaced = any(_has(c, UNSPACED) for c in piece)
    out: list[str] = []
    start = i = 0
    while i < len(piece):
        width = 0
        if _has(piece[i], UNSPACED):
            width = 1
            while i + width < len(piece) and unicodedata.category(piece[i + width])[0] == "M":
                width += 1
        elif unspaced and piece[i] > "\x7f" and unicodedata.category(piece[i])[0] == "P":
            width = 1
        elif i > 0 and _has(piece[i], INFIX):
            width = _infix(piece, i)
            if width and not out and is_address(piece):
                break
        if width:
            out += [piece[start:i]] if start < i else []
            out.append(piece[i : i + width])
            start = i + width
        i += width or 1
    return out + ([piece[start:]] if start < len(piece) else [])


def _infix(piece: str, i: int) -> int:
    c, before = piece[i], piece[i - 1]
    run = len(re.match(re.escape(c) + "*", piece[i:])[0]) if c in ".-—" else 1  # type: ignore[index]
    after = piece[i + run : i + run + 1]
    if c == ".":
        if run > 1:
            return run
        joins = _lower(before) or _has(before, QUOTE)
        return int(joins and after != "" and (_upper(after) or _has(after, QUOTE)))
    if c == "…" or unicodedata.category(c) == "So":
        return 1
    if c in "+-*^" and before.isdecimal() and re.match("[0-9-]", piece[i + 1 :]):
        return 1
    if c in "+*^":
        return 0
    if c == ",":
        return int(before.isalpha() and after.isalpha())
    longest = {"-": 3, "—": 2}.get(c, 1)
    return run if (before.isalpha() or before.isdecimal()) and after.isalpha() and run <= longest else 0


def is_address(piece: str) -> bool:
    """Whether a piece reads as a URL, a host name or an e-mail address."""
    scheme = re.match(r"[A-Za-z0-9_+.\-\u0080-\U0010ffff]{2,}://(?=.)", piece)
    rest = piece[scheme.end() :] if scheme else piece
    candidates = [rest] + [rest[i + 1 :] for i, c in enumerate(rest) if c == "@" and i > 0]
    return any(_is_host(candidate) for candidate in candidates)


def _is_host(rest: str) -> bool:
    if _IP_ADDRESS.fullmatch(rest):
        return True
    if not _HOST.fullmatch(rest):
        return False
    last_label = re.split(r"[:/?#]", rest, maxsplit=1)[0].rsplit(".", 1)[1]
    return not re.search("[A-Z]", last_label)


def terms(text: str) -> list[str]:
    """`dataprep.text.match_terms.split_terms` on one text, folded."""
    text = re.sub(r"\d+(?:[.,]\d+)*", "0", text)
    out: list[str] = []
    current = ""
    unspaced = False
    for c in [*text, " "]:
        is_term = unicodedata.category(c)[0] in "LMN"
        is_mark = unicodedata.category(c)[0] == "M"
        if not is_term or _has(c, UNSPACED) or (unspaced and not is_mark):
            out += [current] if current else []
            current, unspaced = "", False
        if is_term:
            current += _fold(c)
            unspaced = unspaced or _has(c, UNSPACED)
    return out


def _fold(c: str) -> str:
    if unicodedata.category(c) == "Mn" and unicodedata.combining(c):
        return ""
    if "가" <= c <= "힣":
        return c
    return unicodedata.normalize("NFD", c.lower())[0]


def is_symbol(word: str) -> bool:
    return all(unicodedata.category(c)[0] in "PS" or unicodedata.category(c) == "Cc" for c in word)


def is_unspaced(word: str) -> bool:
    return any(_has(c, UNSPACED) for c in word)


def duplicates(items: list[str]) -> tuple[int, int]:
    """(items that occurred before, their characters)."""
    seen: set[str] = set()
    count = chars = 0
    for item in items:
        if item in seen:
            count, chars = count + 1, chars + len(item)
        seen.add(item)
    return count, chars


def top_ngram_chars(all_words: list[str], n: int, space: str = " ") -> int:
    """Characters, `space` between the words included, of all occurrences of the most frequent n-gram."""
    ngrams = [tuple(all_words[i : i + n]) for i in range(len(all_words) - n + 1)]
    if not ngrams:
        return 0
    counts = Counter(ngrams)
    most = max(counts.values())
    return most * len(space.join(next(ngram for ngram in ngrams if counts[ngram] == most)))


def duplicate_ngram_chars(all_words: list[str], n: int) -> int:
    """Characters in n-grams that occurred before, stepping over each one found."""
    seen: set[tuple[str, ...]] = set()
    i = chars = 0
    while i + n <= len(all_words):
        ngram = tuple(all_words[i : i + n])
        if ngram in seen:
            chars += len("".join(ngram))
            i += n
        else:
            seen.add(ngram)
            i += 1
    return chars


_SYLLABLES = "ka lo mi ter un de pre con sta vi the of and Be To café naïve ещё straße ﬁn İzmir".split()
_ODDITIES = (
    "... … -- --- — – ( ) [1] [12] [edit] [citation needed] [] [x] { } # ## • - * ! ? !! ?! . .. , ; : ' '' \" “a” ‘b’ "
    "don't can't it's It’s I'd we'll they've you're I'm couldn't've n't 's cannot Cannot gonna e.g. i.e. U.S. U.S.A. "
    "Mr. Dr. Ph.D. etc. p.m. a. A. USA. x² 50%. 5% %d $5 5€ €5 +1 1+ C++ 3.14 1,000 2020-01-02 1-2 5*3 2^8 1,2,a a,b "
    "state-of-the-art x--y x---y x----y a—b a——b foo.Bar foo.bar key=value key=1 a/b/c /usr/lib/x <tag> </tag> a:b a<b "
    "http://ex-a.org/b-c x@y-z.org x-y.org:80/a-b 10.0.0.1/a-b a_b.c-d/e _x_ x_y f(x) f() a[i] @me #tag ~x x~y "
    "日本語のテキスト。 中文,中文 ไทยกำลัง abc日本 ☃ a☃b © 한국어 और हिन्दी ٣٫١٤ ١٢٣ é e\u0301 \u0301 𝒜 𐐀 𠀀𠀁 🙂 a🙂b "
    "JavaScript javascript: lorem ipsum Privacy Policy terms of use uses cookies"
).split(" ")
_SPACES = [" "] * 30 + [
    "  ",
    "\t",
    "\u00a0",
    "\u3000",
    "\n",
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\u2028",
    "\x0c",
    " \n",
    "\n  ",
]


def random_text(rng: random.Random, *, length: int, oddities: float = 0.2) -> str:
    """`length` words, some of them odd, with some phrases and lines repeated."""
    out: list[str] = []
    for _ in range(length):
        if rng.random() < oddities:
            out.append(rng.choice(_ODDITIES))
        else:
            out.append("".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3))))
            if rng.random() < 0.12:
                out[-1] += rng.choice([".", ",", "!", "?", '."', ".[3]", "...", "…"])
        out.append(rng.choice(_SPACES))
        if len(out) > 20 and rng.random() < 0.03:
            start = rng.randrange(len(out) - 10)
            out += out[start : start + rng.randint(4, 24)]
    return "".join(out)


def random_texts(seed: int, count: int, *, longest: int = 200, oddities: float = 0.2) -> list[str]:
    """Texts of 0 to `longest` words."""
    rng = random.Random(seed)
    return [random_text(rng, length=rng.randint(0, longest), oddities=oddities) for _ in range(count)]
