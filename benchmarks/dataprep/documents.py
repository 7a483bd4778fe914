"""The documents that both sides get: a file of the user's, or the shipped sample, with duplicates planted in it."""

from __future__ import annotations

import bz2
import gzip
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import zstandard

SAMPLES = Path(__file__).parents[2] / "job_specs" / "data"
EDITS = (1, 2, 4, 8, 16)  # words changed in a near copy
_WINDOW_WORDS = 450  # of a speech, as one document
_COPIES_FRACTION = 1 / 15  # of the unique documents are copied exactly, twice as many with changes
_MOST_ALIKE = 0.3  # Jaccard similarity of documents that count as unique: one in a thousand such pairs shares a band
_SENTENCES = (8, 30)  # lines of a recombined document


@dataclass(frozen=True)
class Document:
    """A document, and what it is a copy of."""

    id: str
    text: str
    kind: str = "unique"  # "exact" and "near" copies name their source
    source_id: str | None = None
    edits: int | None = None  # words changed in a near copy


def load_documents(path: Path | None, *, limit: int | None, seed: int = 0) -> list[Document]:
    """The documents of a JSON Lines file, or of the shipped sample; duplicates are planted where none are marked.

    Before that, documents that are like an earlier one are left out: what counts as unique must be so. A row is
    `{"text": ...}`; with `id`, `kind`, `source_id` and `edits` it says itself what is a copy of what. `limit` keeps
    the first so many documents and the copies of those, or plants in the first so many unlike ones.
    """
    if path is None:
        found = [Document(f"u{n}", text) for n, text in enumerate(_sample_texts())]
    else:
        found = [_document(orjson.loads(line), n) for n, line in enumerate(_lines(path)) if line.strip()]
    if all(document.kind == "unique" for document in found):
        return plant_duplicates(unlike(found, limit=limit), seed=seed)
    if limit is not None:
        found = found[:limit]
        ids = {document.id for document in found}
        found = [d for d in found if d.source_id is None or d.source_id in ids]
    return found


def unlike(
    documents: Sequence[Document], *, limit: int | None = None, most: float = _MOST_ALIKE, ngram: int = 5
) -> list[Document]:
    """The first `limit` documents whose word shingles have a Jaccard similarity of at most `most` to all earlier ones'.

    Exact, by an inverted index; neither side's code is used.
    """
    kept: list[Document] = []
    sizes: list[int] = []
    having: dict[int, list[int]] = {}  # hash of a shingle -> which of those kept have it
    for document in documents:
        if len(kept) == limit:
            break
        words = document.text.lower().split()
        shingles = {hash(tuple(words[at : at + ngram])) for at in range(max(1, len(words) - ngram + 1))}
        common = Counter(number for shingle in shingles for number in having.get(shingle, ()))
        if any(count > most * (len(shingles) + sizes[number] - count) for number, count in common.items()):
            continue
        for shingle in shingles:
            having.setdefault(shingle, []).append(len(kept))
        kept.append(document)
        sizes.append(len(shingles))
    return kept


def plant_duplicates(unique: Sequence[Document], *, seed: int) -> list[Document]:
    """The documents, exact copies of a fifteenth of them, and near copies of twice as many, shuffled."""
    rng = random.Random(seed)
    words = sorted({word for document in unique[:200] for word in document.text.split()})
    long = [document for document in unique if len(document.text.split()) > 2 * max(EDITS)]
    count = int(len(unique) * _COPIES_FRACTION)
    sources = rng.sample(long, min(len(long), 3 * count))
    copies = [Document(f"e{n}", d.text, "exact", d.id) for n, d in enumerate(sources[:count])]
    for n, source in enumerate(sources[count:]):
        edits = EDITS[n % len(EDITS)]
        copies.append(Document(f"n{n}", _edited(source.text, edits, words, rng), "near", source.id, edits))
    planted = [*unique, *copies]
    rng.shuffle(planted)
    return planted


def recombined(documents: Sequence[Document], count: int, *, seed: int) -> Iterator[Document]:
    """`count` unlike documents made of the sentences of `documents`; every fifteenth copies an earlier one."""
    rng = random.Random(seed)
    sentences = [sentence for document in documents for sentence in _sentences(document.text)]
    earlier: list[Document] = []
    for number in range(count):
        if number % 15 == 14:
            source = rng.choice(earlier)
            yield replace(source, id=f"e{number}", kind="exact", source_id=source.id)
            continue
        made = Document(f"r{number}", "\n".join(rng.choices(sentences, k=rng.randint(*_SENTENCES))))
        if len(earlier) < 1000:
            earlier.append(made)
        yield made


def write_jsonl(documents: Iterator[Document] | Sequence[Document], directory: Path, *, files: int) -> list[Path]:
    """The documents dealt to `files` JSON Lines files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"documents-{number:03d}.jsonl" for number in range(files)]
    with ExitStack() as stack:
        sinks = [stack.enter_context(open(path, "wb")) for path in paths]
        for number, document in enumerate(documents):
            sinks[number % files].write(orjson.dumps(asdict(document)) + b"\n")
    return paths


def _document(row: dict[str, Any], number: int) -> Document:
    known = {name: row[name] for name in Document.__dataclass_fields__ if name in row}
    return Document(**{"id": f"u{number}", **known})


def _lines(path: Path) -> Iterator[bytes]:
    openers = {".zst": zstandard.open, ".gz": gzip.open, ".bz2": bz2.open}
    with cast(BinaryIO, openers.get(path.suffix, open)(path, "rb")) as stream:
        content = stream.read()
    yield from content.splitlines()


def _sample_texts() -> Iterator[str]:
    """The speeches in windows of some 450 words, then the main text of the web pages."""
    from fastwarc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text

    for line in _lines(SAMPLES / "speeches.jsonl.zst"):
        window: list[str] = []
        words = 0
        for sentence in _sentences(orjson.loads(line)["text"]):
            window.append(sentence)
            words += len(sentence.split())
            if words >= _WINDOW_WORDS:
                yield " ".join(window)
                window, words = [], 0
    seen: set[str] = set()
    for path in sorted(SAMPLES.glob("web-*.warc.gz")):
        with open(path, "rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                page = record.reader.read().decode("utf-8", "replace")
                text = extract_plain_text(page, main_content=True)
                if len(text) > 200 and text not in seen:  # the sample holds some pages twice
                    seen.add(text)
                    yield text


def _sentences(text: str) -> list[str]:
    """Lines, cut after their full stops, question and exclamation marks."""
    return [piece for piece in re.split(r"(?<=[.!?])\s+|\n", text) if piece.strip()]


def _edited(text: str, edits: int, words: Sequence[str], rng: random.Random) -> str:
    """The text with `edits` of its words replaced by others."""
    pieces = text.split(" ")
    for position in rng.sample(range(len(pieces)), min(edits, len(pieces))):
        pieces[position] = rng.choice([word for word in rng.sample(words, 2) if word != pieces[position]])
    return " ".join(pieces)
