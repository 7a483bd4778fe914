"""HTML and wiki markup to plain text.

`pages.py` runs the extractors in a child process that can be killed; `html.py` and `wikitext.py` are the extractors.
"""
