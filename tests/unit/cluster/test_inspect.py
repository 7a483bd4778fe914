"""`raymill inspect`: counts that add up, what became of a URL, and nothing a terminal could act on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli import app
from cluster.contracts.artifacts import Artifact, Manifest, open_artifact, write_manifest
from cluster.contracts.commit import committed_part
from cluster.contracts.errors import InputError
from cluster.contracts.storage import relative_uri
from cluster.inspect import find_url, open_corpus, print_summary, printable, summarise
from dataprep.clean.config import CleanConfig
from dataprep.clean.part import clean_part
from dataprep.dedupe.corpora import Corpora
from dataprep.dedupe.removals import Removals
from dataprep.documents import Shard, write_shard_table, write_table
from dataprep.sources.shards import whole_file

GOOD = "The little animals have been quiet with others of their kind, and that was everything for today. " * 8
ROWS = [
    {"text": GOOD, "url": "http://a.org/first"},
    {"text": GOOD + "It was so.", "url": "http://a.org/second"},
    {"text": "too short \x1b[31mred\x1b]0;title\x07 \u202eevil", "url": "http://a.org/short?utm_source=x"},
    {"text": 7, "url": "http://a.org/number"},
    {"text": 7},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A dedupe artifact of one part: the second row is a duplicate of the first."""
    root = tmp_path_factory.mktemp("inspect")
    source, parts, output = root / "pages.jsonl", str(root / "parts"), str(root / "dedupe" / "0")
    source.write_text("\n".join(map(json.dumps, ROWS)))
    config = CleanConfig(inputs=[str(source)], language_threshold=0, c4=None, gopher_repetition=None)
    assert clean_part([whole_file(str(source))], parts=parts, key="pages", config=config) == 2
    part = committed_part(parts, "pages")
    assert part is not None
    files = [part.files[role] for role in ("documents", "signatures", "dropped", "quarantined")]
    shard = Shard(0, str(source), "pages", relative_uri(parts, base=output), 2, 1000, *files)
    labels = np.array([0, 0])
    corpora = Corpora.of((output, [shard]), [])
    removals = write_table(
        output, "removals", Removals(corpora, {"near_duplicate": labels}, labels).table(corpora.own[0])
    )
    write_shard_table(output, [replace(shard, removals=removals, num_removed=1)])
    write_manifest(output, Manifest("dedupe", "0", {}, {}), [])
    return open_artifact(output)


def test_counts_and_examples_of_every_reason(corpus: Artifact) -> None:
    found = summarise(corpus, examples=1)
    assert found.kept == {"en": 1}
    assert found.removed == {"near_duplicate": 1}
    assert found.dropped == {"gopher_short_doc": 1}
    assert found.quarantined == {"text_not_a_string": 2}
    assert sorted(e.reason for e in found.examples) == ["", "gopher_short_doc", "near_duplicate", "text_not_a_string"]
    assert summarise(corpus, examples=0).examples == []


def test_what_became_of_a_url(corpus: Artifact) -> None:
    (kept,) = find_url(corpus, "https://www.a.org/first/")
    assert (kept.outcome, kept.row, kept.offset) == ("kept", 0, 0)
    (removed,) = find_url(corpus, "http://a.org/second")
    assert (removed.outcome, removed.reason) == ("removed", "near_duplicate")
    assert removed.survivor.startswith("http://a.org/first, ")
    (dropped,) = find_url(corpus, "http://a.org/short")
    assert (dropped.outcome, dropped.reason) == ("dropped", "gopher_short_doc")
    (quarantined,) = find_url(corpus, "http://a.org/number")
    assert (quarantined.outcome, quarantined.reason, quarantined.row) == ("quarantined", "text_not_a_string", 0)
    assert list(find_url(corpus, "http://a.org/absent")) == []


def test_nothing_reaches_the_terminal_unescaped(corpus: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[31m\u202e\u200b\nb [bold]é漢") == "a\\x1b[31m\\u202e\\u200b\\nb [bold]é漢"
    assert len(printable("x" * 1000)) == 161
    print_summary(corpus, summarise(corpus, examples=2), Console(width=200, force_terminal=False))
    shown = capsys.readouterr().out
    assert "\\u202eevil" in shown
    assert not set(shown) & set("\x1b\x07\u202e")


def test_the_command_says_whether_it_found_the_url(corpus: Artifact) -> None:
    runner = CliRunner()
    found = runner.invoke(app, ["inspect", corpus.uri, "--url", "http://a.org/second"])
    assert found.exit_code == 0
    assert "removed: near_duplicate" in found.output
    absent = runner.invoke(app, ["inspect", corpus.uri, "--url", "http://a.org/none"])
    assert absent.exit_code == 1
    assert "1 records were quarantined without a URL" in absent.output


def test_other_artifacts_and_unknown_runs_are_refused(tmp_path: Path) -> None:
    write_manifest(str(tmp_path / "m"), Manifest("sft", "0", {}, {}), [])
    with pytest.raises(InputError, match="'sft' artifact"):
        open_corpus(str(tmp_path / "m"), str(tmp_path))
    with pytest.raises(InputError, match="no run"):
        open_corpus("nothing", str(tmp_path))
