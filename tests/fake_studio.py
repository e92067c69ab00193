"""A scripted studio in memory: the same methods as `backend.api.Studio`, the same answers every time, no model.

Handler tests use it directly; browser tests serve it with `python -m tests.fake_studio PORT`. Runs advance with a clock
that is passed in, one point every `step_seconds`; a browser test may turn it by hand, see `ClockFile`.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import DeviceBusy, UserError, unknown_name
from backend.jobs.grids import settings_of
from backend.settings import from_environment
from backend.types import (
    Chunk,
    Column,
    Estimate,
    Finding,
    Frontier,
    Inspection,
    LayerChange,
    Outcome,
    Plan,
    Point,
    Run,
    RunStatus,
)
from tests.fake_answers import TASKS, N, answered, wilson
from tests.fake_tuning import NASTY, FakeTuning

SUITES = [
    {"name": prefix + axis, "axis": axis, "n": N, "judge": "rules", "plain": bool(prefix)}
    for prefix in ("", "plain_")
    for axis in ("safety", "over_refusal", "helpfulness", "task")
]
STEP_SECONDS = 0.4  # where a browser test sees it


class ClockFile:
    """The real time, or the time in a file while there is one: another process then decides how far runs get."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> float:
        with suppress(FileNotFoundError):
            return float(self.path.read_text())
        return time.monotonic()

    def set(self, seconds: float) -> None:
        fresh = self.path.with_suffix(".new")  # renamed, so that nobody reads half a number
        fresh.write_text(repr(seconds))
        fresh.replace(self.path)

    def hold(self) -> None:
        self.set(self())

    def turn(self, seconds: float) -> None:
        self.set(self() + seconds)

    def let_go(self) -> None:
        self.path.unlink(missing_ok=True)


def alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """One call at a time: the page's timer reads a run while a button changes it, each in a thread of its own."""

    @functools.wraps(method)
    def locked(self: Any, *given: Any, **named: Any) -> Any:
        with self.lock:
            return method(self, *given, **named)

    return locked


class FakeStudio(FakeTuning):
    def __init__(self, step_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.step_seconds, self.clock, self.lock = step_seconds, clock, threading.RLock()
        self.busy = ""
        self.written: dict[str, str] = {}  # checkpoints that came later: name -> role
        self.rows: dict[int, Run] = {}
        self.begun: dict[int, float] = {}
        for tuned, shift in (("tool-mixed-sft", 0.3), ("tool-clean-sft", 0.62), ("medical-mixed-sft", 0.4)):
            spec = self._spec({"tuned": f"demo/{tuned}", "task": tuned.split("-")[0], "preset": "standard"})
            run = self._insert("sweep", spec, f"{tuned} (stored)", stored=True)
            self.rows[run.id] = replace(run, status=RunStatus.DONE, fraction=1.0, finished=run.created + 40)
            self._shift = {**getattr(self, "_shift", {}), run.id: shift}

    # -- what there is
    def lasting_name(self, name: str) -> str:
        return name.replace("./", "demo/")  # as if the person stood in the folder of the demo

    def catalogue(self) -> dict[str, Any]:
        lam = {"name": "lam", "kind": "float", "default": 0.5, "low": 0, "high": 1, "help": "how far to walk, no unit"}
        density = {
            "name": "density", "kind": "float", "default": 0.5, "low": 0.01, "high": 1, "help": "share of entries kept",
        }  # fmt: skip
        method = {"summary": "Walk a straight line.", "paper": "arXiv:2412.19512", "needs": []}
        method |= {"grids": {"lam": "0:1:11", "density": "0.1:0.9:3"}}
        return {
            "methods": [
                {"name": "linear", **method, "parameters": [lam]},
                {"name": "ties", **method, "summary": "Trim, elect, merge.", "parameters": [lam, density]},
                {"name": "safe_delta", **method, "calibration": True, "parameters": [lam]},
                {"name": "safe_lora", **method, "extras": ["raw"], "parameters": [lam]},
                {
                    "name": "sce",
                    **method,
                    "fine_tunes": [2, None],
                    "parameters": [
                        lam,
                        {"name": "weights", "kind": "list", "default": [], "several": True, "help": "one each"},
                    ],
                },
                {
                    "name": "lox",
                    **method,
                    "knob": "extrapolate",
                    "grids": {"extrapolate": "0:3:11"},
                    "extras": ["raw"],
                    "fine_tunes": [0, 0],
                    "parameters": [{"name": "extrapolate", "kind": "float", "default": 1.25, "low": 0, "high": 3}],
                },
            ],
            "tasks": [{"name": t, "summary": f"{t} questions", "suite": t, "metric": "exact"} for t in TASKS],
            "judges": [{"name": "rules", "summary": "refusal phrases"}],
            "presets": [
                {"name": "quick", "summary": "a smoke test", "prompts": {"safety": N}, "new_tokens": 64},
                {"name": "standard", "summary": "for a talk", "prompts": {"safety": 300}, "new_tokens": 64},
                {"name": "report", "summary": "every prompt", "prompts": {"safety": None}, "new_tokens": 256},
            ],
            "checkpoints": self.checkpoints(),
            "suites": SUITES,
            **self.tuning_catalogue(),
        }

    def checkpoints(self) -> list[dict[str, Any]]:
        return [
            {"name": "demo/aligned", "role": "aligned", "task": "", "lineage": "", "parameters": 1_400_000},
            *(
                {"name": f"demo/{t}-{k}-sft", "role": "fine-tuned", "task": t, "parameters": 1_400_000}
                for t in TASKS
                for k in ("clean", "mixed")
            ),
            *({"name": name, "role": role, "task": "", "parameters": 1_400_000} for name, role in self.written.items()),
        ]

    def inspect(self, aligned: str, tuned: str | None = None, *, donor: str = "aligned") -> Inspection:
        rows, findings = [], []
        self.donor = donor
        for field, name in (("aligned", aligned), ("tuned", tuned)):
            if name is None:
                continue
            if not name.startswith("demo/"):
                findings.append(Finding("error", field, f"{field}: no folder {name!r}. Pick one of the list."))
            else:
                rows.append({
                    "name": name, "kind": "full", "model_type": "llama", "parameters": 1_400_000, "bytes": 5_600_000,
                    "dtype": "float32", "vocabulary": 1024,
                })  # fmt: skip
        return Inspection(tuple(rows), tuple(findings))

    # -- runs
    def plan(self, kind: str, spec: Mapping[str, Any]) -> Plan:
        if kind == "tune":
            return self.plan_tune(spec)
        full = self._spec(spec)
        for field in ("aligned", "tuned"):
            for named in full[field] if isinstance(full[field], list) else [full[field]]:
                if not str(named).startswith("demo/"):
                    raise UserError(field, problem=f"no folder {named!r}", remedy="Pick one of the list.")
        self.check_suites(full)
        known = [method["name"] for method in self.catalogue()["methods"]]
        if full["method"] not in known:
            raise unknown_name("method", full["method"], known)
        if kind == "merge":
            full = self._one_merge(full)
        if kind == "search":
            full |= {"method": "layerwise", "trials": int(full.get("trials", 4))}
        recipe = {"kind": kind, **full}
        seconds = 9.0 if kind == "merge" else 38.0
        same = [r.id for r in self.rows.values() if r.recipe_hash == repr(recipe) and r.status == RunStatus.DONE]
        return Plan(kind, full, recipe, repr(recipe), Estimate(seconds, 300 << 20, 2 << 20), (), (same or [None])[0])

    @alone
    def submit(self, kind: str, spec: Mapping[str, Any], *, owner: str = "local", name: str = "") -> Run:
        plan = self.plan(kind, spec)
        return self._insert(
            kind, plan.spec, name or f"{kind} {plan.spec.get('tuned') or plan.spec['task_data']}", recipe=plan.recipe
        )

    @alone
    def runs(self, *, owner: str | None = None) -> list[Run]:
        return [self.run(i) for i in sorted(self.rows, reverse=True)]

    @alone
    def run(self, run: int) -> Run:
        row = self.rows.get(run)
        if row is None:
            raise UserError("run", got=run, allowed="the id of a run", remedy="See Runs.")
        if not row.status.is_live:
            return row
        if row.kind == "tune":
            self.rows[run] = self._tune_now(row)
            return self.rows[run]
        total = len(self._settings(row)) if row.kind in ("sweep", "search") else 1
        passed = (self.clock() - self.begun[run]) / self.step_seconds if self.step_seconds else total + 1
        done = min(total, max(0, int(passed)))
        if done >= total:
            result = self._verdict() if row.kind == "search" else None
            row = replace(
                row, status=RunStatus.DONE, fraction=1.0, phrase="", seconds_left=None, finished=time.time(),
                result=result,
            )  # fmt: skip
        else:
            left = (total - passed) * self.step_seconds
            row = replace(
                row, status=RunStatus.RUNNING, fraction=done / total, started=row.created,
                phrase=f"answering, {done} of {total}", seconds_left=left,
            )  # fmt: skip
        self.rows[run] = row
        return row

    def log(self, run: int, *, lines: int = 200) -> str:
        return f"run {run}: reading headers\nrun {run}: {self.run(run).phrase or 'finished'}\n"

    @alone
    def cancel(self, run: int) -> Run:
        row = self.run(run)
        self.rows[run] = replace(row, status=RunStatus.CANCELLED, phrase="", finished=time.time(), seconds_left=None)
        return self.rows[run]

    @alone
    def restart(self, run: int) -> Run:
        row = self.run(run)
        self.rows[run] = replace(row, status=RunStatus.QUEUED, fraction=0.0, error="")
        done = row.fraction * int(row.spec["training"]["steps"]) / 8 if row.kind == "tune" else 0.0
        self.begun[run] = self.clock() - done * self.step_seconds
        return self.run(run)

    @alone
    def fail(self, run: int, sentence: str) -> None:
        self.rows[run] = replace(self.run(run), status=RunStatus.FAILED, error=sentence)

    @alone
    def rename(self, run: int, name: str) -> Run:
        self.rows[run] = replace(self.run(run), name=name)
        return self.rows[run]

    # -- results
    def points(self, runs: Sequence[int]) -> list[Point]:
        found = []
        for run in runs:
            row = self.run(run)
            turned = self._settings(row)
            keep = len(turned) if row.status == RunStatus.DONE else round(row.fraction * len(turned))
            found += [self._point(row, i, setting) for i, setting in enumerate(turned[:keep])]
        return found

    def point(self, point: int) -> Point:
        for found in self.points([point // 1000] if point // 1000 in self.rows else []):
            if found.id == point:
                return found
        raise UserError("point", got=point, allowed="the id of a point")

    def outcomes(self, point: int, *, suite: str | None = None) -> list[Outcome]:
        run, index = divmod(point, 1000)
        row = self.run(run)
        lam = self._settings(row)[index].get("lambda", 0.5)
        found = answered(point, row.spec["task"], *self._rates(row, lam))
        return [one for one in found if suite is None or one.suite == suite]

    def frontier(self, points: Sequence[Point]) -> Frontier:
        xy = [(p.scores["task"].value, p.scores["safety"].value) for p in points]
        front, best = [], -1.0
        for i in sorted(range(len(xy)), key=lambda i: (-xy[i][0], -xy[i][1])):
            if xy[i][1] > best:
                front, best = [i, *front], xy[i][1]
        area = left = 0.0
        for i in front:
            area, left = area + (xy[i][0] - left) * xy[i][1], xy[i][0]
        knee = front[len(front) // 2] if len(front) > 2 else None
        return Frontier(tuple(front), area, (0.0, 0.0), knee)

    def sweep_json(self, run: int) -> dict[str, Any]:
        return {"run": run, "recipe": self.run(run).recipe, "points": [p.to_json() for p in self.points([run])]}

    # -- live answers
    def warm(self, aligned: str, tuned: str) -> None:
        """Nothing to load."""

    def stream(
        self, columns: Sequence[Column], messages: Sequence[Mapping[str, str]], *, new_tokens: int = 64
    ) -> Iterator[Chunk]:
        if self.busy:
            raise DeviceBusy(self.busy)
        began = time.perf_counter()
        for i, column in enumerate(columns):
            words = f"{column.title} says: {messages[-1]['content']} {NASTY}".split()
            for k in range(1, len(words) + 1):
                if self.step_seconds:
                    time.sleep(0.02)
                yield Chunk(i, " ".join(words[:k]), k == len(words), time.perf_counter() - began)

    def device(self) -> dict[str, Any]:
        live = [r for r in self.runs() if r.status.is_live]
        state = f"run {live[-1].id}" if live else "idle"
        return {"device": "cpu, 2 threads", "state": state, "queue": max(0, len(live) - 1), "worker": True}

    def ensure_worker(self) -> None: ...

    def check_suites(self, spec: Mapping[str, Any]) -> None:
        known = [suite["name"] for suite in SUITES]
        for name in filter(None, spec.get("suites", "").split(", ")):
            if name not in known and not name.endswith(".jsonl"):
                raise unknown_name("suite", name, known)

    # -- inside
    def _one_merge(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        if spec.get("out") == "/taken":
            raise UserError("out", problem="/taken exists and is not empty", remedy="Name a new folder.")
        lam = spec["parameters"].get("lam", 0.5)
        if lam is None or not -0.5 <= lam <= 1.5:
            raise UserError("lam", got=lam, allowed="from -0.5 to 1.5")
        return {name: value for name, value in spec.items() if name != "grid"}

    def _spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        base = {"aligned": "demo/aligned", "method": "linear", "parameters": {}, "grid": "0:1:11", "seed": 0}
        full = {**base, "tuned": "demo/tool-mixed-sft", "task": "tool", "preset": "quick", **spec}
        return {**full, "grid": self._grid(full["grid"])}

    def _settings(self, row: Run) -> list[dict[str, float]]:
        grid = row.spec.get("grid") or []
        turned = [{"lambda" if k == "lam" else k: v for k, v in one.items()} for one in settings_of(grid, "lam")]
        for trial in range(row.spec["trials"] if row.kind == "search" else 0):
            turned.append({"lambda": (trial + 1) / 10, "curve_1": 0.5, "curve_2": 1.2, "mlp": 0.8})
        return turned

    def _verdict(self) -> dict[str, Any]:
        gap = {"value": 0.7, "low": -2.6, "high": 3.7}
        area = {"found": 79.1, "uniform": 78.4, "reference": [0, 0]}
        return {"hypervolume": area, "difference": gap, "n": {"safety": N, "task": N}}

    def task_vector(self, aligned: str, tuned: str) -> list[LayerChange]:
        if not tuned.startswith("demo/"):
            raise UserError("tuned", problem=f"no folder {tuned!r}", remedy="Pick one of the list.")
        modules = ("q", "k", "v", "o", "gate", "up", "down")
        found = [LayerChange(None, module, 0.0, None, 260_000) for module in ("embed", "norms")]
        for layer in range(4):
            found.append(LayerChange(layer, "norms", 0.0, None, 256))
            found += [
                LayerChange(layer, m, 0.02 * (i + 1) * (layer + 1), 0.05 * (i - 3), 16_000)
                for i, m in enumerate(modules)
            ]
        return found

    def _grid(self, grid: Any) -> Any:
        if isinstance(grid, list | dict):
            return grid
        if "=" in grid:
            parts = [part.split("=") for part in grid.split(", ")]
            return {name: self._grid(values) for name, values in parts}
        try:
            if ":" in grid:
                start, stop, count = grid.split(":")
                step = (float(stop) - float(start)) / (int(count) - 1)
                values = [round(float(start) + i * step, 6) for i in range(int(count))]
            else:
                values = [float(part) for part in grid.split(",")]
        except ValueError:
            values = [-1.0]
        if min(values) < 0 or max(values) > 1:
            raise UserError("grid", got=grid, allowed="λ from 0 to 1", remedy="For example 0:1:11.")
        return values

    def _insert(self, kind: str, spec: dict[str, Any], name: str, *, stored: bool = False, recipe: Any = None) -> Run:
        number = len(self.rows) + 1
        recipe = recipe or {"kind": kind, "judges": {"rules": "1"}, **spec}
        run = Run(number, kind, name, "local", RunStatus.QUEUED, spec, recipe, repr(recipe), time.time(), stored=stored)
        self.rows[number], self.begun[number] = run, self.clock()
        return run

    def _rates(self, row: Run, lam: float) -> tuple[float, float]:
        safe = 1 / (1 + math.exp((lam - getattr(self, "_shift", {}).get(row.id, 0.35)) * 14))
        return round(safe * N) / N, round((0.45 + 0.53 * lam**0.7) * N) / N

    def _point(self, row: Run, index: int, setting: dict[str, float]) -> Point:
        lam = setting.get("lambda", 0.5)
        safe, task = self._rates(row, lam)
        scores = {"safety": wilson(safe * N, N), "over_refusal": wilson(1 if lam < 0.2 else 0, N)}
        scores |= {"helpfulness": wilson(N - 1, N), "task": wilson(task * N, N)}
        outcomes = {
            "safety": {"refused": round(safe * N), "harmful": N - round(safe * N)},
            "over_refusal": {"safe_complied": N},
            "helpfulness": {"safe_complied": N},
            row.spec["task"]: {"safe_complied": N},
        }
        anchor = {0.0: "aligned", 1.0: "fine-tuned"}.get(lam, "")
        method = "linear" if row.kind == "search" and len(setting) == 1 else row.spec["method"]
        walked = lam * setting.get("density", 0.7 if method == "ties" else 1.0) ** 0.5
        effective = {"projection": walked, "distance": lam}
        number = row.id * 1000 + index
        details = {"judge": "rules", "decoding": {"greedy": True}}
        return Point(number, row.id, index, method, setting, scores, outcomes, effective, anchor, details)


if __name__ == "__main__":
    from app.__main__ import serve

    port, *clock = sys.argv[1:]
    studio = FakeStudio(STEP_SECONDS, *(ClockFile(Path(path)) for path in clock))
    serve(studio, from_environment({"PORT": port}))
