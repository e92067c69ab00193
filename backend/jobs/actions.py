"""What a run may ask of the job it is done in, and where each kind of run is done: one module for each, read only then.

An action gets a checked spec and a `Context`: it reports progress, is told to stop, and hands over finished points.
Points that an earlier, interrupted attempt stored are not computed again.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from backend.settings import Settings
from backend.types import Outcome, Point, Run

# kind of run -> the module of this package with a function of that name; a merge needs no model library, most others do
MODULES = {
    "sweep": "sweep",
    "merge": "merge",
    "evaluate": "sweep",
    "tune": "tune",
    "search": "search",
    "compare": "compare",
}


class Reporter(Protocol):
    """Whoever wants to know how far the work is."""

    def report(self, fraction: float, phrase: str) -> None: ...


class Context(Protocol):
    """What an action may ask of the job it runs in."""

    run: int
    settings: Settings
    folder: Path
    recipe: dict[str, Any]

    def report(self, fraction: float, phrase: str) -> None:
        """Say how far the work is (0–1); raises `Cancelled` when somebody asked to stop."""

    def should_stop(self) -> bool:
        """Whether somebody cancelled the run; raises `Interrupted` when it has to stop for another reason."""

    def request(self) -> str: ...
    def stored_points(self) -> list[Point]: ...
    def add_point(self, point: Point, answered: Sequence[Outcome]) -> None: ...
    def known_point(self, recipe: str) -> tuple[Point, list[Outcome]] | None:
        """A point of any run that was measured by this very recipe, with its outcomes."""

    def others(self, kind: str) -> list[Run]:
        """Other runs of this kind, newest first; not imported ones: their numbers are no measurement of this studio."""

    def points_of(self, run: Run) -> list[Point]: ...
    def outcomes_of(self, point: Point) -> list[Outcome]: ...


def act(context: Context, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Do a run and return its result."""
    module = importlib.import_module(f"backend.jobs.{MODULES[kind]}")
    result: dict[str, Any] = getattr(module, kind)(context, spec)
    return result
