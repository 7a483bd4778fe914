"""Bars 1 and 4: filters and signatures by CPU time, and each family's decisions, on the same documents."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from benchmarks.dataprep.boundaries import cases
from benchmarks.dataprep.documents import Document, write_jsonl
from benchmarks.dataprep.peer_process import Peer
from benchmarks.figures import Figure, ratio
from dataprep.clean.config import CleanConfig
from dataprep.clean.decisions import Decisions, DocumentFilter
from dataprep.signatures import minhash

_BATCH_DOCUMENTS = 2048
_ROUNDS = 3
_FAMILIES = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
_SHOWN = 6  # documents on which a family differs, named in the note
ALL_FAMILIES = CleanConfig(inputs=["-"], languages=["en"], fineweb={})  # type: ignore[arg-type]


def speed(documents: Sequence[Document], files: Sequence[Path], peer: Peer | None) -> list[Figure]:
    """Bar 1: language, all four families and 112 MinHashes, documents in memory, in turn."""
    texts = [document.text for document in documents]
    _clean_and_sign(texts[:256])  # loads kernels and the language model
    seconds, kept = [], 0
    for _ in range(_ROUNDS):
        started = time.process_time()
        kept = _clean_and_sign(texts)
        seconds.append(time.process_time() - started)
    ours = len(texts) / statistics.median(seconds)
    found = peer.run("clean_and_sign", files) if peer else None
    theirs = found["documents"] / found["cpu_s"] if found else None
    note = f"{len(texts):,} documents, {sum(map(len, texts)) / len(texts):,.0f} characters each; kept {kept:,}"
    note += f" (datatrove {found['kept']:,})" if found else ""
    return [Figure("1", "language, filters, signatures", "documents/CPU-s", ratio(ours, theirs), 100, ours=ours,
                   peer=theirs, note=note)]  # fmt: skip


def agreement(documents: Sequence[Document], files: Sequence[Path], peer: Peer | None) -> list[Figure]:
    """Bar 4: the fraction of documents on which keep or drop is the same, by family; differences in the note.

    And of those made by hand, how many each side decides as published.
    """
    theirs = peer.run("decisions", files)["decisions"] if peer else {}
    figures = []
    for letter, family in zip("abcd", _FAMILIES, strict=True):
        ours = _reasons([d.text for d in documents], family)
        dropped = sum(reason != "" for reason in ours)
        value, note = None, f"ours drops {dropped:,} of {len(ours):,}"
        if family in theirs:
            pairs = list(zip(ours, theirs[family], strict=True))
            value = sum((a == "") == (b == "") for a, b in pairs) / len(pairs)
            differing = Counter(
                f"ours {a or 'keep'}, datatrove {b or 'keep'}" for a, b in pairs if (a == "") != (b == "")
            )
            note += f", datatrove {sum(b != '' for _, b in pairs):,}; " + (
                "differing: " + "; ".join(f"{count} x {what}" for what, count in differing.most_common(_SHOWN))
                if differing
                else "no decision differs"
            )
        figures.append(Figure(f"4{letter}", f"{family}: keep or drop agrees", "fraction", value, 0.97, note=note))
    return [*figures, _on_the_limits(files[0].parent, peer)]


def _on_the_limits(scratch: Path, peer: Peer | None) -> Figure:
    by_hand = cases()
    documents = [Document(str(number), case.text) for number, case in enumerate(by_hand)]
    theirs = peer.run("decisions", write_jsonl(documents, scratch / "by-hand", files=1))["decisions"] if peer else {}
    differing, right, peer_right = [], 0, 0
    for family in _FAMILIES:
        mine = [number for number, case in enumerate(by_hand) if case.family == family]
        for number, reason in zip(mine, _reasons([by_hand[number].text for number in mine], family), strict=True):
            case = by_hand[number]
            right += reason == case.reason
            if theirs:
                answer = theirs[family][number]
                peer_right += answer == case.reason
                if answer != case.reason:
                    differing.append(f"{family}, {case.what}: {answer or 'keep'} for {case.reason or 'keep'}")
    note = f"{len(by_hand)} documents, the reason compared too"
    if differing:
        note += f"; datatrove decides otherwise: {'; '.join(differing)}"
    ours, peers = right / len(by_hand), peer_right / len(by_hand) if theirs else None
    return Figure("4e", "made by hand, on each limit and past it: as published", "fraction", ours, 1, ours=ours,
                  peer=peers, note=note)  # fmt: skip


def _reasons(texts: Sequence[str], family: str) -> list[str]:
    config = CleanConfig(
        inputs=["-"], language_threshold=0, **{name: {} if name == family else None for name in _FAMILIES}
    )
    return [reason for decisions in _judged(texts, config) for reason in decisions.reasons_D]


def _clean_and_sign(texts: Sequence[str]) -> int:
    kept = 0
    for decisions in _judged(texts, ALL_FAMILIES):
        minhash.signatures(decisions.kept.terms, num_hashes=112)
        kept += len(decisions.kept)
    return kept


def _judged(texts: Sequence[str], config: CleanConfig) -> Iterator[Decisions]:
    document_filter = DocumentFilter(config)
    for start in range(0, len(texts), _BATCH_DOCUMENTS):
        yield document_filter.judge(pa.array(texts[start : start + _BATCH_DOCUMENTS], pa.large_string()))
