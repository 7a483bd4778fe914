"""Compiles all kernels into Numba's cache, so that no stage has to: `python -m dataprep.compile_kernels`.

A kernel is compiled for the types that it is called with, so this cleans a tiny file with all filters on and calls what
the other stages use. On a fresh machine it takes half a minute, after that a second or two.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from dataprep.clean.config import CleanConfig
from dataprep.filters.config import (
    BadWordsSettings,
    DecontaminationSettings,
    FineWebSettings,
    GopherQualitySettings,
    GopherRepetitionSettings,
    Mc4Settings,
    RefinedWebSettings,
)
from dataprep.kernel_cache import keep_compiled_kernels
from dataprep.pii.config import PiiSettings
from dataprep.sources.shards import whole_file

_PAGE = b"<html><body><p>Two words, and [1] a few more. It is no page of note, but one of the kind.</p></body></html>"


def compile_kernels() -> None:
    """Call every kernel once."""
    keep_compiled_kernels()
    import numpy as np
    import pyarrow as pa

    from dataprep.clean.part import clean_part
    from dataprep.dedupe.bucket_edges import checked_edges
    from dataprep.dedupe.union_find import UnionFind, spanning_forest
    from dataprep.extract.html_depth import scan
    from dataprep.repeated_lines.line_counts import LineCounter, copy_keys
    from dataprep.repeated_lines.line_keys import line_keys, site_hashes, site_keys, without_lines
    from dataprep.signatures.minhash import DTYPE, band_hashes
    from dataprep.text.column import TextColumn
    from dataprep.tokenizer.compiled_bpe import BpeEncoder

    scan(_PAGE)
    page = TextColumn(pa.array(["two words"], pa.large_string()))
    keys_L = line_keys(page)
    counter = LineCounter(most_copies=2)
    counter.add({0: keys_L}, np.zeros(len(keys_L), np.int64), copy_keys(page.terms))
    counter.table()
    without_lines(page, site_keys(keys_L, site_hashes([None])) != keys_L)
    BpeEncoder(range(256), [(32, 119)], [256]).encode(page.data, page.offsets)
    band_hashes(np.zeros((1, 2), DTYPE), bands=1, rows=2)
    keys, members, sketches = np.zeros(2, np.uint64), np.arange(2), np.zeros((2, 1), np.uint64)
    UnionFind(2).add(spanning_forest(checked_edges(keys, members, sketches, most_differing=0)))
    with tempfile.TemporaryDirectory() as scratch:
        words = Path(scratch) / "words.txt"
        words.write_text("cat")
        config = CleanConfig(
            inputs=["-"],
            gopher_repetition=GopherRepetitionSettings(mode="annotate"),
            gopher_quality=GopherQualitySettings(min_doc_words=0),
            refinedweb=RefinedWebSettings(),
            fineweb=FineWebSettings(),
            mc4=Mc4Settings(min_long_lines=0),
            bad_words=BadWordsSettings(files=(str(words),), keep_fraction=1.0),
            decontamination=DecontaminationSettings(files=(str(words),), min_terms=1, action="cut"),
            pii=PiiSettings(),
        )
        source = Path(scratch) / "page.jsonl"
        sentence = "The cat sat with the dog, and that was all of it, said me@example.org. "
        source.write_text(json.dumps({"text": sentence * 6}))
        kept = clean_part([whole_file(str(source))], parts=scratch, key="page", config=config)
    assert kept == 1, "a document that is dropped leaves the kernels that redact and sign uncalled"


if __name__ == "__main__":
    compile_kernels()
