"""Decompression in chunks of bounded size, which tells a truncated stream from a damaged one.

The readers of the libraries won't do: zstandard's stops silently where a stream is cut off, and bz2's holds whatever
one read expands to, which for a few kilobytes can be gigabytes. Here no chunk is longer than about `CHUNK_BYTES` (with
zstd 128 MiB, which its format allows a frame to make of a few bytes), the end of the compressed stream must be seen,
and a stream that expands beyond all measure is cut off. So what a file can cost is bounded by its size.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, Protocol

import zstandard

Codec = Literal["gz", "bz2", "zst"]

CHUNK_BYTES = 1 << 20
MAX_EXPANSION = 250  # times the compressed size; text reaches 20, and the deflate format 1,032 at most
FREE_BYTES = 64 << 20  # may be expanded whatever the ratio, so that short and very regular files pass
READ_BYTES = 1 << 16  # compressed bytes at a time; few, since what follows the end of a member is copied
_ZSTD_FEED_BYTES = 1 << 12  # a zstd block of 4 bytes can expand to 128 KiB
_GZIP_WINDOW = 31  # zlib's wbits for the gzip format with the largest window


class DamagedStream(Exception):
    """Compressed data that can't be read any further. `reason` is "truncated_gz", "corrupt_zst" and so on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Decompressor(Protocol):
    """Decompresses one stream (a gzip member, a zstd frame), which it is fed bit by bit."""

    ended: bool  # whether the end of the stream was seen
    rest: bytes  # what was fed beyond that end

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed chunks of `data`. Raises `DamagedStream`."""


class GzipMember:
    """One member of a gzip file."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_WINDOW)
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                chunk = self._inflate.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                raise DamagedStream("corrupt_gz", str(error)) from error
            data = self._inflate.unconsumed_tail
            if chunk:
                yield chunk
            if self._inflate.eof:
                self.ended, self.rest = True, self._inflate.unused_data
                return
            if not data and len(chunk) < CHUNK_BYTES:
                return


class _Bzip2Stream:
    def __init__(self) -> None:
        self._decompress = bz2.BZ2Decompressor()
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                chunk = self._decompress.decompress(data, CHUNK_BYTES)
            except OSError as error:
                raise DamagedStream("corrupt_bz2", str(error)) from error
            data = b""
            if chunk:
                yield chunk
            if self._decompress.eof:
                self.ended, self.rest = True, self._decompress.unused_data
                return
            if self._decompress.needs_input:
                return


class ZstdFrame:
    """One frame of a zstd file, read with the dictionary that its frames share, if there is one."""

    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None = None) -> None:
        self._decompress = zstandard.ZstdDecompressor(dict_data=dictionary).decompressobj()
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_FEED_BYTES):
            end = start + _ZSTD_FEED_BYTES
            try:
                chunk = self._decompress.decompress(data[start:end])
            except zstandard.ZstdError as error:
                raise DamagedStream("corrupt_zst", str(error)) from error
            if chunk:
                yield chunk
            if self._decompress.eof:
                self.ended, self.rest = True, self._decompress.unused_data + data[end:]
                return


_DECOMPRESSORS: dict[Codec, type[Decompressor]] = {"gz": GzipMember, "bz2": _Bzip2Stream, "zst": ZstdFrame}


def decompressed(stream: BinaryIO, codec: Codec | None) -> Iterator[bytes]:
    """The decompressed content of `stream` in chunks; members or frames one after another are one content.

    With no codec, the content is passed through. Raises `DamagedStream` after all that could be read was yielded, with
    the reason "truncated_gz", "corrupt_gz" (or zst, bz2), or "decompression_bomb": over `FREE_BYTES` that are more than
    `MAX_EXPANSION` times what they were expanded from.
    """
    if codec is None:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
        return
    current: Decompressor | None = None
    num_compressed = num_expanded = 0
    while unread := stream.read(READ_BYTES):
        num_compressed += len(unread)
        while unread:
            current = current or _DECOMPRESSORS[codec]()
            for chunk in current.feed(unread):
                yield chunk
                num_expanded += len(chunk)
                if num_expanded > max(FREE_BYTES, MAX_EXPANSION * num_compressed):
                    detail = f"over {num_expanded} bytes out of {num_compressed}; the rest is left alone"
                    raise DamagedStream("decompression_bomb", detail)
            unread = current.rest
            if not current.ended:
                break
            current = None
            if codec == "gz":
                unread = unread.lstrip(b"\0")  # tapes and some writers pad gzip files with zeros
    if current is not None:
        raise DamagedStream(f"truncated_{codec}", "the file ends inside a compressed stream")
