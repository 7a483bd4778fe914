"""All the ways in which inputs are bad, through all of clean, without Ray: counted, named, bounded in time and RAM."""

import bz2
import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cluster.contracts import storage
from cluster.contracts.commit import committed_part
from dataprep.sources.shards import plan_shards
from tests.unit.dataprep.sources.test_readers import warc_record

TEXT = "The committee met on the first of May and agreed that the bridge should be built with care. " * 8
GOOD = json.dumps({"text": TEXT}).encode()
MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[4]
CLEAN_ALL = """
import re, sys
from pathlib import Path
from cluster.contracts import storage
from dataprep.clean.config import CleanConfig
from dataprep.clean.part import clean_part
from dataprep.sources.shards import plan_shards

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

lenient = dict(gopher_repetition=None, gopher_quality=None, c4=None, language_threshold=0)
config = CleanConfig(inputs=["-"], **lenient)
before = peak_mib()
for shard in plan_shards(storage.expand(sys.argv[1])):
    clean_part(shard.sources, parts=sys.argv[2], key=shard.key, config=config)
print(peak_mib() - before)
"""


def page(number: int, body: str | bytes = "") -> bytes:
    content = body if isinstance(body, bytes) else f"<title>{number}</title><p>{body or TEXT}</p>".encode()
    return warc_record(number, content)


def sparse(path: Path, head: bytes, size: int, tail: bytes) -> None:
    """A file with `size` zero bytes in its middle that take no room."""
    with open(path, "wb") as file:
        file.write(head)
        file.seek(size, os.SEEK_CUR)
        file.write(tail)


def write_bad_inputs(root: Path) -> dict[str, list[str]]:
    """The files, and what is to become of each one's records, in order: "kept" or the reason."""
    expected: dict[str, list[str]] = {}

    def write(name: str, content: bytes, *fates: str) -> None:
        (root / name).write_bytes(content)
        expected[name] = list(fates)

    write("cut.warc.gz", (gzip.compress(page(1)) * 2)[:-40], "kept", "truncated_gz")
    wrong = page(2).replace(b"Content-Length: ", b"Content-Length: 9", 1)
    write("lengths.warc", page(1) + wrong + page(3), "kept", "truncated_record", "kept")
    length = b"%d" % (500 * MIB)
    head, _, http = page(2).partition(b"\r\n\r\n")
    lines = [
        b"Content-Length: " + length if line.startswith(b"Content-Length") else line for line in head.split(b"\r\n")
    ]
    large = b"\r\n".join(lines) + b"\r\n\r\n"
    sparse(root / "large.warc", page(1) + large, 500 * MIB, b"\r\n\r\n" + page(3))
    expected["large.warc"] = ["kept", "record_too_large", "kept"]
    assert http
    bomb = gzip.compress(page(2, b"<p>" + bytes(200 * MIB)), 1)
    write("bomb.warc.gz", gzip.compress(page(1)) + bomb + gzip.compress(page(3)), "kept", "record_too_large", "kept")
    nested = gzip.compress(page(1)) + gzip.compress(page(2, "<div>" * 100_000)) + gzip.compress(page(3))
    write("nested.warc.gz", nested, "kept", "html_too_deep", "kept")
    write(
        "odd-bytes.warc", page(1, b"<p>\xff\xfe " + TEXT.encode()) + page(2, b"<p>\0\0" + TEXT.encode()), "kept", "kept"
    )
    rows = [
        GOOD,
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": "a\x00b"}',
        b"{",
        b"[1]",
        b"{}",
        b'{"text": 1}',
    ]
    fates = [
        "kept",
        "bad_json",
        "bad_json",
        "bad_json",
        "bad_json",
        "not_an_object",
        "missing_text",
        "text_not_a_string",
    ]
    write("rows.jsonl", b"\n".join([*rows, GOOD]), *fates, "kept")
    sparse(root / "long-line.jsonl", GOOD + b"\n", 500 * MIB, b"\n" + GOOD)
    expected["long-line.jsonl"] = ["kept", "record_too_large", "kept"]
    write("bomb.jsonl.gz", gzip.compress(GOOD + b"\n" + bytes(300 * MIB), 9), "kept", "decompression_bomb")
    write("bomb.jsonl.bz2", bz2.compress(GOOD + b"\n" + bytes(100 * MIB)), "kept", "decompression_bomb")
    write("bomb.jsonl.zst", zstandard.compress(GOOD + b"\n" + bytes(300 * MIB)), "kept", "decompression_bomb")
    write("empty.jsonl", b"", "empty_file")
    write("empty.txt", b"", "empty_file")
    write("binary.txt", b"\x7fELF\0\0" * 9, "binary")
    write("notes.txt", TEXT.encode("utf-16"), "kept")
    write("cut.xml.bz2", bz2.compress(b"<mediawiki><page>" + os.urandom(5000))[:-99], "truncated_bz2")
    write("no.parquet", b"PAR1 and nothing else", "bad_parquet")
    pq.write_table(pa.table({"body": ["x"]}), root / "other.parquet")
    expected["other.parquet"] = ["missing_column"]
    return expected


@pytest.mark.timeout(120)
def test_every_bad_record_is_counted_with_file_offset_and_reason_in_bounded_time_and_memory(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    expected = write_bad_inputs(inputs)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-c", CLEAN_ALL, str(inputs), str(tmp_path / "parts")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    assert float(done.stdout) < 480, "MiB: records of 500 are never held"
    fates: dict[str, list[tuple[int, str]]] = {}
    for shard in plan_shards(storage.expand(str(inputs))):
        part = committed_part(str(tmp_path / "parts"), shard.key)
        assert part is not None
        assert part.metrics["read"] == part.metrics["kept"] + sum(part.metrics["quarantine_reasons"].values())
        for role in ("documents", "quarantined"):
            for row in pq.read_table(tmp_path / "parts" / part.files[role].name).to_pylist():
                fates.setdefault(Path(row["uri"]).name, []).append((row["offset"], row.get("reason", "kept")))
    assert {name: [reason for _, reason in sorted(found)] for name, found in fates.items()} == expected
