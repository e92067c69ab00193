"""The search for a better front: uniform λ first, then what Optuna proposes, then both fronts on held-out prompts.

Everything that is chosen is chosen on the validation suites; the held-out suites are only asked at the end, by the
members of the front that was found and by at least as many uniform λ. Points carry the recipe they were measured by, so
that no setting is measured twice, whichever run asked for it first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backend.evaluation.outcomes import marks
from backend.evaluation.runner import Runner
from backend.frontier import front
from backend.inference.decode import Statistics
from backend.jobs.actions import Context
from backend.jobs.named_suites import measured_with, search_suites
from backend.jobs.planning import identity, recipe_hash
from backend.jobs.sources import open_spec
from backend.jobs.sweep import anchor_of, details_of, load_sources, measure
from backend.params import check_parameters
from backend.registry import methods
from backend.search.contest import Marks, contest
from backend.search.propose import Trial, propose
from backend.search.space import Setting, Space, completed, knobs_of, space_of
from backend.types import Outcome, Point

HELD_OUT = 10_000  # indices of held-out points begin here; trials have their number
SEARCH_SHARE = 0.8  # of the progress bar
RANDOM_FIRST = 5


def search(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Look for a front of per-layer and per-module λ, and say what it is worth on prompts it was not chosen on."""
    started = time.monotonic()
    context.report(0.0, "loading the pair")
    bench = _Bench(context, spec)
    trials = _look(bench, spec)
    chosen = [trials[place] for place in front([_scores(point) for point in trials])]
    many = max(len(spec["grid"]), len(chosen), 2)
    uniform = sorted({*spec["grid"], *(round(step / (many - 1), 12) for step in range(many))})
    wanted = {HELD_OUT + point.index: point.coefficients for point in chosen}
    settled = [
        bench.measure(index, setting, "held-out", number / (len(chosen) + len(uniform)))
        for number, (index, setting) in enumerate([*wanted.items(), *_numbered(uniform, spec["grid"])])
    ]
    return _verdict(settled[: len(chosen)], settled[len(chosen) :], chosen, spec["seed"]) | {
        "points": len(trials),
        "trials": len(trials) - len(spec["grid"]),
        "measured": bench.measured,
        "known": bench.known,
        "searched": {name: list(ends) for name, ends in bench.space.items()},
        "seconds": round(time.monotonic() - started, 2),
    }


def _numbered(uniform: Sequence[float], grid: Sequence[float]) -> list[tuple[int, Setting]]:
    """Held-out indices of uniform λ: those of the grid keep their number, the others come behind all trials."""
    numbers = [grid.index(lam) if lam in grid else HELD_OUT + place for place, lam in enumerate(uniform)]
    return [(HELD_OUT + number, {"lambda": lam}) for number, lam in zip(numbers, uniform, strict=True)]


def _look(bench: _Bench, spec: Mapping[str, Any]) -> list[Point]:
    """Uniform λ, then proposals until trials or minutes are used up; a restart goes on behind the stored points."""
    grid, most, limit = spec["grid"], spec["trials"], 60 * spec["minutes"]
    trials: list[Point] = []
    told: list[Trial] = []
    spent = 0.0
    for index in range(len(grid) + most):
        if index >= len(grid) and spent >= limit:
            break
        share = max(index / (len(grid) + most), min(1.0, spent / limit))
        clock = time.monotonic()
        if index in bench.stored:
            point = bench.stored[index]
        elif index < len(grid):
            point, _ = bench.measure(index, {"lambda": grid[index]}, "validation", share)
        else:
            setting = propose(told, bench.space, seed=spec["seed"], random_first=len(grid) + RANDOM_FIRST)
            point, _ = bench.measure(index, setting, "validation", share)
        spent += point.details["seconds"] if index in bench.stored else time.monotonic() - clock
        trials.append(point)
        told.append((completed(point.coefficients, bench.space), _scores(point)))
    return trials


class _Bench:
    """The resident pair and both halves of the suites."""

    def __init__(self, context: Context, spec: Mapping[str, Any]) -> None:
        self.context, self.spec = context, spec
        given = open_spec(context.settings, spec)
        self._responder, self._pair = load_sources(given, context.settings, seed=spec["seed"])
        self.space: Space = space_of(self._pair.moved, spec["depth"])
        halves = zip(("validation", "held-out"), search_suites(context.settings, spec), strict=True)
        self._runners: dict[str, Runner] = {}
        self._recipes: dict[str, dict[str, Any]] = {}
        # With configurations and templates: a point is taken over only if it was asked in the same words.
        sources = given.whole_fingerprints()
        for half, suites in halves:
            self._runners[half] = Runner(suites, self._responder)
            self._recipes[half] = sources | measured_with(suites, spec) | {"merge_seed": spec["seed"]}
        self.stored = {point.index: point for point in context.stored_points()}
        self._saved = Statistics()
        self.measured = self.known = 0

    def measure(self, index: int, setting: Setting, half: str, share: float) -> tuple[Point, list[Outcome]]:
        """The point of this setting with its outcomes; one that was ever measured is taken from where it is stored.

        Args:
            index: the number that a new point gets in this run.
            half: "validation" or "held-out".
            share: how much of that half's work is done.
        """
        uniform = set(setting) == {"lambda"}
        method = methods.get("linear" if uniform else "layerwise")
        knobs = check_parameters(method.name, method.parameters, knobs_of(setting))
        recipe = recipe_hash(self._recipes[half] | {"method": identity(method), "parameters": knobs})
        known = self.context.known_point(recipe)
        if known and known[0].run == self.context.run:
            return known
        if known:
            self.known += 1
            point, outcomes = known
            details = point.details | {"half": half, "taken_from": f"run {point.run}, point {point.index}"}
            point = replace(point, id=0, run=self.context.run, index=index, details=details)
        else:
            self.measured += 1
            clock = time.monotonic()
            effective = self._pair.write_into(self._responder.parameters(), method, knobs)
            words = f"{half}, λ = {setting['lambda']:g}" if uniform else f"{half}, setting {index % HELD_OUT + 1}"
            runner, part = self._runners[half], _Part(self.context, half, share)
            measured = measure(part, self._responder, runner, self.spec, self._saved, (0, 1), words)
            details = details_of(measured, runner, self._responder, time.monotonic() - clock)
            point = Point(
                id=0,
                run=self.context.run,
                index=index,
                method=method.name,
                coefficients=dict(setting),
                scores=measured.scores,
                outcomes=measured.counts,
                effective=effective,
                anchor=anchor_of(method, 1, knobs) if uniform else "",
                details=details | {"half": half, "recipe": recipe, "parameters": knobs},
            )
            outcomes = measured.outcomes
        self.context.add_point(point, outcomes)
        return point, outcomes


class _Part:
    """One measurement's share of the whole run's progress bar."""

    def __init__(self, context: Context, half: str, share: float) -> None:
        self._context = context
        low, high = (0.0, SEARCH_SHARE) if half == "validation" else (SEARCH_SHARE, 1.0)
        self._fraction = low + (high - low) * share

    def report(self, fraction: float, phrase: str) -> None:
        self._context.report(self._fraction, phrase)


Settled = Sequence[tuple[Point, list[Outcome]]]


def _scores(point: Point) -> tuple[float, float]:
    """(task score, safety) of a point; nothing scored counts as 0."""
    return point.scores["task"].value or 0.0, point.scores["safety"].value or 0.0


def _verdict(found: Settled, uniform: Settled, chosen: Sequence[Point], seed: int) -> dict[str, Any]:
    """Both fronts on the held-out prompts, in percent."""
    settled = [*found, *uniform]
    suites = _marks([outcomes for _, outcomes in settled])
    rows = range(len(settled))
    verdict = contest(suites, rows[: len(found)], rows[len(found) :], seed=seed)
    axes = ("task", "safety")
    return {
        "front": [
            {"index": point.index, "validation": _both(before), **_described(point)}
            for (point, _), before in zip(found, chosen, strict=True)
        ],
        "uniform": [{"index": point.index, **_described(point)} for point, _ in uniform],
        "hypervolume": {
            "found": _percent(verdict.found),
            "uniform": _percent(verdict.uniform),
            "reference": [0, 0],
        },
        "difference": {
            "value": _percent(verdict.difference),
            "low": _percent(verdict.low),
            "high": _percent(verdict.high),
            "level": 95,
            "replicates": verdict.replicates,
        },
        "n": {axis: sum(one.worth.shape[1] for one in suites if one.axis == axis) for axis in axes},
    }


def _marks(answered: Sequence[Sequence[Outcome]]) -> list[Marks]:
    """The outcomes of every model as one pair of matrices for each suite on the two axes of the front."""
    suites = dict.fromkeys((one.axis, one.suite) for one in answered[0] if one.axis in ("task", "safety"))
    found = []
    for axis, suite in suites:
        # Sorted, so that a model taken from another run has its prompts in the same places.
        mine = [
            sorted((one for one in outcomes if one.suite == suite), key=lambda one: one.sample) for outcomes in answered
        ]
        pairs = np.array([marks(outcomes) for outcomes in mine], dtype=np.float64)
        found.append(Marks(axis, pairs[:, :, 0], pairs[:, :, 1]))
    return found


def _described(point: Point) -> dict[str, Any]:
    turned = {"coefficients": point.coefficients, "parameters": knobs_of(point.coefficients)}
    return {"method": point.method, **turned, "held_out": _both(point)}


def _both(point: Point) -> dict[str, Any]:
    return {axis: score.to_json() for axis, score in point.scores.items()}


def _percent(share: float) -> float:
    return round(100 * share, 4)
