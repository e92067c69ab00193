"""The one door: what a page, a script or CI may do. See `Studio`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.settings import Settings
from backend.types import Column, Chunk, Frontier, Inspection, Outcome, Plan, Point, Run


class Studio:
    """Everything the studio can do, over one home folder.

    CONTRACT (being filled in):  all bad input raises `UserError`; nothing here imports torch.
    """

    def __init__(self, settings: Settings) -> None: ...

    # -- what there is
    def catalogue(self) -> dict[str, Any]:
        """{"methods": [...], "tasks": [...], "judges": [...], "presets": [...], "checkpoints": [...], "suites": [...]}.

        A method is {"name","summary","paper","needs","parameters":[{"name","kind","default","low","high","help"…}]};
        a task {"name","summary","suite","metric"}; a preset {"name","summary","prompts":{axis: n},"new_tokens"};
        a checkpoint {"name","role","task","lineage","parameters","kind"}, role one of unaligned/aligned/fine-tuned/merged.
        """
        raise NotImplementedError

    def inspect(self, aligned: str, tuned: str | None = None) -> Inspection:
        """Headers, configs and tokenizers of one checkpoint or a pair; findings instead of exceptions for a bad pair."""
        raise NotImplementedError

    # -- runs
    def plan(self, kind: str, spec: Mapping[str, Any]) -> Plan:
        """Validate completely, estimate, look for a stored run of the same recipe. Nothing is written.

        kind "sweep": {"aligned","tuned","method","parameters":{}, "grid": "0:1:11" or [..], "task", "preset", "seed"}
        kind "merge": {"aligned","tuned","method","parameters":{"lam":0.5},"out": folder or ""}
        kind "evaluate": {"checkpoint","task","preset","seed", "suites": [paths]}
        """
        raise NotImplementedError

    def submit(self, kind: str, spec: Mapping[str, Any], *, owner: str = "local", name: str = "") -> Run:
        """Queue it; returns the queued run."""
        raise NotImplementedError

    def runs(self, *, owner: str | None = None) -> list[Run]:
        """Newest first; stored demo runs included."""
        raise NotImplementedError

    def run(self, run: int) -> Run:
        raise NotImplementedError

    def log(self, run: int, *, lines: int = 200) -> str:
        """The tail of the run's log file."""
        raise NotImplementedError

    def cancel(self, run: int) -> Run:
        raise NotImplementedError

    def restart(self, run: int) -> Run:
        """Queue a failed, cancelled or interrupted run again under its id; finished points are kept."""
        raise NotImplementedError

    def rename(self, run: int, name: str) -> Run:
        raise NotImplementedError

    # -- results
    def points(self, runs: Sequence[int]) -> list[Point]:
        raise NotImplementedError

    def outcomes(self, point: int, *, suite: str | None = None) -> list[Outcome]:
        raise NotImplementedError

    def frontier(self, points: Sequence[Point]) -> Frontier:
        raise NotImplementedError

    def sweep_json(self, run: int) -> dict[str, Any]:
        """The sweep document of the command line: run, recipe, points, front, hypervolume, knee; in percent."""
        raise NotImplementedError

    # -- live answers (a process of its own; the pair stays resident)
    def stream(
        self, columns: Sequence[Column], messages: Sequence[Mapping[str, str]], *, new_tokens: int = 64
    ) -> Iterator[Chunk]:
        """Stream each column's greedy answer to the same prompt. Raises `DeviceBusy` naming the run that holds the device.

        Closing the generator (or a newer call) stops the older stream between tokens.
        """
        raise NotImplementedError

    def device(self) -> dict[str, Any]:
        """{"device": "cpu, 2 threads", "state": "idle"|"run 12", "queue": n, "worker": bool} for the device line."""
        raise NotImplementedError

    # -- the worker
    def ensure_worker(self) -> None:
        """Start the worker process if none is alive; it outlives this process while runs are live."""
        raise NotImplementedError

    def wait(self, run: int, report: Callable[[Run], None] | None = None) -> Run:
        """Block until the run is over (command line, notebooks)."""
        raise NotImplementedError

    # -- bundles
    def export_runs(self, runs: Iterable[int]) -> dict[str, Any]:
        raise NotImplementedError

    def import_runs(self, bundle: Mapping[str, Any], *, stored: bool = False) -> list[Run]:
        raise NotImplementedError
