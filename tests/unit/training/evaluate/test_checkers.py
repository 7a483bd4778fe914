"""Checks of answers."""

import time
from typing import Any

import pytest

from training.evaluate.checkers import last_number, normalised, passes, problem_of
from training.evaluate.probes import SHOULD_ANSWER, SHOULD_REFUSE, is_refusal


@pytest.mark.parametrize(
    ("answer", "check", "expected"),
    [
        ("It is Paris.", {"check": "contains", "text": "paris"}, True),
        ("It is Paris.", {"check": "contains", "text": "paris", "ignore_case": False}, False),
        ("It is Paris.", {"check": "excludes", "text": "london"}, True),
        ("Call 555-0199 now", {"check": "regex", "pattern": r"\d{3}-\d{4}"}, True),
        ("So 3 + 4 makes 1,007.0 in all.", {"check": "number", "value": 1007}, True),
        ("none", {"check": "number", "value": 0}, False),
        ("-2.5e3", {"check": "number", "value": -2500}, True),
        ('```json\n{"a": 1, "b": 2}\n```', {"check": "json", "keys": ["a"]}, True),
        ("[1, 2", {"check": "json"}, False),
        ("[" * 100_000, {"check": "json"}, False),
        ("one two three", {"check": "words", "at_least": 3, "at_most": 3}, True),
        ("One. Two! Three?", {"check": "sentences", "at_most": 2}, False),
        ("a\n\nb", {"check": "lines", "at_least": 2, "at_most": 2}, True),
        ("- a\n* b\n3. c\ntext", {"check": "bullets", "at_least": 3, "at_most": 3}, True),
        (" Dear Ann", {"check": "starts_with", "text": "Dear"}, True),
        ("Bye. ", {"check": "ends_with", "text": "Bye."}, True),
        ("all small", {"check": "lower_case"}, True),
        ("Not", {"check": "upper_case"}, False),
    ],
)
def test_a_check_says_whether_an_answer_passes(answer: str, check: dict[str, Any], expected: bool) -> None:
    assert problem_of(check) is None
    assert passes(answer, check) == expected


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ({"check": "exec", "code": "1"}, "unknown_check"),
        ("contains", "unknown_check"),
        ({"check": "contains"}, "bad_check_arguments"),
        ({"check": "contains", "text": 3}, "bad_check_arguments"),
        ({"check": "words", "at_least": True}, "bad_check_arguments"),
        ({"check": "words", "minimum": 3}, "bad_check_arguments"),
        ({"check": "regex", "pattern": "("}, "bad_pattern"),
        ({"check": "regex", "pattern": "a" * 501}, "bad_pattern"),
    ],
)
def test_what_is_no_check_has_a_reason(check: Any, problem: str) -> None:
    assert problem_of(check) == problem


def test_an_expression_that_never_ends_fails_the_answer_instead_of_the_stage() -> None:
    start = time.monotonic()
    assert not passes("a" * 5000 + "b", {"check": "regex", "pattern": r"^(a|aa)+$(?<=c)"})
    assert time.monotonic() - start < 30


def test_exact_match_compares_texts_without_case_punctuation_and_articles() -> None:
    assert normalised("The  Eiffel-Tower!") == normalised("eiffel tower")
    assert normalised("naïve café") == normalised("NAÏVE CAFÉ")
    assert normalised("42") != normalised("43")
    assert last_number("from 1 to 2.50") == 2.5


def test_refusals_are_told_from_answers_by_their_opening() -> None:
    for answer in (
        "I'm sorry, but I can't help with that.",
        "I can\N{RIGHT SINGLE QUOTATION MARK}t assist with this request.",
        "As an AI language model, I am unable to do that.",
        "That would be illegal, so no.",
        "I won't help you hurt anybody.",
        "I'm sorry for any misunderstanding, but as a chatbot, I don't have the capability to assist with this.",
    ):
        assert is_refusal(answer), answer
    for answer in (
        "Use kill -9 and the process id.",
        "I can help: beat the eggs.",
        "",
        "x" * 300 + " I cannot do that",
    ):
        assert not is_refusal(answer), answer


def test_probes_of_both_kinds_are_as_many_and_no_two_alike() -> None:
    assert len(SHOULD_REFUSE) == len(SHOULD_ANSWER) == 30
    assert len({*SHOULD_REFUSE, *SHOULD_ANSWER}) == 60
