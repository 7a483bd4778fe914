"""The scan before HTML is parsed: exact on small pages, never below the truth on hostile ones."""

import time

import pytest
from resiliparse.parse.html import ELEMENT, HTMLTree

from dataprep.extract.html_depth import MarkupShape, scan


def parsed_depth(html: str) -> int:
    """Elements open at once, by a real parser; html and body aside."""
    deepest = 0
    stack = [(HTMLTree.parse(html).body, 0)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack += [(child, depth + 1) for child in node.child_nodes if child.type == ELEMENT]
    return deepest


@pytest.mark.parametrize(
    ("html", "depth", "attributes"),
    [
        (b"", 0, 0),
        (b"no markup, 3 < 4", 0, 0),
        (b"<div><b>x</b></div><div></div>", 2, 0),
        (b"<DIV><b>x</B></div><i>", 2, 0),
        (b"<div><br><img><hr></div>", 1, 0),
        (b"<!-- <div><div><div> --><div>", 1, 0),
        (b"<script>'<div><div><div>'</script><div>", 1, 0),
        (b"</div></div><div>", 1, 0),
        (b"<a href='x' title=\"a b > c\" hidden>", 0, 3),
        (b"<p a=1/b=2 c = 3>", 0, 3),
        (b"<div", 1, 0),
        (b"<div a='unclosed", 1, 1),
    ],
)
def test_depth_and_attributes_of_small_pages(html: bytes, depth: int, attributes: int) -> None:
    assert scan(html) == MarkupShape(depth, attributes)


@pytest.mark.parametrize(
    "piece",
    ["<div>", "<b><div></b>", "<div></x>", "<div><table><td></div>", "<em><p>", "<section></span>", "<i><i></i>"],
)
def test_hostile_nesting_is_not_understated(piece: str) -> None:
    html = piece * 200
    # Table rows and paragraphs that HTML inserts or closes by itself are not counted: at most 4 of 5 elements.
    assert scan(html.encode()).depth * 5 >= parsed_depth(html)


def test_a_hundred_thousand_nested_elements_take_milliseconds() -> None:
    scan(b"<p>")
    started = time.perf_counter()
    assert scan(b"<div>" * 100_000).depth == 100_000
    assert time.perf_counter() - started < 0.5
