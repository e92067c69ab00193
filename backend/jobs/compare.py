"""A comparison run: every strategy and every seed trained and measured, and the merges of each seed's plain fine-tune.

Each training is a `tune` and each path of merges a `sweep`, done inside this run; every finished one is a point, a
checkpoint or a row of trials.json, so that a restart goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.jobs import telemetry
from backend.jobs.compare_known import Known
from backend.jobs.compare_plan import TUNED, trial_suites
from backend.jobs.compare_rule import RULE, choose
from backend.jobs.sweep import sweep
from backend.jobs.tune import tune
from backend.storage.files import write_json
from backend.types import Outcome, Point, Run

if TYPE_CHECKING:
    from backend.jobs.actions import Context


def compare(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Do it; the result names the settings with their origin and the checkpoints. Scores are in the points."""
    started = time.monotonic()
    arms, seeds, grid = spec["arms"], spec["seeds"], spec["grid"]
    parts = len(spec["trials"]) + len(seeds) * (len(arms) + bool(grid))
    known = Known(context, reuse=spec.get("reuse", False))
    done = 0

    def part(name: str, first: int, count: int, extra: Mapping[str, Any]) -> _Part:
        nonlocal done
        done += 1
        return _Part(context, name, (first, count), ((done - 1) / parts, done / parts), extra)

    trials = []
    for number, trial in enumerate(spec["trials"]):
        trials.append(_try(part(f"trial-{number}", -1, 0, {}), spec, trial, known))
    chosen = choose(trials)
    folders = {}
    for place, seed in enumerate(seeds):
        base = place * (len(arms) + len(grid))
        for number, arm in enumerate(arms):
            parameters, origin = settled(arm, chosen)
            name = f"{arm['name']}-s{seed}"
            facts = {"strategy": arm["strategy"], "parameters": parameters, "origin": origin}
            step = part(name, base + number, 1, facts | {"arm": arm["name"], "seed": seed})
            folder = _train(step, spec, arm, parameters, seed, known)
            if folder is not None:
                folders[name] = folder.name
        if grid:
            step = part(f"merges-s{seed}", base + len(arms), len(grid), {"seed": seed, "arm": "merge"})
            _measure_merges(step, spec, seed, folders.get(f"sft-s{seed}", ""), known)
    return {
        "run": context.run,
        "seconds": round(time.monotonic() - started, 2),
        "checkpoints": folders,
        "taken_from": _taken_from(context, trials),
        "settings": {
            arm["name"]: dict(zip(("parameters", "origin"), settled(arm, chosen), strict=True)) for arm in arms
        },
        "chosen": chosen,
        "rule": RULE if trials else "",
        "trials": [{key: value for key, value in trial.items() if key != "taken_from"} for trial in trials],
    }


def settled(arm: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters an arm is trained with, and where those that are not defaults come from."""
    tuned = chosen.get(arm["strategy"], {})
    origin = dict.fromkeys(tuned, "chosen on validation") | dict.fromkeys(arm["given"], "given by hand")
    origin |= dict.fromkeys(arm["change"], "ablation")
    if arm["strategy"] in chosen and not tuned:
        origin.setdefault(TUNED[arm["strategy"]][0], "default, none of the tried values qualified")
    return {**arm["parameters"], **tuned, **arm["change"]}, origin


def _training(
    spec: Mapping[str, Any], arm: Mapping[str, Any], parameters: Mapping[str, Any], seed: int, out: Path
) -> dict[str, Any]:
    shared = {key: spec[key] for key in ("model", "task_data", "references", "task", "preset", "suites", "training")}
    own = {"strategy": arm["strategy"], "parameters": dict(parameters), "seed": seed, "prompt_seed": spec["seed"]}
    return shared | own | {"probe_every": 0, "out": str(out)}


def _path(spec: Mapping[str, Any], tuned: str) -> dict[str, Any]:
    shared = {key: spec[key] for key in ("task", "preset", "suites", "grid", "seed")}
    return shared | {"aligned": spec["model"], "tuned": tuned, "method": "linear", "parameters": {}}


def _taken_from(context: Context, trials: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Parts that were not done here -> the run that did them."""
    found = {f"trial-{number}": trial["taken_from"] for number, trial in enumerate(trials) if "taken_from" in trial}
    for point in context.stored_points():
        if "taken_from" in point.details:
            arm = point.details["arm"]
            found[f"{'merges' if arm == 'merge' else arm}-s{point.details['seed']}"] = point.details["taken_from"]
    return found


def _train(
    part: _Part, spec: Mapping[str, Any], arm: Mapping[str, Any], parameters: dict[str, Any], seed: int, known: Known
) -> Path | None:
    """One training and its point; the folder of its checkpoint, which a training taken over may have lost."""
    out = part.settings.models_root / f"compare-{part.run}-{arm['name']}-s{seed}"
    merged = arm["name"] == "sft" and bool(spec["grid"])
    weights = merged and not known.merges(parameters, seed, spec["grid"])  # without them nothing can be merged
    earlier = None if out.is_dir() else known.training(arm["strategy"], parameters, seed, weights=weights)
    if earlier is not None:
        part.take([earlier])
        return known.folder(earlier)
    if not part.stored_points() or not out.is_dir():  # the point comes before the folder's name
        tune(part, _training(spec, arm, parameters, seed, out))
    return out


def _measure_merges(part: _Part, spec: Mapping[str, Any], seed: int, tuned: str, known: Known) -> None:
    """The merges of one seed's plain fine-tune."""
    parameters = next(arm["parameters"] for arm in spec["arms"] if arm["name"] == "sft")
    earlier = known.merges(parameters, seed, spec["grid"])
    if len(part.stored_points()) == len(spec["grid"]):
        return
    if earlier:
        part.take(earlier)
    else:
        sweep(part, _path(spec, tuned))


def _try(part: _Part, spec: Mapping[str, Any], trial: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """One training measured on the validation suites only; its scores are kept, its weights are not."""
    kept = part.folder / "trial.json"
    if kept.is_file():
        before: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return before
    arm = next(one for one in spec["arms"] if one["name"] == trial["arm"])
    earlier = known.trial(arm, trial["change"], spec["seeds"][0])
    if earlier is not None:
        write_json(kept, earlier)
        return earlier
    out = part.folder / "weights"
    request = _training(spec, arm, {**arm["parameters"], **trial["change"]}, spec["seeds"][0], out)
    result = tune(part, request | {"task": "", "suites": trial_suites(part.settings, spec)})
    shutil.rmtree(out, ignore_errors=True)
    scores = {axis: score["value"] for axis, score in result["scores"].items()}
    found = {**trial, "seed": spec["seeds"][0], "scores": scores, "n": {a: s["n"] for a, s in result["scores"].items()}}
    write_json(kept, found)
    return found


class _Part:
    """One training or path as a context of its own: a folder, a share of the progress, a range of point numbers."""

    def __init__(
        self,
        context: Context,
        name: str,
        points: tuple[int, int],
        share: tuple[float, float],
        extra: Mapping[str, Any],
    ) -> None:
        self.run, self.settings, self.recipe = context.run, context.settings, context.recipe
        self.folder = context.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._context, self._name, self._extra = context, name, extra
        self._first, self._count = points
        self._from, self._to = share
        self._started = time.monotonic()

    def report(self, fraction: float, phrase: str) -> None:
        self._context.report(self._from + (self._to - self._from) * fraction, f"{self._name}, {phrase}")

    def should_stop(self) -> bool:
        return self._context.should_stop()

    def request(self) -> str:
        return ""

    def stored_points(self) -> list[Point]:
        mine = range(self._first, self._first + self._count)
        return [
            replace(point, index=point.index - self._first)
            for point in self._context.stored_points()
            if point.index in mine
        ]

    def known_point(self, recipe: str) -> tuple[Point, list[Outcome]] | None:
        return self._context.known_point(recipe)

    def others(self, kind: str) -> list[Run]:
        return self._context.others(kind)

    def points_of(self, run: Run) -> list[Point]:
        return self._context.points_of(run)

    def outcomes_of(self, point: Point) -> list[Outcome]:
        return self._context.outcomes_of(point)

    def take(self, points: Sequence[Point]) -> None:
        """Add points of another comparison as points of this one, where they are not here yet."""
        here = {point.index for point in self.stored_points()}
        for index, point in enumerate(points):
            if index not in here:
                details = {**point.details, **self._extra, "taken_from": point.run}
                mine = replace(point, id=0, run=self.run, index=self._first + index, details=details)
                self._context.add_point(mine, self.outcomes_of(point))

    def add_point(self, point: Point, answered: Sequence[Outcome]) -> None:
        if not self._count:
            return
        seconds: dict[str, float] = {"wall_seconds": round(time.monotonic() - self._started, 2)}
        told = telemetry.read(self.folder)["steps"]
        if told:
            seconds["training_seconds"] = told[-1]["seconds"]
        self._context.add_point(
            replace(
                point,
                index=self._first + point.index,
                method=point.method if self._extra["arm"] == "merge" else self._extra["arm"],
                anchor=point.anchor if point.anchor == "aligned" else "",  # the plain fine-tune is a point of its own
                coefficients={**point.coefficients, "seed": self._extra["seed"]},
                details={**point.details, **seconds, **self._extra},
            ),
            answered,
        )
        self._started = time.monotonic()  # of the next λ
