"""What a fine-tuning says of itself while it runs: three files of JSON lines in its folder, written and read. No torch.

metrics.jsonl    scalars, at most two rows a second: step, loss_task, lr, grad_norm, tokens_seen, seconds, …
selection.jsonl  refreshes, the references chosen, the task samples dropped, with their words
probes.jsonl     scores on the validation suites
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_ROWS = 0.5
MOST_DROPPED = 200
LONGEST_TEXT = 2000
METRICS, SELECTION, PROBES = "metrics.jsonl", "selection.jsonl", "probes.jsonl"


class Recorder:
    """Writes a run's telemetry. A resumed run first drops the rows of steps that it will do again."""

    def __init__(
        self,
        folder: Path,
        texts: Mapping[str, Mapping[str, str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._texts = texts
        self._clock = clock
        self._started: float | None = None
        self._before = 0.0
        self._last = float("-inf")

    def step(self, row: Mapping[str, Any], events: Sequence[Mapping[str, Any]], *, last: bool = False) -> None:
        """One optimiser step: `row` has "step"; the scalars are left out when the last ones are half a second old."""
        now = self._clock()
        if self._started is None:
            self.rewind(int(row["step"]))
            self._started = now
        self._append(SELECTION, [self._told(event) for event in events])
        if last or now - self._last >= SECONDS_BETWEEN_ROWS:
            self._last = now
            self._append(METRICS, [{**row, "seconds": round(self._before + now - self._started, 3)}])

    def probe(self, step: int, scores: Mapping[str, Any]) -> None:
        """Scores on the validation suites after `step` steps."""
        self._append(PROBES, [{"step": step, "scores": scores}])

    def rewind(self, step: int) -> None:
        """Forget everything from `step` on."""
        for name, first in ((METRICS, step), (SELECTION, step), (PROBES, step + 1)):
            rows = _read(self._folder / name)
            kept = [row for row in rows if row.get("step", -1) < first]
            if name == METRICS and kept:
                self._before = kept[-1]["seconds"]
            if len(kept) < len(rows):
                temporary = self._folder / f"{name}.tmp"
                temporary.write_text("".join(_line(row) for row in kept), encoding="utf-8")
                os.replace(temporary, self._folder / name)

    def _told(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """An event with the words of its rows."""
        rounded: dict[str, Any] = {
            key: round(value, 6) if isinstance(value, float) else value for key, value in event.items()
        }
        if "rows" in rounded:
            rounded["rows"] = [self._told(row) for row in rounded["rows"]]
        elif "id" in rounded:
            rounded |= {part: text[:LONGEST_TEXT] for part, text in self._texts.get(rounded["id"], {}).items()}
        return rounded

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.write("".join(_line(row) for row in rows))


def read(folder: Path, after: int = 0) -> dict[str, Any]:
    """What there is so far; empty lists before the run started.

    Returns:
        steps: rows of scalars with a step above `after` (all rows for 0).
        refreshes: {step, cause, seconds, scored, chosen, entropy, jaccard, jaccard_chance}.
        references: the newest set, {id, kind, new, weight, r, cos, score, text, answer} each.
        dropped: the newest 200 samples left out, newest first, {step, id, kind, group, loss, cos, score, reason, text,
            answer} each.
        counts: kind -> [how many samples were dropped, out of how many].
        probes: {step, scores: axis -> score}.
    """
    events = _read(folder / SELECTION)
    named = {
        name: [event for event in events if event["event"] == name] for name in ("refresh", "references", "dropped")
    }
    counts: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "counts"), {})
    return {
        "steps": [row for row in _read(folder / METRICS) if after <= 0 or row["step"] > after],
        "refreshes": [_plain(event) for event in named["refresh"]],
        "references": named["references"][-1]["rows"] if named["references"] else [],
        "dropped": [_plain(event) for event in named["dropped"][: -MOST_DROPPED - 1 : -1]],
        "counts": {kind: [counts["dropped"].get(kind, 0), seen] for kind, seen in counts.get("seen", {}).items()},
        "probes": _read(folder / PROBES),
    }


def _plain(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "event"}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that may be growing: an unfinished last line is not there yet."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line.strip()]
