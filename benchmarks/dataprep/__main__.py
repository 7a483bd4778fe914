"""Runs the bars, all or some: `python -m benchmarks.dataprep --only 1,3 --documents FILE --peer PYTHON`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dataprep.kernel_cache import keep_compiled_kernels

BARS = (1, 2, 3, 4, 5, 6, 7)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    keep_compiled_kernels()
    from benchmarks.dataprep import documents as inputs
    from benchmarks.dataprep import encoding, filters, graph, near_duplicates, pipeline
    from benchmarks.dataprep.peer_process import find_peer
    from benchmarks.figures import Figure, print_figures

    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="raymill-bench-") as directory:
        scratch = Path(directory)
        peer = find_peer(options.peer, scratch)
        if peer is None:
            print(
                "datatrove is not installed here, so its column is left out; --peer PYTHON names an interpreter with it"
            )
        corpus = inputs.load_documents(options.documents, limit=None)
        few = inputs.load_documents(options.documents, limit=200 if options.quick else 2000)
        files = inputs.write_jsonl(corpus, scratch / "all", files=1)
        few_files = inputs.write_jsonl(few, scratch / "few", files=1)
        source = options.documents or "the shipped sample, duplicates planted"
        print(f"{len(corpus):,} documents ({sum(len(d.text.encode()) for d in corpus) / 1e6:.1f} MB) of {source}")
        bars: dict[int, Callable[[], list[Figure]]] = {
            1: lambda: filters.speed(few, few_files, peer),
            2: lambda: pipeline.beside_datatrove(
                corpus,
                peer,
                scratch / "2",
                count=options.pipeline_documents or (5_000 if options.quick else pipeline.DEFAULT_DOCUMENTS),
                peer_count=options.peer_documents,
            ),
            3: lambda: encoding.speed(few if options.quick else corpus),
            4: lambda: filters.agreement(few, few_files, peer),
            5: lambda: near_duplicates.recall(*((few, few_files) if options.quick else (corpus, files)), peer),
            6: lambda: graph.components(quick=options.quick),
            7: lambda: pipeline.at_ten_times_the_data(corpus, scratch / "7", count=1_000 if options.quick else 10_000),
        }
        for bar in options.only:
            started = time.perf_counter()
            figures += bars[bar]()
            print(f"bar {bar}: measured in {time.perf_counter() - started:.0f} s", flush=True)
    print_figures(figures)
    if options.json is not None:
        options.json.write_text("".join(json.dumps(figure.as_json()) + "\n" for figure in figures))
    sys.exit(any(figure.holds is False for figure in figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataprep", description=__doc__)
    parser.add_argument("--documents", type=Path, help="JSON Lines (.zst, .gz, .bz2)")  # fmt: skip
    parser.add_argument("--peer", help="a Python with datatrove 0.10.1; default: this one, where it has it")
    parser.add_argument("--only", type=_bars, default=list(BARS), help="bars to measure, such as 1,3; default: all")
    parser.add_argument(
        "--pipeline-documents",
        type=int,
        help="documents of bar 2; default: 720,000, a minute of ours",
    )
    parser.add_argument("--peer-documents", type=int, help="how many of them datatrove gets; default: a tenth of them")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, to see that it works")
    parser.add_argument("--json", type=Path, help="write the JSON lines here too")
    return parser.parse_args()


def _bars(text: str) -> list[int]:
    bars = [int(part) for part in text.split(",")]
    if unknown := set(bars) - set(BARS):
        raise argparse.ArgumentTypeError(f"no bars {sorted(unknown)}; there are {', '.join(map(str, BARS))}")
    return bars


if __name__ == "__main__":
    main()
