"""Pages to plain text: HTML by its main content, wiki markup by what of it is prose.

`html.py` and `wikitext.py` are the extractors, `html_depth.py` keeps hopeless pages away from them, and `pages.py` runs
them in a child process that can be killed.
"""
