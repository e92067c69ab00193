"""How long a person waits for the first text after moving λ on the Compare page.

    python benchmarks/live.py [--tuned demo/tool-mixed-sft] [--moves 20]

The way is the page's own: `Studio.stream` on a warm pair, a new λ each time, so that every answer needs its weights
written first. Prints the time to the first text and to the last, in milliseconds: median, 95th percentile, largest;
exits 1 where the 95th percentile of the first text is above `--most`. The first answer of all, which loads the pair, is
told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.settings import calm_threads, from_environment

calm_threads()

from backend.api import Studio
from backend.types import Column

PROMPT = "Find a train from Oslo to Rome on Friday."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--aligned", default="demo/aligned")
    parser.add_argument("--tuned", default="demo/tool-mixed-sft")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--most", type=float, default=300.0, help="milliseconds to the first text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = replace(from_environment(), home=Path(home), database=f"sqlite:///{home}/studio.sqlite")
        studio = Studio(settings)
        try:
            cold = wait(studio, options, 0.0)
            waits = [wait(studio, options, (move + 1) / options.moves) for move in range(options.moves)]
        finally:
            studio.close()
    first, last = ([pair[end] for pair in waits] for end in (0, 1))
    report = {
        "pair": [options.aligned, options.tuned],
        "threads": settings.threads,
        "n": len(waits),
        "first_answer_of_all_ms": round(cold[0]),
        "first_text_ms": spread(first),
        "whole_answer_ms": spread(last),
    }
    print(json.dumps(report, indent=2))
    return 0 if report["first_text_ms"]["p95"] <= options.most else 1


def wait(studio: Studio, options: argparse.Namespace, lam: float) -> tuple[float, float]:
    """Milliseconds to the first text and to the end of the answer."""
    clock = time.perf_counter()
    first = 0.0
    column = Column(options.aligned, options.tuned, lam)
    for chunk in studio.stream([column], [{"role": "user", "content": options.prompt}]):
        if chunk.text and not first:
            first = time.perf_counter() - clock
    return 1000 * first, 1000 * (time.perf_counter() - clock)


def spread(times: list[float]) -> dict[str, int]:
    """Median, 95th percentile and largest."""
    ordered = sorted(times)
    return {
        "median": round(statistics.median(ordered)),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]),
        "max": round(ordered[-1]),
    }


if __name__ == "__main__":
    sys.exit(main())
