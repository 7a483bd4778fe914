"""Source code is told by the name it has."""

import pytest

from dataprep.source_code import is_source_code
from dataprep.sources.records import Provenance


@pytest.mark.parametrize(
    ("uri", "url", "expected"),
    [
        ("/tree/main.py", None, True),
        ("/tree/MAIN.RS", None, True),
        ("/tree/README", None, False),
        ("/data/pages.jsonl", None, False),
        ("/data/dump.xml", None, False),
        ("/data/pages.warc.gz", "https://x.example/a/b.c?x=1.html", True),
        ("/data/pages.warc.gz", "https://x.example/a.py/", False),
        ("/tree/main.py", "https://x.example/page.html", False),
    ],
)
def test_the_ending_of_the_url_or_else_of_the_file_decides(uri: str, url: str | None, expected: bool) -> None:
    assert is_source_code(Provenance(uri, 0, url)) == expected
