"""A fine-tuning run: data in, a strategy's training with telemetry and checkpoints, a measured folder out.

What it leaves in the run's folder: data_report.json, the telemetry, the start model's answers to references without
one, and while it trains training.pt, from which a run that was paused, interrupted or killed goes on to the same
weights as one that was not.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backend.checkpoints.card import public_name, tuned_card
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.evaluation.outcomes import warnings
from backend.evaluation.presets import preset as find_preset
from backend.evaluation.runner import Measured, Runner
from backend.evaluation.suites import Suite
from backend.inference.model import Responder, load, pick_device
from backend.jobs import telemetry
from backend.jobs.datafile import DataFile
from backend.jobs.datasets import find_data
from backend.jobs.evaluated import held_out, measured_on
from backend.jobs.planning import TUNING
from backend.jobs.sources import fingerprint, pinned
from backend.jobs.telemetry import Recorder
from backend.jobs.trainable import trainable
from backend.registry import Plugin, strategies
from backend.settings import Settings
from backend.storage.files import write_json, write_text
from backend.tuning.loop import Order, Progress, TrainingSettings, train
from backend.tuning.prepare import Prepared, prepare
from backend.tuning.resume import Saver
from backend.tuning.rows import read_chat_file
from backend.types import Checkpoint, Point

if TYPE_CHECKING:
    from backend.jobs.actions import Context

BATCH = 32
REFERENCE_TOKENS = 64  # of the start model's answer to a reference that has none
TRAINED = 0.9  # of the run; the rest is measuring


def tune(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Do it; see `Studio.plan` for the spec. The result names the folder, the checkpoint, its scores and its data."""
    started = time.monotonic()
    context.report(0.0, "loading the model")
    settings, strategy = context.settings, strategies.get(spec["strategy"])
    model = resolve(spec["model"], settings, field="model")
    responder = load(model, device=pick_device(settings.device))
    files = [find_data(settings, spec[one], one) for one in ("task_data", "references") if spec[one]]
    suites, probed = measured_on(settings, spec)
    data = _prepare(context, responder, files, spec, held_out(settings, spec))
    for part, file in zip(("task", "references"), files, strict=False):
        data.report[part] |= file.to_json()
    write_json(context.folder / "data_report.json", data.report)
    trained, losses, settled = _train(context, spec, strategy, responder, data, probed)

    out = Path(spec["out"]) if spec["out"] else settings.models_root / f"tune-{context.run}"
    temporary = out.with_name(out.name + ".tmp")
    recipe = _recipe(spec, strategy, model, files, data, len(losses)) | ({"settled": settled} if settled else {})
    _save(trained, responder.tokenizer, temporary, pinned(model))
    context.report(TRAINED, "measuring")
    point, result = _measure(context, spec, trained, responder, suites, _checkpoint_name(out, settings), model)
    scores = {axis: score.to_json() for axis, score in point.scores.items()}
    write_json(temporary / TUNING, recipe | {"scores": scores})
    card = tuned_card(out.name, recipe, model, adapter=not spec["training"]["full"], scores=scores)
    (temporary / "README.md").write_text(card, encoding="utf-8")
    if not context.stored_points():
        context.add_point(point, result.outcomes)
    _move(temporary, out)
    Saver(context.folder / "training.pt").remove()
    return {
        "run": context.run,
        "folder": str(out),
        "checkpoint": _checkpoint_name(out, settings),
        "steps": len(losses),
        "seconds": round(time.monotonic() - started, 2),
        "scores": scores,
        "data": data.report,
    }


# ------------------------------------------------------------------------------------------------ data


def _prepare(
    context: Context, responder: Responder, files: Sequence[DataFile], spec: Mapping[str, Any], evaluated: set[str]
) -> Prepared:
    """Encoded rows whose prompts are in no suite."""
    task = read_chat_file(files[0].path, field="task_data")
    references = read_chat_file(files[1].path, field="references", prompts=True) if len(files) > 1 else ([], [])
    plan = spec["training"]
    return prepare(
        responder.tokenizer,
        task,
        references,
        evaluated=evaluated,
        max_len=plan["max_len"],
        batch=plan["batch"],
        answer=partial(_start_answers, context, responder),
    )


def _start_answers(context: Context, responder: Responder, prompts: list[list[int]]) -> list[list[int]]:
    """What the start model says, kept in the run's folder: a run that goes on after a kill learns the same answers."""
    path = context.folder / "start_answers.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    known = {tuple(prompt): answer for prompt, answer in stored}
    missing = [prompt for prompt in prompts if tuple(prompt) not in known]
    if missing:

        def check(finished: int) -> None:
            context.report(0.0, f"answering references: {finished} of {len(missing)}")

        found = responder.answer(missing, responder.decoding(REFERENCE_TOKENS, BATCH), check=check)
        known |= {tuple(prompt): list(answer.tokens) for prompt, answer in zip(missing, found, strict=True)}
        write_text(path, json.dumps([[list(prompt), answer] for prompt, answer in known.items()]))
    return [known[tuple(prompt)] for prompt in prompts]


# ------------------------------------------------------------------------------------------------ training


def _train(
    context: Context,
    spec: Mapping[str, Any],
    strategy: Plugin,
    responder: Responder,
    data: Prepared,
    probed: Sequence[Suite],
) -> tuple[Any, list[float], dict[str, Any]]:
    """The trained model, still with its adapter, the loss of every step, and what the strategy settled by itself."""
    plan = spec["training"]
    model, autocast = trainable(responder.model, plan, seed=spec["seed"])
    recorder = Recorder(context.folder, data.task_texts, data.reference_texts)
    saver = Saver(context.folder / "training.pt", least=context.settings.save_seconds)
    probe = _Probe(context, responder, model, probed, recorder)
    if spec["probe_every"] and not telemetry.read(context.folder)["probes"]:
        probe(0)

    def report(now: Progress) -> None:
        done, last = now.step + 1, now.step + 1 == plan["steps"]
        loss = "loss_task" if now.phase == "task" else "loss_ref"
        row = {"step": done, loss: now.loss, "lr": now.lr, "grad_norm": now.grad_norm, "tokens_seen": now.tokens}
        events = [{**event, "step": event["step"] + 1} for event in now.events]
        recorder.step({key: round(value, 8) for key, value in (row | now.metrics).items()}, events, last=last)
        if spec["probe_every"] and (done % spec["probe_every"] == 0 or last):
            probe(done)
        context.report(TRAINED * done / plan["steps"], f"training: step {done} of {plan['steps']}, loss {now.loss:.3f}")

    def control() -> Order:
        asked = context.request()
        return "keep" if asked == "keep" else "pause" if asked == "pause" else ""

    hooks = strategy.function(**spec["parameters"])
    losses = train(
        model,
        data.task,
        TrainingSettings(
            **{name: plan[name] for name in ("steps", "batch", "lr", "warmup", "clip", "accumulate", "pool")},
            loss_norm=plan.get("loss_norm", "sample"),
            seed=spec["seed"],
            autocast=autocast,
        ),
        pad=responder.pad,
        report=report,
        strategy=hooks,
        references=data.references,
        saver=saver,
        control=control,
    )
    return model, losses, hooks.settled()


class _Probe:
    """Measures a few validation prompts while the training waits."""

    def __init__(
        self, context: Context, responder: Responder, model: Any, suites: Sequence[Suite], recorder: Recorder
    ) -> None:
        self._context, self._recorder, self._suites = context, recorder, suites
        self._responder = Responder(model, responder.tokenizer)
        self._runner = Runner(suites, self._responder)

    def __call__(self, step: int) -> None:
        if not self._suites:
            return
        model = self._responder.model
        training = model.training
        model.eval()
        measured = _answers(self._context, self._responder, self._runner, 0.0, "")
        model.train(training)
        self._recorder.probe(step, {axis: score.to_json() for axis, score in measured.scores.items()})


# ------------------------------------------------------------------------------------------------ measuring


def _answers(
    context: Context, responder: Responder, runner: Runner, fraction: float, phrase: str, preset: str = "quick"
) -> Measured:
    decoding = responder.decoding(find_preset(preset).new_tokens, BATCH)

    def check(finished: int) -> None:
        if phrase:
            share = min(1.0, finished / max(1, runner.prompts))
            context.report(fraction + (1 - fraction) * share, f"{phrase}: {finished} of {runner.prompts} answers")

    return runner.measure(
        lambda prompts, drafts, check: responder.answer(prompts, decoding, drafts=drafts, check=check), check
    )


def _measure(
    context: Context,
    spec: Mapping[str, Any],
    trained: Any,
    responder: Responder,
    suites: Sequence[Suite],
    name: str,
    model: Checkpoint,
) -> tuple[Point, Measured]:
    """The point of the new checkpoint, on the weights as anybody will load them."""
    started = time.monotonic()
    whole = trained.merge_and_unload() if hasattr(trained, "merge_and_unload") else trained
    whole.config.use_cache = True
    answering = Responder(whole.eval(), responder.tokenizer)
    runner = Runner(suites, answering)
    measured = _answers(context, answering, runner, TRAINED, "measuring", spec["preset"])
    details = {
        "seconds": round(time.monotonic() - started, 3),
        "judges": runner.judges,
        "device": str(answering.device),
        "dtype": str(whole.dtype).removeprefix("torch."),
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "warnings": warnings(measured.counts),
        "checkpoint": name,
        "model": public_name(model),
    }
    point = Point(0, context.run, 0, spec["strategy"], {}, measured.scores, measured.counts, details=details)
    return point, measured


# ------------------------------------------------------------------------------------------------ the folder


def _save(trained: Any, tokenizer: Any, folder: Path, base: str) -> None:
    """The weights as PEFT or transformers write them, and the tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if hasattr(trained, "peft_config"):
        trained.peft_config["default"].base_model_name_or_path = base
        trained.save_pretrained(folder, save_embedding_layers=False)  # "auto" would look the base up on the Hub
    else:
        trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _move(temporary: Path, out: Path) -> None:
    """Give the complete folder its name; only the same result of an earlier attempt makes room.

    Raises:
        UserError: the folder was filled by something else since the run was planned.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not _is_same_result(temporary, out):
            problem = f"{out} was filled while the run trained"
            raise UserError("out", problem=problem, remedy="Move what is there away and restart the run.")
        shutil.rmtree(out)
    elif out.exists():
        out.rmdir()
    os.rename(temporary, out)


def _is_same_result(one: Path, other: Path) -> bool:
    told = [(folder / TUNING).read_bytes() if (folder / TUNING).is_file() else b"" for folder in (one, other)]
    return bool(told[0]) and told[0] == told[1]


def _checkpoint_name(out: Path, settings: Settings) -> str:
    return out.name if out.parent == settings.models_root else str(out)


def _recipe(
    spec: Mapping[str, Any],
    strategy: Plugin,
    model: Checkpoint,
    files: Sequence[DataFile],
    data: Prepared,
    steps: int,
) -> dict[str, Any]:
    parts = [data.report["task"], data.report["references"]]
    return {
        "model": fingerprint(model),
        "strategy": {"name": strategy.name, "paper": strategy.facts["paper"]},
        "parameters": spec["parameters"],
        "training": spec["training"],
        "seed": spec["seed"],
        "steps": steps,
        "data": [file.to_json() | {"kept": part["kept"]} for file, part in zip(files, parts, strict=False)],
        "report": data.report,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft")} | {"python": platform.python_version()}
