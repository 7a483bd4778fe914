"""Text to token ids by the fastest encoder that gives exactly the ids of the Hugging Face tokenizer.

There are three, fastest first: our compiled one (`compiled_bpe.py`), for byte-level BPE over the pre-tokens of GPT-4
and Llama 3; tiktoken, about four times as fast as the Hugging Face library; and that library itself. The first is taken
that can express the parts of the tokenizer and whose ids agree with the library's on a sample of texts. None ever makes
a control token of text: `<|im_end|>` in a page is encoded as the characters it consists of.

Shape letters: D documents, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tiktoken
from tokenizers import Tokenizer

from dataprep.text.column import TextColumn
from dataprep.tokenizer.compiled_bpe import BpeEncoder, bpe_encoder
from dataprep.tokenizer.pretokenizer import PRE_TOKEN_PATTERN

_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own


@dataclass(frozen=True)
class Encoded:
    """The token ids of a column of documents. Iterating over it gives those of each document, as views."""

    ids_T: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]  # [D+1]: document d is ids_T[offsets[d]:offsets[d+1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[npt.NDArray[np.uint32]]:
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.ids_T[start:end]

    @classmethod
    def from_lists(cls, documents: Sequence[Sequence[int] | npt.NDArray[np.uint32]]) -> Encoded:
        """One column, made from a list of ids per document."""
        offsets = np.zeros(len(documents) + 1, np.int64)
        np.cumsum([len(ids) for ids in documents], out=offsets[1:])
        ids_T = np.empty(offsets[-1], np.uint32)
        for ids, start, end in zip(documents, offsets[:-1], offsets[1:], strict=True):
            ids_T[start:end] = ids
        return cls(ids_T, offsets)


class Encoder(Protocol):
    """Turns a column of texts into token ids."""

    name: str  # as the metrics record it: "compiled", "tiktoken", "tokenizers"

    def encode(self, texts: TextColumn) -> Encoded:
        """The ids of each text; no special token among them."""


class HuggingFaceEncoder:
    """The Hugging Face tokenizer itself, with control tokens in texts read as text."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True  # as text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: TextColumn) -> Encoded:
        encodings = self._tokenizer.encode_batch_fast(texts.texts.to_pylist(), add_special_tokens=False)
        return Encoded.from_lists([encoding.ids for encoding in encodings])


class TiktokenEncoder:
    """The tokenizer's merges, applied by tiktoken.

    tiktoken's regular expressions overflow their stack on a run of some 100,000 spaces. A text that makes it panic is
    encoded by `fallback`.
    """

    name = "tiktoken"

    def __init__(self, encoding: tiktoken.Encoding, fallback: Encoder, *, num_threads: int) -> None:
        self._encoding, self._fallback, self._num_threads = encoding, fallback, num_threads

    def encode(self, texts: TextColumn) -> Encoded:
        try:
            encoded = self._encoding.encode_ordinary_batch(texts.texts.to_pylist(), num_threads=self._num_threads)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of its Rust code; a class without a module to import
                raise
            if len(texts) == 1:
                return self._fallback.encode(texts)
            single = (self.encode(TextColumn(texts.texts.slice(row, 1))) for row in range(len(texts)))
            encoded = [one.ids_T.tolist() for one in single]
        return Encoded.from_lists(encoded)


class CompiledEncoder:
    """The tokenizer's merges, applied by `compiled_bpe.py`; documents with a very long pre-token go to `fallback`."""

    name = "compiled"

    def __init__(self, encoder: BpeEncoder, fallback: Encoder) -> None:
        self._encoder, self._fallback = encoder, fallback

    def encode(self, texts: TextColumn) -> Encoded:
        ids_T, offsets, too_long_D = self._encoder.encode(texts.data, texts.offsets)
        if not too_long_D.any():
            return Encoded(ids_T, offsets)
        documents = list(Encoded(ids_T, offsets))
        others = self._fallback.encode(texts.filter(too_long_D))
        for row, ids in zip(np.flatnonzero(too_long_D).tolist(), others, strict=True):
            documents[row] = ids
        return Encoded.from_lists(documents)


def fastest_encoder(tokenizer: Tokenizer, sample: TextColumn, *, num_threads: int) -> Encoder:
    """The fastest encoder that can express the tokenizer and gives its ids for every text of `sample`.

    `num_threads` are tiktoken's; the compiled encoder runs on one.
    """
    return fastest_of(encoders(tokenizer, num_threads=num_threads), sample)


def fastest_of(candidates: Sequence[Encoder], sample: TextColumn) -> Encoder:
    """The first of the encoders that gives the last one's ids for every text of `sample`, which can't be empty."""
    if not len(sample):
        raise ValueError("a sample of no texts tells nothing about an encoder")
    *fast, own = candidates
    expected = own.encode(sample)
    for encoder in fast:
        found = encoder.encode(sample)
        if np.array_equal(found.ids_T, expected.ids_T) and np.array_equal(found.offsets, expected.offsets):
            return encoder
    return own


def encoders(tokenizer: Tokenizer, *, num_threads: int) -> list[Encoder]:
    """The encoders that can express the tokenizer, fastest first; the last is the tokenizer itself."""
    own = HuggingFaceEncoder(tokenizer)
    found: list[Encoder] = []
    byte_level = byte_level_bpe(tokenizer)
    if byte_level is not None:
        compiled = bpe_encoder(byte_level.vocab, byte_level.merges) if byte_level.pattern == PRE_TOKEN_PATTERN else None
        encoding = tiktoken_encoding(byte_level) if compiled is None else None
        if compiled is not None:
            found.append(CompiledEncoder(compiled, own))
        if encoding is not None:
            found.append(TiktokenEncoder(encoding, own, num_threads=num_threads))
    return [*found, own]


@dataclass(frozen=True)
class ByteLevelBpe:
    """The parts of a tokenizer that is byte-level BPE and nothing more."""

    pattern: str  # cuts text into pre-tokens
    vocab: dict[bytes, int]
    merges: list[tuple[bytes, bytes]]  # in the order they were learnt


def byte_level_bpe(tokenizer: Tokenizer) -> ByteLevelBpe | None:
    """The parts of a tokenizer; None where it has others: a normalizer, dropout, unknown tokens, prefixes, words."""
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    pattern = _pattern(spec["pre_tokenizer"])
    other_parts = (
        spec["normalizer"],
        model.get("dropout"),
        model.get("unk_token"),
        model.get("continuing_subword_prefix"),
        model.get("end_of_word_suffix"),
        model.get("byte_fallback"),
        model.get("ignore_merges"),
        not all(token["special"] for token in spec["added_tokens"]),
    )
    if model["type"] != "BPE" or pattern is None or any(other_parts):
        return None
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    to_byte = _byte_of_character()
    try:
        merges = [(bytes(to_byte[c] for c in left), bytes(to_byte[c] for c in right)) for left, right in pairs]
        vocab = {bytes(to_byte[c] for c in token): rank for token, rank in model["vocab"].items()}
    except KeyError:  # a token that is no sequence of bytes
        return None
    return ByteLevelBpe(pattern, vocab, merges)


def tiktoken_encoding(parts: ByteLevelBpe) -> tiktoken.Encoding | None:
    """The tokenizer as a tiktoken encoding. None where ids don't follow the merges' order, as tiktoken's do."""
    merged_ids = [parts.vocab.get(left + right, -1) for left, right in parts.merges]
    if merged_ids != sorted(merged_ids) or -1 in merged_ids or any(bytes([b]) not in parts.vocab for b in range(256)):
        return None
    return tiktoken.Encoding("raymill", pat_str=parts.pattern, mergeable_ranks=parts.vocab, special_tokens={})


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regular expression of a byte-level pre-tokenizer; None for any other kind."""
    if pre_tokenizer is None:
        return None
    parts = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    match parts:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _GPT2_PATTERN
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
    return None


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's table of printable stand-ins for bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}
