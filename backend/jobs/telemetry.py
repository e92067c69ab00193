"""What a fine-tuning says of itself while it runs: three files of JSON lines in its folder, written and read. No torch.

metrics.jsonl    scalars, at most two rows a second: step, loss_task, lr, grad_norm, tokens_seen, seconds, …
selection.jsonl  refreshes, the references chosen, the task samples dropped, with their words
probes.jsonl     scores on the validation suites
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_ROWS = 0.5
MOST_DROPPED = 200
LONGEST_TEXT = 2000
LONGEST_MARK = 256
METRICS, SELECTION, PROBES = "metrics.jsonl", "selection.jsonl", "probes.jsonl"


class Recorder:
    """Writes a run's telemetry. A resumed run first drops the rows of steps that it will do again.

    Args:
        texts, references: the words of task rows and of references by id; one id may stand in both.
    """

    def __init__(
        self,
        folder: Path,
        texts: Mapping[str, Mapping[str, str]],
        references: Mapping[str, Mapping[str, str]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._texts, self._references = texts, references or {}
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
        self._append(SELECTION, [self._told(event, self._texts) for event in events])
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

    def _told(self, event: Mapping[str, Any], texts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """An event with the words of its rows."""
        rounded: dict[str, Any] = {
            key: round(value, 6) if isinstance(value, float) else value for key, value in event.items()
        }
        if "rows" in rounded:
            rounded["rows"] = [self._told(row, self._references) for row in rounded["rows"]]
        elif "id" in rounded:
            rounded |= {part: text[:LONGEST_TEXT] for part, text in texts.get(rounded["id"], {}).items()}
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
    return _Followed(folder).read(after)


class Reader:
    """`read` for those who ask every second: of a run that was asked for before, only what is new is read.

    Many may ask at once; the runs asked for last are remembered.
    """

    def __init__(self, runs: int = 8) -> None:
        self._runs, self._lock = runs, threading.Lock()
        self._followed: OrderedDict[Path, _Followed] = OrderedDict()

    def read(self, folder: Path, after: int = 0) -> dict[str, Any]:
        """The document of the function `read`."""
        with self._lock:
            followed = self._followed.setdefault(folder, _Followed(folder))
            self._followed.move_to_end(folder)
            if len(self._followed) > self._runs:
                self._followed.popitem(last=False)
            return followed.read(after)


class _Followed:
    """A run's telemetry so far, without the references and dropped samples that `read` no longer tells of."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._probes = _Growing(folder / METRICS), _Growing(folder / PROBES)
        self._selection = _Growing(folder / SELECTION)
        self._chosen = _Chosen()
        self._steps: list[dict[str, Any]] = []
        self._scores: list[dict[str, Any]] = []

    def read(self, after: int) -> dict[str, Any]:
        anew, events = self._selection.gained()
        self._chosen = _Chosen() if anew else self._chosen
        for event in events:
            self._chosen.take(event)
        anew, rows = self._metrics.gained()
        self._steps = rows if anew else self._steps + rows
        anew, rows = self._probes.gained()
        self._scores = rows if anew else self._scores + rows
        return {
            "steps": [row for row in self._steps if after <= 0 or row["step"] > after],
            **self._chosen.told(),
            "probes": list(self._scores),
        }


class _Chosen:
    """What the events of selection.jsonl come to."""

    def __init__(self) -> None:
        self._refreshes: list[dict[str, Any]] = []
        self._references: list[dict[str, Any]] = []
        self._dropped: deque[dict[str, Any]] = deque(maxlen=MOST_DROPPED)
        self._counts: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "refresh":
                self._refreshes.append(_plain(event))
            case "references":
                self._references = event["rows"]
            case "dropped":
                self._dropped.appendleft(_plain(event))
            case "counts":
                self._counts = event

    def told(self) -> dict[str, Any]:
        seen, dropped = self._counts.get("seen", {}), self._counts.get("dropped", {})
        return {
            "refreshes": list(self._refreshes),
            "references": list(self._references),
            "dropped": list(self._dropped),
            "counts": {kind: [dropped.get(kind, 0), number] for kind, number in seen.items()},
        }


class _Growing:
    """A file of JSON lines that grows at its end, or is replaced where a resumed run rewinds it.

    It has only grown when the bytes just before the place read last are still there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._mark = path, 0, b""

    def gained(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the file is another one than before, and its new rows: an unfinished last line is not there yet."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place - len(self._mark))
                found = file.read()
        except OSError:
            found = b""
        if not found.startswith(self._mark):
            self._place, self._mark = 0, b""
            return True, self.gained()[1]
        new = found[len(self._mark) : found.rfind(b"\n") + 1]
        lines = new.decode("utf-8", errors="replace").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
        self._place += len(new)
        self._mark = (self._mark + new)[-LONGEST_MARK:]
        return False, rows


def _plain(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "event"}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that may be growing."""
    return _Growing(path).gained()[1]
