"""Checks of answers that need no model: pure functions, each known by a name that task files use.

A task file names a check and its arguments; it never brings code. Every check takes the answer and its own arguments
and says whether the answer passes.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import regex

Checker = Callable[..., bool]

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_MAX_PATTERN = 500  # characters of a regular expression from a file
_REGEX_TIMEOUT_S = 1.0  # an expression from a file may be of those that take for ever on some texts


def normalised(text: str) -> str:
    """Text as exact match compares it: NFKC, lower case, without punctuation, English articles and repeated spaces.

    These are the rules of SQuAD's evaluation (Rajpurkar et al. 2016), with Unicode's punctuation too.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", folded)).split())


def last_number(text: str) -> float | None:
    """The last number that stands in a text; None where there is none. Commas between thousands are left out."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _contains(answer: str, *, text: str, ignore_case: bool = True) -> bool:
    return text.casefold() in answer.casefold() if ignore_case else text in answer


def _excludes(answer: str, *, text: str, ignore_case: bool = True) -> bool:
    return not _contains(answer, text=text, ignore_case=ignore_case)


def _matches(answer: str, *, pattern: str) -> bool:
    try:
        return regex.search(pattern, answer, timeout=_REGEX_TIMEOUT_S) is not None
    except TimeoutError:
        return False


def _number(answer: str, *, value: float, tolerance: float = 1e-6) -> bool:
    found = last_number(answer)
    return found is not None and math.isclose(found, value, rel_tol=tolerance, abs_tol=tolerance)


def _is_json(answer: str, *, keys: list[str] | None = None) -> bool:
    text = answer.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return keys is None or (isinstance(value, dict) and set(keys) <= value.keys())


def _between(count: int, at_least: int | None, at_most: int | None) -> bool:
    return (at_least is None or count >= at_least) and (at_most is None or count <= at_most)


def _words(answer: str, *, at_least: int | None = None, at_most: int | None = None) -> bool:
    return _between(len(answer.split()), at_least, at_most)


def _sentences(answer: str, *, at_least: int | None = None, at_most: int | None = None) -> bool:
    return _between(len([s for s in re.split(r"[.!?]+(?:\s+|$)", answer.strip()) if s.strip()]), at_least, at_most)


def _lines(answer: str, *, at_least: int | None = None, at_most: int | None = None) -> bool:
    return _between(len([line for line in answer.splitlines() if line.strip()]), at_least, at_most)


def _bullets(answer: str, *, at_least: int | None = None, at_most: int | None = None) -> bool:
    return _between(len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s+\S", answer, re.MULTILINE)), at_least, at_most)


def _starts_with(answer: str, *, text: str) -> bool:
    return answer.lstrip().startswith(text)


def _ends_with(answer: str, *, text: str) -> bool:
    return answer.rstrip().endswith(text)


def _lower_case(answer: str) -> bool:
    return answer == answer.lower()


def _upper_case(answer: str) -> bool:
    return answer == answer.upper()


_COUNTS: Mapping[str, tuple[type, ...]] = {"at_least": (int,), "at_most": (int,)}
CHECKERS: Mapping[str, tuple[Checker, Mapping[str, tuple[type, ...]], frozenset[str]]] = {
    # name: (function, its arguments with their types, those that are required)
    "contains": (_contains, {"text": (str,), "ignore_case": (bool,)}, frozenset({"text"})),
    "excludes": (_excludes, {"text": (str,), "ignore_case": (bool,)}, frozenset({"text"})),
    "regex": (_matches, {"pattern": (str,)}, frozenset({"pattern"})),
    "number": (_number, {"value": (int, float), "tolerance": (int, float)}, frozenset({"value"})),
    "json": (_is_json, {"keys": (list,)}, frozenset()),
    "words": (_words, _COUNTS, frozenset()),
    "sentences": (_sentences, _COUNTS, frozenset()),
    "lines": (_lines, _COUNTS, frozenset()),
    "bullets": (_bullets, _COUNTS, frozenset()),
    "starts_with": (_starts_with, {"text": (str,)}, frozenset({"text"})),
    "ends_with": (_ends_with, {"text": (str,)}, frozenset({"text"})),
    "lower_case": (_lower_case, {}, frozenset()),
    "upper_case": (_upper_case, {}, frozenset()),
}


def problem_of(check: Any) -> str | None:
    """What is wrong with a check as a task file gives it ({"check": NAME, ...}); None where nothing is."""
    if not isinstance(check, dict) or check.get("check") not in CHECKERS:
        return "unknown_check"
    _, arguments, required = CHECKERS[check["check"]]
    given = {name: value for name, value in check.items() if name != "check"}
    if not required <= given.keys() or not given.keys() <= arguments.keys():
        return "bad_check_arguments"
    for name, value in given.items():
        of_type = isinstance(value, arguments[name])
        if not of_type or (isinstance(value, bool) and bool not in arguments[name]):
            return "bad_check_arguments"
    if "pattern" in given:
        try:
            regex.compile(given["pattern"])
        except (regex.error, RecursionError, OverflowError):
            return "bad_pattern"
        if len(given["pattern"]) > _MAX_PATTERN:
            return "bad_pattern"
    return None


def passes(answer: str, check: Mapping[str, Any]) -> bool:
    """Whether an answer passes a check that `problem_of` finds nothing wrong with."""
    function, _, _ = CHECKERS[check["check"]]
    return function(answer, **{name: value for name, value in check.items() if name != "check"})
