"""Wiki markup to plain text: what a reader of the article reads as prose. Markup is parsed by mwparserfromhell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node
    from mwparserfromhell.wikicode import Wikicode

_DROPPED_TAGS = frozenset({"ref", "references", "table", "gallery", "math", "score", "timeline", "imagemap", "graph"})
# Links that show a picture, file the page under a category, or lead to another language.
_NO_PROSE_LINK = re.compile(
    r"\s*((file|image|category|media|datei|bild|kategorie|fichier|catégorie|archivo|categoría|ficheiro|categoria"
    r"|файл|категория|ファイル|文件)\s*:|[a-z]{2,3}(-[a-z]+)*:)",
    re.IGNORECASE,
)
_BEHAVIOUR_SWITCH = re.compile(r"__[A-Z]{3,}__")  # __NOTOC__


def plain_text(wikitext: str) -> str:
    """The prose of an article: texts of links and headings stay; templates, tables, references and pictures go.

    What a template would expand to is missing, since a dump does not hold it.
    """
    import mwparserfromhell

    return _BEHAVIOUR_SWITCH.sub("", _text(mwparserfromhell.parse(wikitext))).strip()


def _text(code: Wikicode | None) -> str:
    return "" if code is None else "".join(_node_text(node) for node in code.nodes)


def _node_text(node: Node) -> str:
    from mwparserfromhell import nodes

    if isinstance(node, nodes.Text):
        return str(node.value)
    if isinstance(node, nodes.Wikilink):
        if _NO_PROSE_LINK.match(str(node.title)):
            return ""
        return _text(node.title if node.text is None else node.text)
    if isinstance(node, nodes.ExternalLink):
        return _text(node.url if node.title is None and not node.brackets else node.title)
    if isinstance(node, nodes.Heading):
        return _text(node.title).strip()
    if isinstance(node, nodes.HTMLEntity):
        return str(node.normalize())
    if isinstance(node, nodes.Tag):
        name = str(node.tag).strip().lower()
        return "\n" if name == "br" else "" if name in _DROPPED_TAGS else _text(node.contents)
    return ""  # templates, comments, arguments
