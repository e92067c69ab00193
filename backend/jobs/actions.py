"""What a run does: sweep, evaluate, merge. The only place that knows merging, inference and evaluation.

An action gets a checked spec and a `Context`: it reports progress, is told to stop, and hands over finished points.
Points that an earlier, interrupted attempt stored are not computed again.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from backend.checkpoints.resolve import resolve
from backend.evaluation.outcomes import warnings
from backend.evaluation.presets import preset as find_preset
from backend.evaluation.runner import Measured, Runner
from backend.inference.decode import Answer, Statistics
from backend.inference.model import Responder, load, pick_device
from backend.jobs.planning import chosen_suites
from backend.jobs.sources import Sources, open_spec
from backend.merging.engine import merge_to_folder, open_models
from backend.merging.resident import ResidentPair
from backend.registry import Plugin, methods
from backend.settings import Settings
from backend.types import Checkpoint, Outcome, Point

BATCH = 32


class Context(Protocol):
    """What an action may ask of the job it runs in."""

    run: int
    settings: Settings
    folder: Path

    def report(self, fraction: float, phrase: str) -> None:
        """Say how far the work is (0–1); raises `Cancelled` when somebody asked to stop."""

    def should_stop(self) -> bool: ...
    def stored_points(self) -> list[Point]: ...
    def add_point(self, point: Point, answered: Sequence[Outcome]) -> None: ...


def sweep(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure θ(λ) for every λ of the grid, the weights written in place, answers re-used as drafts."""
    started = time.monotonic()
    context.report(0.0, "loading the pair")
    given = open_spec(context.settings, spec)
    responder, pair = load_sources(given, context.settings, seed=spec["seed"])
    method = methods.get(spec["method"])
    knob = method.facts["knob"]
    name, sign = ("lambda", "λ") if knob == "lam" else (knob, knob)
    runner = Runner(chosen_suites(context.settings, spec), responder)
    done = {point.index for point in context.stored_points()}
    saved = Statistics()
    for index, value in enumerate(spec["grid"]):
        if index in done:
            continue
        clock = time.monotonic()
        effective = pair.write_into(responder.parameters(), method, {**spec["parameters"], knob: value})
        measured = _measure(context, responder, runner, spec, saved, (index, len(spec["grid"])), f"{sign} = {value:g}")
        point = Point(
            id=0,
            run=context.run,
            index=index,
            method=method.name,
            coefficients={name: value},
            scores=measured.scores,
            outcomes=measured.counts,
            effective=effective,
            anchor=_anchor(method, len(given.tuned), value),
            details=_details(measured, runner, responder, time.monotonic() - clock),
        )
        context.add_point(point, measured.outcomes)
    return _result(len(spec["grid"]), started, saved)


def evaluate(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one checkpoint."""
    started = time.monotonic()
    context.report(0.0, "loading the checkpoint")
    checkpoint = resolve(spec["checkpoint"], context.settings, field="checkpoint")
    if spec["aligned"]:
        aligned = resolve(spec["aligned"], context.settings, field="aligned")
        responder, pair = load_pair(aligned, checkpoint, context.settings)
        pair.write_into(responder.parameters(), methods.get("linear"), {"lam": 1.0})
    else:
        responder = load(checkpoint, device=pick_device(context.settings.device))
    runner = Runner(chosen_suites(context.settings, spec), responder)
    saved = Statistics()
    measured = _measure(context, responder, runner, spec, saved, (0, 1), checkpoint.name)
    details = _details(measured, runner, responder, time.monotonic() - started) | {"checkpoint": checkpoint.name}
    if not context.stored_points():
        point = Point(0, context.run, 0, checkpoint.name, {}, measured.scores, measured.counts, details=details)
        context.add_point(point, measured.outcomes)
    return _result(1, started, saved)


def merge(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write θ(λ) to a Hugging Face folder, whole or not at all."""
    started = time.monotonic()
    given = open_spec(context.settings, spec)
    out = Path(spec["out"]) if spec["out"] else context.settings.models_root / f"merge-{context.run}"
    recipe = merge_to_folder(
        given.aligned,
        given.tuned,
        methods.get(spec["method"]),
        spec["parameters"],
        out,
        extras=given.extras,
        seed=spec["seed"],
        report=context.report,
        should_stop=context.should_stop,
    )
    return {"folder": str(out), "recipe": recipe, "seconds": round(time.monotonic() - started, 2)}


ACTIONS: dict[str, Callable[[Context, Mapping[str, Any]], dict[str, Any]]] = {
    "sweep": sweep,
    "merge": merge,
    "evaluate": evaluate,
}


def load_pair(aligned: Checkpoint, tuned: Checkpoint, settings: Settings) -> tuple[Responder, ResidentPair]:
    """The aligned model ready to answer, and both weights resident beside it."""
    return load_sources(Sources(aligned, (tuned,)), settings)


def load_sources(given: Sources, settings: Settings, *, seed: int = 0) -> tuple[Responder, ResidentPair]:
    """The aligned model ready to answer, and the weights of every checkpoint resident beside it."""
    responder = load(given.aligned, device=pick_device(settings.device))
    models = open_models(given.aligned, given.tuned, given.extras)
    pair = ResidentPair(models.aligned, models.tuned, str(responder.device), extras=models.extras, seed=seed)
    return responder, pair


def _anchor(method: Plugin, tuned: int, value: float) -> str:
    """Which end of the path a value of the method's knob is, if it is one."""
    if value == 0 and method.facts["knob"] == "lam":
        return "aligned"
    return "fine-tuned" if value == 1 and tuned == 1 and method.facts["reaches_tuned"] else ""


def _measure(
    context: Context,
    responder: Responder,
    runner: Runner,
    spec: Mapping[str, Any],
    saved: Statistics,
    place: tuple[int, int],
    phrase: str,
) -> Measured:
    """Run the suites on the weights as they are now, reporting as point `place[0]` of `place[1]`."""
    index, points = place
    decoding = responder.decoding(find_preset(spec["preset"]).new_tokens, BATCH)

    def check(finished: int) -> None:
        share = min(1.0, finished / max(1, runner.prompts))
        context.report((index + share) / points, f"{phrase}: {finished} of {runner.prompts} answers")

    def answer(
        prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]], check: Callable[[int], None]
    ) -> list[Answer]:
        return responder.answer(prompts, decoding, drafts=drafts, check=check, statistics=saved)

    return runner.measure(answer, check)


def _details(measured: Measured, runner: Runner, responder: Responder, seconds: float) -> dict[str, Any]:
    """How a point was made: what is not in the recipe because it should not change the result."""
    return {
        "seconds": round(seconds, 3),
        "judges": runner.judges,
        "device": str(responder.device),
        "dtype": str(responder.model.dtype).removeprefix("torch."),
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()},
        "warnings": warnings(measured.counts),
    }


def _result(points: int, started: float, saved: Statistics) -> dict[str, Any]:
    return {
        "points": points,
        "seconds": round(time.monotonic() - started, 2),
        "tokens_reused": saved.reused,
        "tokens_generated": saved.generated,
    }
