"""Scores of weights in memory: of one checkpoint, or of θ for every value of a knob. Knows merging and evaluation."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from backend.checkpoints.resolve import resolve
from backend.checkpoints.tokenizer import TOKENIZER
from backend.evaluation.outcomes import warnings
from backend.evaluation.presets import preset as find_preset
from backend.evaluation.runner import Measured, Runner
from backend.inference.activations import gram_matrices
from backend.inference.decode import Answer, Statistics
from backend.inference.model import Responder, load, pick_device
from backend.jobs.calibration import read_chats
from backend.jobs.grids import settings_of
from backend.jobs.named_suites import chosen_suites
from backend.jobs.sources import Sources, open_spec
from backend.merging.engine import open_models
from backend.merging.ops import Effect
from backend.merging.resident import ResidentPair
from backend.registry import Plugin, methods
from backend.settings import Settings
from backend.types import Checkpoint, Point

if TYPE_CHECKING:
    from backend.jobs.actions import Context, Reporter

BATCH = 32


def sweep(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure θ(λ) for every λ of the grid, the weights written in place, answers re-used as drafts."""
    started = time.monotonic()
    context.report(0.0, "loading the pair")
    given = open_spec(context.settings, spec)
    grams = measured_inputs(context, spec, given.aligned)
    responder, pair = load_sources(given, context.settings, grams=grams, seed=spec["seed"])
    method = methods.get(spec["method"])
    knob = method.facts["knob"]
    turned = settings_of(spec["grid"], knob)
    runner = Runner(chosen_suites(context.settings, spec), responder)
    done = {point.index for point in context.stored_points()}
    saved = Statistics()
    for index, setting in enumerate(turned):
        if index in done:
            continue
        clock = time.monotonic()
        effect = Effect()
        effective = pair.write_into(responder.parameters(), method, {**spec["parameters"], **setting}, effect=effect)
        coefficients = {"lambda" if name == "lam" else name: value for name, value in setting.items()}
        phrase = ", ".join(f"{'λ' if name == 'lam' else name} = {value:g}" for name, value in setting.items())
        measured = measure(context, responder, runner, spec, saved, (index, len(turned)), phrase)
        point = Point(
            id=0,
            run=context.run,
            index=index,
            method=method.name,
            coefficients=coefficients,
            scores=measured.scores,
            outcomes=measured.counts,
            effective=effective,
            anchor=anchor_of(method, len(given.tuned), setting),
            details=details_of(measured, runner, responder, time.monotonic() - clock) | effect.lines_json(),
        )
        context.add_point(point, measured.outcomes)
    return _result(len(turned), started, saved)


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
    measured = measure(context, responder, runner, spec, saved, (0, 1), checkpoint.name)
    details = details_of(measured, runner, responder, time.monotonic() - started) | {"checkpoint": checkpoint.name}
    if not context.stored_points():
        point = Point(0, context.run, 0, checkpoint.name, {}, measured.scores, measured.counts, details=details)
        context.add_point(point, measured.outcomes)
    return _result(1, started, saved)


def load_pair(aligned: Checkpoint, tuned: Checkpoint, settings: Settings) -> tuple[Responder, ResidentPair]:
    """The aligned model ready to answer, and both weights resident beside it."""
    return load_sources(Sources(aligned, (tuned,)), settings)


def load_sources(
    given: Sources, settings: Settings, *, grams: Mapping[str, torch.Tensor] | None = None, seed: int = 0
) -> tuple[Responder, ResidentPair]:
    """The donor's model ready to answer, by default the aligned one, and the weights of every checkpoint beside it."""
    models = open_models(given.aligned, given.tuned, given.extras, grams=grams, donor=given.donor)
    donors = [given.aligned] if given.donor == "aligned" else [*given.tuned[:1], given.aligned]
    words = next((one.folder for one in donors if (one.folder / TOKENIZER).is_file()), None)
    base = next(one for one in donors if one.kind == "full")
    responder = load(base, device=pick_device(settings.device), untied=models.untied, words=words)
    return responder, ResidentPair.of(models, str(responder.device), seed=seed)


def measured_inputs(context: Context, spec: Mapping[str, Any], aligned: Checkpoint) -> dict[str, torch.Tensor]:
    """Gram matrices of the aligned model's layers on the calibration chats, where the spec names some."""
    if not spec.get("calibration"):
        return {}
    responder = load(aligned, device=pick_device(context.settings.device))
    chats = [responder.encode_chat(chat) for chat in read_chats(context.settings, spec["calibration"])]
    return gram_matrices(
        responder.model,
        chats,
        lambda done: context.report(0.0, f"measuring the aligned model: {done} of {len(chats)} chats"),
    )


def anchor_of(method: Plugin, tuned: int, setting: Mapping[str, float]) -> str:
    """Which end of the path a value of the method's knob is, if it is one."""
    value = setting.get(method.facts["knob"])
    if value == 0 and method.facts["knob"] == "lam":
        return "aligned"
    return "fine-tuned" if value == 1 and tuned == 1 and method.facts["reaches_tuned"] else ""


def measure(
    context: Reporter,
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


def details_of(measured: Measured, runner: Runner, responder: Responder, seconds: float) -> dict[str, Any]:
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
