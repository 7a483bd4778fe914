"""Readers: every record is yielded once, damage costs the damaged record alone and is named with its place."""

import bz2
import gzip
import io
import random
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cluster.contracts.compression import CHUNK_BYTES, DamagedStream, decompressed
from cluster.contracts.records import Quarantined
from dataprep.sources.config import Columns
from dataprep.sources.jsonl import read_jsonl
from dataprep.sources.readers import read_records
from dataprep.sources.records import HtmlPage, PlainText, SourceRecord, Unwanted
from dataprep.sources.shards import whole_file
from dataprep.sources.warc import read_warc

COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}


def warc_record(number: int, body: bytes = b"", *, status: str = "200 OK", content_type: str = "text/html") -> bytes:
    body = body or b"<html><body>page %d %s</body></html>" % (number, b"x" * 500)
    http = b"HTTP/1.1 %s\r\nContent-Type: %s\r\n\r\n" % (status.encode(), content_type.encode()) + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:08}>\r\n"
        f"WARC-Date: 2026-01-0{number % 9 + 1}T00:00:00Z\r\nWARC-Target-URI: https://example.org/{number}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def read(content: bytes, codec: Any = None, limit: int = 10_000) -> tuple[list[str], list[Quarantined]]:
    """(URL endings of the pages, what was quarantined)."""
    records = list(read_warc(io.BytesIO(content), "w", codec=codec, max_record_bytes=limit))
    pages = [r.provenance.url.rsplit("/", 1)[1] for r in records if isinstance(r, HtmlPage) and r.provenance.url]
    return pages, [r for r in records if isinstance(r, Quarantined)]


@pytest.fixture
def members() -> list[bytes]:
    return [gzip.compress(warc_record(i)) for i in range(6)]


def test_a_page_carries_its_place_url_date_and_body(members: list[bytes]) -> None:
    records = list(read_warc(io.BytesIO(b"".join(members)), "w", codec="gz", max_record_bytes=10_000))
    page = records[2]
    assert isinstance(page, HtmlPage)
    assert page.provenance.offset == len(members[0]) + len(members[1])
    assert (page.provenance.url, page.provenance.date) == ("https://example.org/2", "2026-01-03T00:00:00Z")
    assert page.body.startswith(b"<html><body>page 2")


def test_what_is_no_html_page_is_unwanted_with_a_reason() -> None:
    content = (
        warc_record(1, status="404 Not Found")
        + warc_record(2, content_type="image/png")
        + warc_record(3, b" \n")
        + b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    )
    records = list(read_warc(io.BytesIO(content), "w", codec=None, max_record_bytes=10_000))
    assert [r.reason for r in records if isinstance(r, Unwanted)] == ["http_status", "content_type", "empty_body"]
    assert len(records) == 3, "a warcinfo record is no document"


def other_record(kind: str, content_type: str, body: bytes = b"<html><body>kept</body></html>") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: https://example.org/{kind}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def test_resources_are_pages_and_other_content_is_counted() -> None:
    content = (
        other_record("resource", 'text/html; version=5; charset="iso-8859-1"; x=1')
        + other_record("resource", "image/png")
        + other_record("revisit", "application/http; msgtype=response")
        + other_record("metadata", "application/warc-fields")
        + other_record("request", "application/http; msgtype=request")
    )
    page, *others = read_warc(io.BytesIO(content), "w", codec=None, max_record_bytes=10_000)
    assert isinstance(page, HtmlPage)
    assert (page.provenance.url, page.charset) == ("https://example.org/resource", "iso-8859-1")
    assert [r.reason for r in others if isinstance(r, Unwanted)] == ["content_type", "record_type"]
    assert len(others) == 2


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("Text/HTML;charset=UTF-8", "UTF-8"),
        ("text/html; charset*=a\0b''x", None),
        ('text/html; charset="' + ";" * 60_000, None),
        ("text/html; charset=" + "a" * 60_000, "a" * 1005),
        ("text/html; mycharset=x", None),
    ],
)
def test_no_content_type_of_a_resource_ends_or_holds_up_the_reading(content_type: str, charset: str | None) -> None:
    started = time.process_time()
    (page,) = read_warc(io.BytesIO(other_record("resource", content_type)), "w", codec=None, max_record_bytes=10**6)
    assert time.process_time() - started < 0.5
    assert isinstance(page, HtmlPage)
    assert page.charset == charset


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_a_file_of_one_member_that_is_cut_off_keeps_its_whole_records(codec: str) -> None:
    """What the decompressor gave before the end; the last record it gave might be cut itself."""
    content = b"".join(warc_record(i, b"<html>%d</html>" % i + random.Random(i).randbytes(900)) for i in range(1000))
    compressed = COMPRESS[codec](content)
    pages, quarantined = read(compressed[: len(compressed) * 9 // 10], codec)
    assert pages == [str(i) for i in range(len(pages))]
    assert len(pages) > 700  # zstd's blocks are of 128 KiB
    assert [q.reason for q in quarantined] == [f"truncated_{codec}"]


def test_a_truncated_gzip_loses_only_its_last_record(members: list[bytes]) -> None:
    pages, damage = read(b"".join(members)[:-30], "gz")
    assert pages == ["0", "1", "2", "3", "4"]
    assert [(d.offset, d.reason) for d in damage] == [(len(b"".join(members[:5])), "truncated_gz")]


@pytest.mark.parametrize("where", [0, 40, -6])
def test_flipped_bytes_lose_only_their_record(members: list[bytes], where: int) -> None:
    damaged = bytearray(members[2])
    for i in range(5):
        damaged[where + i] ^= 0xFF
    pages, quarantined = read(b"".join([*members[:2], bytes(damaged), *members[3:]]), "gz")
    assert pages == ["0", "1", "3", "4", "5"]
    assert [(q.offset, q.reason) for q in quarantined] == [(len(members[0]) + len(members[1]), "corrupt_gz")]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("length", [b"7", b"99999", b"nonsense"])
def test_a_wrong_content_length_never_reaches_into_the_next_record(compressed: bool, length: bytes) -> None:
    records = [warc_record(i) for i in range(4)]
    records[1] = re.sub(rb"Content-Length: \d+", b"Content-Length: " + length, records[1], count=1)
    content = b"".join(gzip.compress(r) if compressed else r for r in records)
    pages, quarantined = read(content, "gz" if compressed else None)
    assert pages == ["0", "2", "3"]
    assert len(quarantined) == 1
    assert quarantined[0].reason in {"bad_content_length", "truncated_record", "bad_warc_header"}


def test_records_of_one_long_member_are_read_one_by_one() -> None:
    """`zstd crawl.warc` and `gzip crawl.warc` make one member of a whole file."""
    records = [warc_record(i, b"%d " % i * 5000) for i in range(200)]
    records[50] = warc_record(50, b"l" * 300_000)
    records[90] = re.sub(rb"Content-Length: \d+", b"Content-Length: 11", records[90], count=1)
    content = b"".join(records)
    expected = [str(i) for i in range(200) if i not in (50, 90)]
    for codec, compress in (("gz", gzip.compress), ("zst", zstandard.compress)):
        pages, quarantined = read(compress(content), codec, limit=30_000)
        assert pages == expected
        assert [q.reason for q in quarantined] == ["record_too_large", "bad_content_length"]


def test_zstd_records_are_read_with_their_shared_dictionary() -> None:
    records = [warc_record(i) for i in range(20)]
    dictionary = zstandard.ZstdCompressionDict(b"".join(records[:3]), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    head = (0x184D2A5D).to_bytes(4, "little") + len(dictionary.as_bytes()).to_bytes(4, "little")
    frames = [compressor.compress(record) for record in records]
    content = head + dictionary.as_bytes() + b"".join(frames)
    assert read(content, "zst") == ([str(i) for i in range(20)], [])
    pages, damage = read(content[:-10], "zst")
    assert pages == [str(i) for i in range(19)]
    assert [(d.offset, d.reason) for d in damage] == [(len(content) - len(frames[-1]), "truncated_zst")]
    damaged = bytearray(content)
    where = len(content) - sum(map(len, frames[5:]))
    damaged[where + 6 : where + 20] = b"\xff" * 14
    pages, damage = read(bytes(damaged), "zst")
    assert [p for p in pages if p != "5"] == [str(i) for i in range(20) if i != 5]


@pytest.mark.parametrize(
    "dictionary",
    [
        b"\x28\xb5\x2f\xfd\xe0" + (1 << 45).to_bytes(8, "little"),  # a frame that says it holds 32 TiB
        b"\x37\xa4\x30\xec" + b"no tables",  # begins like a dictionary
    ],
)
def test_a_dictionary_that_makes_no_sense_costs_no_record_that_needs_none(dictionary: bytes) -> None:
    frame = (0x184D2A5D).to_bytes(4, "little") + len(dictionary).to_bytes(4, "little") + dictionary
    pages, quarantined = read(frame + zstandard.compress(warc_record(1)), "zst")
    assert (pages, quarantined) == (["1"], [])


def test_a_conversion_record_is_text_already() -> None:
    def conversion(body: bytes) -> bytes:
        head = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://example.org/w\r\n"
        rest = b"WARC-Date: 2026-02-03T04:05:06Z\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
        return head + rest % (len(body), body)

    content = b"".join(gzip.compress(conversion(b)) for b in ("Größe".encode(), b"\xff", b"l" * 200))
    text, bad, large = read_warc(io.BytesIO(content), "w", codec="gz", max_record_bytes=100)
    assert isinstance(text, PlainText)
    assert (text.text, text.provenance.url, text.provenance.date) == (
        "Größe", "https://example.org/w", "2026-02-03T04:05:06Z"
    )  # fmt: skip
    assert [q.reason for q in (bad, large) if isinstance(q, Quarantined)] == ["bad_utf8", "record_too_large"]


def test_bad_http_headers_and_oversized_bodies_are_quarantined() -> None:
    broken = warc_record(1).replace(b"HTTP/1.1 200 OK", b"garbage garbage")
    content = broken + warc_record(2, b"y" * 20_001) + warc_record(3)
    pages, quarantined = read(content, limit=20_000)
    assert pages == ["3"]
    assert [q.reason for q in quarantined] == ["bad_http", "record_too_large"]


def test_a_zip_bomb_is_cut_off_and_the_rest_read(members: list[bytes]) -> None:
    bomb = gzip.compress(warc_record(9, b"0" * 50_000_000))
    pages, quarantined = read(members[0] + bomb + members[1], "gz")
    assert pages == ["0", "1"]
    assert [q.reason for q in quarantined] == ["record_too_large"]


def test_rubbish_is_one_quarantined_record() -> None:
    for codec, reason in (("gz", "corrupt_gz"), (None, "bad_warc_header")):
        pages, quarantined = read(b"no warc at all" * 100, codec)
        assert pages == []
        assert [(q.offset, q.reason) for q in quarantined] == [(0, reason)]


def lines(content: bytes, codec: Any = None, limit: int = 1000) -> list[SourceRecord]:
    columns = Columns(text="body", title=None)
    return list(read_jsonl(io.BytesIO(content), "j", codec=codec, columns=columns, max_record_bytes=limit))


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    content = b"\xef\xbb\xbf" + b'{"text": "first"}\n{"text": "second"}\n'
    records = list(read_jsonl(io.BytesIO(content), "j", codec=None, columns=Columns(), max_record_bytes=100))
    assert [record.text for record in records if isinstance(record, PlainText)] == ["first", "second"]


def test_broken_lines_are_quarantined_at_their_byte_offset() -> None:
    rows = [
        b'{"body": "ein Satz", "url": "https://example.org", "title": "not mapped"}',
        b'{"body": "unclosed"',
        b'["body"]',
        b'{"text": "another field"}',
        b'{"body": 3}',
        b'{"body": "\xff\xfe"}',
        b'{"body": "\\ud800 alone"}',
        b'{"body": "nul \x00 byte"}',
        b"",
        b'{"body": "' + b"l" * 1000 + b'"}',
        b'{"body": "letzter"}',
    ]
    records = lines(b"\n".join(rows))
    starts = [sum(len(r) + 1 for r in rows[:i]) for i in range(len(rows))]
    assert [(r.offset, r.reason) for r in records if isinstance(r, Quarantined)] == [
        (starts[1], "bad_json"),
        (starts[2], "not_an_object"),
        (starts[3], "missing_text"),
        (starts[4], "text_not_a_string"),
        (starts[5], "bad_json"),
        (starts[6], "bad_json"),
        (starts[7], "bad_json"),
        (starts[9], "record_too_large"),
    ]
    kept = [r for r in records if isinstance(r, PlainText)]
    assert [(r.text, r.provenance.offset) for r in kept] == [("ein Satz", 0), ("letzter", starts[10])]
    assert kept[0].provenance.url == "https://example.org"
    assert kept[0].provenance.title is None
    assert len(records) == len(rows) - 1, "every line but the blank one is accounted for"


@pytest.mark.parametrize("codec", ["gz", "bz2", "zst"])
def test_compressed_lines_read_alike_and_offsets_are_of_the_content(codec: str) -> None:
    content = b"".join(b'{"body": "line %d"}\n' % i for i in range(5000))
    plain = lines(content)
    assert lines(COMPRESS[codec](content), codec) == plain
    halves = COMPRESS[codec](content[:40_000]) + COMPRESS[codec](content[40_000:])
    assert lines(halves, codec) == plain, "streams one after the other are one content"


@pytest.mark.parametrize("codec", ["gz", "bz2", "zst"])
def test_a_truncated_or_damaged_stream_keeps_what_came_before(codec: str) -> None:
    first = COMPRESS[codec](b'{"body": "one"}\n{"body": "two"}\n')
    second = COMPRESS[codec](b'{"body": "three"}\n' * 100)
    for rest, kind in ((second[:-5], "truncated"), (b"rubbish" * 20, "corrupt")):
        *documents, damage = lines(first + rest, codec)
        assert [r.text for r in documents[:2] if isinstance(r, PlainText)] == ["one", "two"]
        assert isinstance(damage, Quarantined)
        assert damage.reason == f"{kind}_{codec}"
        assert damage.offset >= 32, "at or after the last good line"


def test_decompressed_chunks_stay_small() -> None:
    for codec, compress in COMPRESS.items():
        pieces = [len(piece) for piece in decompressed(io.BytesIO(compress(b"0" * 40_000_000)), codec)]  # type: ignore[arg-type]
        assert sum(pieces) == 40_000_000
        assert max(pieces) <= (CHUNK_BYTES if codec != "zst" else 128 << 20)


@pytest.mark.parametrize("codec", ["gz", "bz2", "zst"])
def test_a_stream_that_expands_beyond_measure_is_cut_off_in_time(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.contracts.compression.FREE_BYTES", 1 << 20)
    bomb = COMPRESS[codec](b'{"body": "one"}\n' + b"0" * 50_000_000)
    started = time.process_time()
    first, damage = lines(bomb, codec)
    assert time.process_time() - started < 2
    assert isinstance(first, PlainText)
    assert isinstance(damage, Quarantined)
    assert (damage.offset, damage.reason) == (16, "decompression_bomb")


def test_a_file_can_be_one_page_or_one_text(tmp_path: Path) -> None:
    contents = {
        "a.html": b"<title>T</title><p>text",
        "b.txt": "Größe".encode("windows-1252") * 30,
        "c.txt.gz": gzip.compress("Text größer".encode()),
        "d.txt": b"zero \0 byte",
        "e.txt": "mit Marke".encode("utf-16"),
        "f.txt": b"l" * 201,
        "g.txt.gz": gzip.compress(b"cut off" * 20)[:-9],
    }
    records = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        records += read_records(whole_file(str(tmp_path / name)), columns=Columns(), max_record_bytes=200)
    assert isinstance(records[0], HtmlPage)
    assert records[0].body == contents["a.html"]
    assert [r.text for r in records if isinstance(r, PlainText)] == ["Größe" * 30, "Text größer", "mit Marke"]
    assert [r.reason for r in records if isinstance(r, Quarantined)] == ["binary", "record_too_large", "truncated_gz"]


def test_zero_padding_after_gzip_is_ignored_but_rubbish_is_not() -> None:
    assert b"".join(decompressed(io.BytesIO(gzip.compress(b"text") + b"\0" * 100), "gz")) == b"text"
    pieces: Iterator[bytes] = decompressed(io.BytesIO(gzip.compress(b"text") + b"rubbish"), "gz")
    assert next(pieces) == b"text"
    with pytest.raises(DamagedStream, match="corrupt_gz"):
        list(pieces)


def test_an_empty_file_is_quarantined_as_a_whole(tmp_path: Any) -> None:
    (tmp_path / "empty.jsonl").touch()
    (record,) = read_records(whole_file(str(tmp_path / "empty.jsonl")), columns=Columns(), max_record_bytes=100)
    assert isinstance(record, Quarantined)
    assert (record.offset, record.reason) == (-1, "empty_file")


def test_gzip_members_agree_with_zlib_on_random_splits() -> None:
    content = bytes(range(256)) * 5000
    assert zlib.crc32(b"".join(decompressed(io.BytesIO(gzip.compress(content, 1)), "gz"))) == zlib.crc32(content)
