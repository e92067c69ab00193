"""How long a person waits for the first text after moving λ on the Compare page.

    python benchmarks/live.py [--tuned demo/tool-mixed-sft] [--moves 20] [--page]

With --page in headless Chromium: from the slider's event to the frame that shows the first words, the page being served
by a process of its own. Without it the way is the page's own up to the browser: `Studio.stream` on a warm pair, a new λ
each time, so that every answer needs its weights written first. Prints the time to the first text and to the last, in
milliseconds: median, 95th percentile, largest; exits 1 where the 95th percentile of the first text is above `--most`.
The first answer of all, which loads the pair, is told apart.
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
from typing import Any

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
    parser.add_argument("--page", action="store_true", help="measure in the browser")
    options = parser.parse_args()
    measured = in_the_browser(options) if options.page else behind_the_page(options)
    report = {"pair": [options.aligned, options.tuned], "threads": from_environment().threads, **measured}
    print(json.dumps(report, indent=2))
    return 0 if report["first_text_ms"]["p95"] <= options.most else 1


def behind_the_page(options: argparse.Namespace) -> dict[str, Any]:
    """From `Studio.stream` to its chunks."""
    with tempfile.TemporaryDirectory() as home:
        settings = replace(from_environment(), home=Path(home), database=f"sqlite:///{home}/studio.sqlite")
        studio = Studio(settings)
        try:
            cold = wait(studio, options, 0.0)
            waits = [wait(studio, options, (move + 1) / options.moves) for move in range(options.moves)]
        finally:
            studio.close()
    first, last = ([pair[end] for pair in waits] for end in (0, 1))
    return {
        "n": len(waits),
        "first_answer_of_all_ms": round(cold[0]),
        "first_text_ms": spread(first),
        "whole_answer_ms": spread(last),
    }


MOVE = """(lam) => new Promise((resolve) => {
  const input = document.querySelector("#knob input"), columns = document.querySelector("#columns");
  const wanted = "λ = " + lam.toFixed(2), began = performance.now();
  const watch = new MutationObserver(() => {
    const merged = columns.querySelector('[data-name="merged"]'), answer = merged && merged.querySelector(".answer");
    if (!answer || !answer.textContent.trim() || !merged.querySelector("h4").textContent.includes(wanted)) return;
    watch.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - began));
  });
  watch.observe(columns, { subtree: true, childList: true, characterData: true });
  input.value = lam;
  input.dispatchEvent(new Event("input", { bubbles: true }));
})"""


def in_the_browser(options: argparse.Namespace) -> dict[str, Any]:
    """From the slider's event to the frame with the first words; a second of rest between the movements."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.conftest import CHROMIUM, QUIET, free_port, served

    port = free_port()
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        pages = served([sys.executable, "-m", "app"], port, {"PORT": str(port), "STUDIO_HOME": home})
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(f"{next(pages)}/?view=compare")
        page.locator("#columns .s-column").first.wait_for()
        page.get_by_role("button", name="Ask all three").click()
        page.get_by_text("First words after").wait_for()
        times = []
        for move in range(options.moves):
            page.wait_for_timeout(1000)
            times.append(page.evaluate(MOVE, round((move + 1) / (options.moves + 1), 2)))
        browser.close()
        pages.close()
    return {"n": len(times), "first_text_ms": spread(times)}


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
