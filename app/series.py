"""Which points of a plot belong together, what they are called and how they look. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app import text
from backend.types import Point, Run, RunStatus

# Okabe–Ito hues, the ones with most contrast first; a series takes one hue and one shape, so colour is never alone.
# They are names, since each is a little lighter in the dark; "~" behind a name asks for a faint version.
HUES = ("@blue", "@vermilion", "@green", "@purple", "@orange", "@sky", "@yellow", "@grey")
SHAPES = ("circle", "square", "triangle-up", "star", "hexagon", "cross", "triangle-down", "x")


class Series(NamedTuple):
    """The points of one run and method, with the look that tells them from others."""

    name: str
    points: Sequence[Point]
    hue: str
    shape: str
    judge: str


def settled(points: Sequence[Point], runs: Mapping[int, Run]) -> list[Point]:
    """Of a search only what may stand beside other runs: held-out points once it is done, validation until then."""
    wanted = {run: "held-out" if row.status == RunStatus.DONE else "validation" for run, row in runs.items()}
    return [point for point in points if point.half in ("", wanted.get(point.run, ""))]


def series_of(points: Sequence[Point], runs: Mapping[int, Run]) -> list[Series]:
    """One series for every run and method in it, named by the method; by the fine-tuned model too where they differ."""
    groups: dict[tuple[int, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.run, point.method != "linear", point.method)):
        groups.setdefault((point.run, point.method), []).append(point)
    alone = len({_tuned(runs.get(run)) for run, _ in groups}) == 1
    found = []
    for number, ((run, method), mine) in enumerate(groups.items()):
        row = runs.get(run)
        mine.sort(key=lambda point: tuple(point.coefficients.values()))
        look = HUES[number % len(HUES)], SHAPES[(number + number // len(HUES)) % len(SHAPES)]  # 64 different ones
        found.append(Series(_name(run, method, row, alone and len(groups) > 1), mine, *look, text.judge(row)))
    return found


def paths_of(points: Sequence[Point]) -> list[list[Point]]:
    """Points that only one number tells apart, in its order: a sweep is one path, a grid over two several.

    The settings of a search lie on no path, and seeds are no path either.
    """
    paths: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        knobs = dict(point.coefficients)
        if 1 <= len(knobs) <= 2 and list(knobs) != ["seed"]:
            turned = "lambda" if "lambda" in knobs else next(iter(knobs))
            knobs.pop(turned)
            paths.setdefault((turned, *knobs.items()), []).append(point)
    return [sorted(path, key=lambda point: point.coefficients[key[0]]) for key, path in paths.items()]


def _tuned(run: Run | None) -> str:
    tuned = (run.spec.get("tuned") or "") if run else ""
    return " + ".join(str(one).split("/")[-1] for one in (tuned if isinstance(tuned, list) else [tuned]))


def _name(run: int, method: str, row: Run | None, alone: bool) -> str:
    tuned = "" if alone else _tuned(row)
    which = f", run {run}" if row is None or not row.stored else ""
    return text.plain((f"{method} · {tuned}" if tuned else method) + which)
