"""The scripted fine-tuning of the fake studio: catalogue, checks, and telemetry in the shape of the real one."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import UserError, unknown_name
from backend.jobs import chat_files
from backend.jobs.datafile import DataFile
from backend.types import DataPreview, Estimate, Plan, Run, RunStatus

NASTY = "<b>bold</b> <img src=x onerror=alert(1)> ${1+1} {{value}} ![x](http://example.com/x.png)"
STEPS, WARMUP, REFRESH, POOL = 40, 4, 10, 6


def _number(name: str, default: float, low: float, high: float, help_: str, **more: Any) -> dict[str, Any]:
    kind = "int" if isinstance(default, int) else "float"
    return {"name": name, "kind": kind, "default": default, "low": low, "high": high, "help": help_, **more}


KEEP = _number("keep_tokens", 0.9, 0.5, 1.0, "How much of the answer text is still learnt from.", unit="share")
RHO = _number("rho", 0.2, 0.0, 2.0, "How hard each step is pulled toward the references.", every_preset=True)
PRESET = {
    "name": "preset", "kind": "choice", "default": "studio", "choices": ["studio", "released"],
    "help": "Where the settings come from: ours, or the paper's released code.",
}  # fmt: skip
CORRECTION = {
    "name": "correction", "kind": "choice", "default": "safegrad", "choices": ["add", "agem", "safegrad"],
    "help": "What happens when task and safety disagree.",
}  # fmt: skip
DUAL = [
    PRESET,
    KEEP,
    RHO,
    CORRECTION,
    {"name": "norm_match", "kind": "bool", "default": True, "help": "The pull is never longer than the task step."},
    _number("nu", 1.0, 0.0, 2.0, "How much disagreement of directions counts."),
    _number("mu_task", 0.5, 0.0, 2.0, "How much the task loss counts when samples are dropped."),
    _number("warmup", WARMUP, 0, 50, "Plain steps before protection starts.", unit="steps"),
    _number("refresh_every", REFRESH, 5, 500, "How often the references are chosen again.", unit="steps"),
]
STRATEGIES = [
    {
        "name": "dualselect", "summary": "Choose references and task samples together.", "paper": "arXiv:2606.09866",
        "parameters": DUAL, "needs": "references",
    },
    {"name": "sft", "summary": "Learn from every row.", "paper": "", "parameters": [], "needs": ""},
    {
        "name": "random_reference", "summary": "Draw the references at random.", "paper": "arXiv:2606.09866",
        "parameters": DUAL[1:], "needs": "references",
    },
]  # fmt: skip
TRAINING = [
    _number("steps", STEPS, 1, 100_000, "How many optimiser steps.", unit="steps"),
    _number("batch", 16, 1, 256, "Rows of one optimiser step.", unit="rows"),
    _number("lr", 2e-5, 1e-7, 0.1, "Size of a step (learning rate)."),
    {"name": "full", "kind": "bool", "default": False, "help": "Train every weight instead of a LoRA adapter."},
    {
        "name": "dtype",
        "kind": "choice",
        "default": "auto",
        "choices": ["auto", "float32", "bfloat16"],
        "help": "Format.",
    },
]
DATA = [
    {"name": "demo/tool-mixed", "role": "task", "rows": 600, "summary": "Tool calls with some unsafe rows mixed in."},
    {"name": "demo/tool-clean", "role": "task", "rows": 500, "summary": "Tool calls alone."},
    {"name": "demo/references", "role": "references", "rows": 300, "summary": "Refusals and helpful look-alikes."},
]


class FakeTuning:
    """Mixed into `FakeStudio`: a run takes `training.steps` steps, eight of them every `step_seconds`."""

    rows: dict[int, Run]
    lock: threading.RLock
    check_suites: Callable[[Mapping[str, Any]], None]

    def tuning_catalogue(self) -> dict[str, Any]:
        return {"strategies": STRATEGIES, "training": TRAINING, "data": DATA}

    def preview_data(self, data: str, *, field: str = "task_data") -> DataPreview:
        if not Path(data).is_file():
            raise unknown_name(field, data, [one["name"] for one in DATA])
        return chat_files.preview(DataFile(data, Path(data)), field=field)

    def plan_tune(self, spec: Mapping[str, Any]) -> Plan:
        base = {"model": "demo/aligned", "task_data": "demo/tool-mixed", "references": "demo/references"}
        base |= {"strategy": "dualselect", "parameters": {}, "training": {}, "task": "tool", "probe_every": 10}
        full = {**base, "seed": 0, "out": "", **spec}
        if not str(full["model"]).startswith("demo/"):
            raise UserError("model", problem=f"no folder {full['model']!r}", remedy="Pick one of the list.")
        for field in ("task_data", "references"):
            if full[field] not in [one["name"] for one in DATA]:
                self.preview_data(str(full[field]), field=field)
        if full["strategy"] not in [one["name"] for one in STRATEGIES]:
            raise unknown_name("strategy", full["strategy"], [one["name"] for one in STRATEGIES])
        if not 0 <= full["parameters"].get("rho", 0) <= 1.9:
            raise UserError("rho", got=full["parameters"]["rho"], allowed="a number from 0 to 1.9")
        if full["training"].get("lr", 1) <= 0:
            raise UserError(
                "lr", got=full["training"]["lr"], allowed="a number above 0", remedy="The default is 2e-05."
            )
        self.check_suites(full)
        declared = next(one["parameters"] for one in STRATEGIES if one["name"] == full["strategy"])
        full["parameters"] = {one["name"]: one["default"] for one in declared} | dict(full["parameters"])
        full["training"] = {one["name"]: one["default"] for one in TRAINING} | dict(full["training"])
        recipe = {"kind": "tune", **full}
        same = [r.id for r in self.rows.values() if r.recipe_hash == repr(recipe) and r.status == RunStatus.DONE]
        return Plan("tune", full, recipe, repr(recipe), Estimate(12.0, 300 << 20, 1 << 20), (), (same or [None])[0])

    def pause(self, run: int) -> Run:
        with self.lock:
            return self._halt(run, RunStatus.PAUSED)

    def stop_and_keep(self, run: int) -> Run:
        with self.lock:
            return self._finish(self.run(run))

    def _halt(self, run: int, status: RunStatus) -> Run:
        self.rows[run] = replace(self.run(run), status=status, phrase="", seconds_left=None)
        return self.rows[run]

    def _tune_now(self, row: Run) -> Run:
        """The run as the clock has it."""
        total = int(row.spec["training"]["steps"])
        passed = 8 * (self.clock() - self.begun[row.id]) / self.step_seconds if self.step_seconds else total + 1
        done = min(total, max(0, int(passed)))
        if done >= total:
            return self._finish(replace(row, fraction=1.0))
        left = (total - passed) * self.step_seconds / 8
        return replace(
            row, status=RunStatus.RUNNING, fraction=done / total, started=row.created, seconds_left=left,
            phrase=f"step {done} of {total}",
        )  # fmt: skip

    def _finish(self, row: Run) -> Run:
        steps = round(row.fraction * int(row.spec["training"]["steps"]))
        folder = f"/home/somebody/.dualselect/runs/{row.id}/checkpoint"
        result = {"folder": folder, "checkpoint": f"runs/{row.id}/checkpoint", "steps": steps, "seconds": 0.5 * steps}
        result |= {"scores": _probe(steps)["scores"], "data": {"rows": 600, "skipped": {"empty answer": 2}}}
        done = replace(row, status=RunStatus.DONE, phrase="", seconds_left=None, finished=time.time(), result=result)
        self.rows[row.id] = done
        return done

    def telemetry(self, run: int, after: int = 0) -> dict[str, Any]:
        row = self.run(run)
        done = round(row.fraction * int(row.spec["training"]["steps"]))
        dual = row.spec["strategy"] != "sft"
        every = int(row.spec["probe_every"])
        probes = [_probe(step) for step in range(0, done + 1, every)] if row.spec["task"] and every and done else []
        refreshes = [_refresh(step) for step in range(WARMUP, done + 1, REFRESH)] if dual else []
        return {
            "steps": [_step(step, dual) for step in range(after + 1, done + 1)],
            "refreshes": refreshes,
            "references": _references(len(refreshes)) if refreshes else [],
            "dropped": [_dropped(step) for step in range(done, WARMUP, -1)][:200] if dual else [],
            "counts": {"unsafe": [done // 2, done], "benign": [done // 8, 10 * done]} if dual and done else {},
            "probes": probes,
        }


def _step(step: int, dual: bool) -> dict[str, Any]:
    row = {
        "step": step, "loss_task": 2.2 * math.exp(-step / 12) + 0.4 + 0.05 * math.sin(3 * step), "lr": 2e-5,
        "grad_norm": 1.1, "tokens_seen": 480 * step, "seconds": 0.5 * step,
    }  # fmt: skip
    if dual and step > WARMUP:
        row |= {"loss_ref": 0.9 + 0.2 * math.cos(step / 6), "cos_task_ref": 0.4 * math.cos(step / 5)}
        row |= {"kept_tokens": 0.9 + 0.05 * math.sin(step), "ref_entropy": 0.8, "projected": 0.1}
        row["kept_tokens_total"] = 0.9
    return row


def _refresh(step: int) -> dict[str, Any]:
    first = {"step": step, "cause": "turned" if step == WARMUP + 2 * REFRESH else "interval", "seconds": 0.4}
    return first if step == WARMUP else {**first, "jaccard": 0.5, "jaccard_chance": 0.25}


def _references(chosen: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"reference-{number}", "text": f"How do I pick lock {number}?", "r": 1.5 - 0.1 * i, "score": 2.0 - i,
            "answer": "I cannot help with that." if number % 2 else f"Happy to help: {NASTY}", "cos": -0.3 + 0.1 * i,
            "weight": 1 / POOL, "kind": "refusal" if number % 2 else "benign", "new": chosen > 1 and i >= POOL // 2,
        }
        for i, number in enumerate(range(3 * chosen, 3 * chosen + POOL))
    ]  # fmt: skip


def _dropped(step: int) -> dict[str, Any]:
    unsafe = step % 3 > 0
    text = f"Explain how to forge ticket {step}." if unsafe else f"Call the tool {step}. {NASTY}"
    kind, reason = ("unsafe", "conflict") if unsafe else ("benign", "budget")
    scores = {"loss": 1.0 + 0.01 * step, "cos": -0.4 if unsafe else 0.1, "score": 0.5 + 0.02 * (step % 7)}
    return {"step": step, "id": f"tool-{step:04}", "text": text, **scores, "reason": reason, "kind": kind}


def _probe(step: int) -> dict[str, Any]:
    safe, task = 0.95 - 0.004 * step, 0.3 + 0.012 * step
    shares = {"safety": safe, "over_refusal": 0.08, "task": task}
    scores = {axis: {"value": v, "low": v - 0.08, "high": min(1.0, v + 0.05), "n": 60} for axis, v in shares.items()}
    return {"step": step, "scores": scores}
