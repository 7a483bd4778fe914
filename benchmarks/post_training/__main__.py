"""Runs the bars, all or some: `python -m benchmarks.post_training --only 8`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import chat_templates
from benchmarks.figures import Figure, print_figures
from benchmarks.post_training import adapter_exports, coverage, parity, ranking_recovery, step_time

BARS: Mapping[int, Callable[[], list[Figure]]] = {
    1: chat_templates.measure,
    2: parity.figures,
    3: step_time.figures,
    4: adapter_exports.figures,
    6: ranking_recovery.figures,
    8: coverage.figures,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.post_training", description=__doc__)
    parser.add_argument("--only", default=",".join(map(str, BARS)), help="bars to measure, such as 3,8; default: all")
    parser.add_argument("--json", type=Path, help="write the JSON lines here too")
    options = parser.parse_args()
    figures: list[Figure] = []
    for bar in map(int, options.only.split(",")):
        if bar not in BARS:
            parser.error(f"there is no bar {bar}; there are {', '.join(map(str, BARS))}")
        started = time.perf_counter()
        figures += BARS[bar]()
        print(f"bar {bar}: measured in {time.perf_counter() - started:.0f} s", flush=True)
    print_figures(figures)
    if options.json is not None:
        options.json.write_text("".join(json.dumps(figure.as_json()) + "\n" for figure in figures))
    sys.exit(any(figure.holds is False for figure in figures))


if __name__ == "__main__":
    main()
