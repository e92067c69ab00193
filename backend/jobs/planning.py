"""From a request to a plan: everything is checked, hashed and estimated before a row is written. No torch.

A recipe says what is computed (methods, coefficients, file hashes, suites, judges, decoding, seed); two requests with
the same recipe hash have the same answer. What cannot change a result (threads, name, owner) is not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.checkpoints.guard import check_pair, estimate_merge, estimate_resident, raise_errors
from backend.checkpoints.resolve import resolve
from backend.checkpoints.space import check_memory, check_space
from backend.errors import UserError, unknown_name
from backend.evaluation.presets import preset as find_preset
from backend.evaluation.runner import plugin_hash
from backend.evaluation.suites import Suite, canonical, load_suite, sha256
from backend.params import check_parameters
from backend.registry import judges, methods, tasks
from backend.settings import Settings
from backend.types import Checkpoint, Estimate, Plan

SAFETY_SUITES = ("safety", "over_refusal", "helpfulness")
MOST_POINTS = 101
HASHED_WHOLE = 256 * 2**20
CPU_FLOPS_PER_THREAD = 2e10
GPU_FLOPS = 1e14
TOKENS_PER_PROMPT = 80
SECONDS_PER_POINT = 0.8
SECONDS_TO_START = 4.0
BYTES_PER_ANSWER = 500
LIBRARIES = 250 * 2**20


def parse_grid(grid: object) -> list[float]:
    """The values of λ that `grid` names: "start:stop:count", "0, 0.5, 1" or a list; rising, each once.

    >>> parse_grid("0:1:5")
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> parse_grid("0.5, 0.1")
    [0.1, 0.5]
    >>> parse_grid("0:2:3")
    Traceback (most recent call last):
    backend.errors.UserError: grid: got 2.0; allowed is numbers from 0 to 1. λ = 0 is aligned and λ = 1 fine-tuned.
    """
    remedy = "Write start:stop:count, for example 0:1:11, or a list like 0, 0.5, 1."
    try:
        if isinstance(grid, str) and ":" in grid:
            start, stop, count = grid.split(":")
            steps = int(count)
            if not 2 <= steps <= MOST_POINTS:
                raise UserError("grid", got=steps, allowed=f"2 to {MOST_POINTS} points", remedy=remedy)
            low, high = float(start), float(stop)
            values = [low + (high - low) * step / (steps - 1) for step in range(steps)]
        else:
            parts: Sequence[Any] = grid.split(",") if isinstance(grid, str) else list(grid)  # type: ignore[call-overload]
            values = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise UserError("grid", got=grid, allowed="numbers from 0 to 1", remedy=remedy) from None
    for value in values:
        if not 0 <= value <= 1:
            allowed = "numbers from 0 to 1"
            raise UserError("grid", got=value, allowed=allowed, remedy="λ = 0 is aligned and λ = 1 fine-tuned.")
    unique = sorted({round(value, 12) for value in values})
    if not 1 <= len(unique) <= MOST_POINTS:
        raise UserError("grid", got=len(unique), allowed=f"1 to {MOST_POINTS} points", remedy=remedy)
    return unique


def make_plan(settings: Settings, kind: str, request: Mapping[str, Any]) -> Plan:
    """Check a request of `kind` and say what it will do. Raises `UserError` naming the field."""
    if kind not in _PLANNERS:
        raise unknown_name("kind", kind, _PLANNERS)
    allowed = _FIELDS[kind]
    for field in request:
        if field not in allowed:
            raise unknown_name(f"field of {kind}", field, allowed)
    return _PLANNERS[kind](settings, request)


def chosen_suites(settings: Settings, spec: Mapping[str, Any]) -> list[Suite]:
    """The suites of a checked sweep or evaluation, cut to its preset."""
    chosen = find_preset(spec["preset"])
    suites = [_suite(settings, name) for name in spec["suites"]]
    if spec["task"]:
        plugin = tasks.get(spec["task"])
        suites.append(replace(_suite(settings, plugin.facts["suite"]), scorer=plugin.name))
    return [suite.first(chosen.prompts[suite.axis], spec["seed"]) for suite in suites]


def suite_names(settings: Settings) -> list[str]:
    """The suites that came with the studio."""
    return sorted(path.stem for path in (settings.demo / "suites").glob("*.jsonl"))


def _suite(settings: Settings, name: str) -> Suite:
    if name in suite_names(settings):
        return load_suite(settings.demo / "suites" / f"{name}.jsonl")
    if name.endswith(".jsonl") or "/" in name:
        return load_suite(Path(name).expanduser(), axis="safety")
    raise unknown_name("suite", name, suite_names(settings))


def _plan_sweep(settings: Settings, request: Mapping[str, Any]) -> Plan:
    aligned, tuned = _pair(settings, request)
    method = methods.get(_text(request, "method", "linear"))
    others = {key: value for key, value in dict(request.get("parameters") or {}).items() if key != "lam"}
    parameters = check_parameters(method.name, method.parameters, others)
    parameters.pop("lam", None)
    spec = {
        "aligned": pinned(aligned),
        "tuned": pinned(tuned),
        "method": method.name,
        "parameters": parameters,
        "grid": parse_grid(request.get("grid", "0:1:11")),
    } | _measuring(settings, request)
    suites = chosen_suites(settings, spec)
    recipe = {
        "kind": "sweep",
        **spec,
        "aligned": fingerprint(aligned),
        "tuned": fingerprint(tuned),
        "method": {"name": method.name, "paper": method.facts["paper"], "source": plugin_hash(method)},
        **_measured_with(suites, spec),
    }
    prompts = sum(len(suite.rows) for suite in suites)
    memory = estimate_resident(aligned, tuned)
    estimate = _forecast(settings, aligned, points=len(spec["grid"]), prompts=prompts, memory=memory)
    _check_room(settings, estimate)
    findings = [finding.sentence for finding in check_pair(aligned, tuned) if finding.level == "warning"]
    return Plan("sweep", spec, recipe, recipe_hash(recipe), estimate, tuple(findings))


def _plan_evaluate(settings: Settings, request: Mapping[str, Any]) -> Plan:
    checkpoint = resolve(_text(request, "checkpoint"), settings, field="checkpoint")
    aligned = _base_of(settings, request, checkpoint)
    spec = {"checkpoint": pinned(checkpoint), "aligned": pinned(aligned) if aligned else ""}
    spec |= _measuring(settings, request)
    suites = chosen_suites(settings, spec)
    recipe = {"kind": "evaluate", **spec, "checkpoint": fingerprint(checkpoint), **_measured_with(suites, spec)}
    if aligned:
        recipe["aligned"] = fingerprint(aligned)
    prompts = sum(len(suite.rows) for suite in suites)
    full = aligned or checkpoint
    memory = estimate_resident(full, checkpoint)
    estimate = _forecast(settings, full, points=1, prompts=prompts, memory=memory)
    _check_room(settings, estimate)
    return Plan("evaluate", spec, recipe, recipe_hash(recipe), estimate)


def _plan_merge(settings: Settings, request: Mapping[str, Any]) -> Plan:
    aligned, tuned = _pair(settings, request)
    method = methods.get(_text(request, "method", "linear"))
    parameters = check_parameters(method.name, method.parameters, dict(request.get("parameters") or {}))
    out = str(request.get("out") or "").strip()
    target = Path(out).expanduser().absolute() if out else None
    if target and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("out", problem=f"{target} exists and is not empty", remedy="Name a new folder.")
    spec = {
        "aligned": pinned(aligned),
        "tuned": pinned(tuned),
        "method": method.name,
        "parameters": parameters,
        "out": str(target) if target else "",
        "seed": _seed(request),
    }
    recipe = {
        "kind": "merge",
        **{key: value for key, value in spec.items() if key != "out"},
        "aligned": fingerprint(aligned),
        "tuned": fingerprint(tuned),
        "method": {"name": method.name, "paper": method.facts["paper"], "source": plugin_hash(method)},
    }
    findings = [finding.sentence for finding in check_pair(aligned, tuned) if finding.level == "warning"]
    return Plan("merge", spec, recipe, recipe_hash(recipe), estimate_merge(aligned, tuned), tuple(findings))


_PLANNERS: dict[str, Callable[[Settings, Mapping[str, Any]], Plan]] = {
    "sweep": _plan_sweep,
    "merge": _plan_merge,
    "evaluate": _plan_evaluate,
}
_FIELDS = {
    "sweep": ("aligned", "tuned", "method", "parameters", "grid", "task", "preset", "seed", "suites"),
    "merge": ("aligned", "tuned", "method", "parameters", "out", "seed"),
    "evaluate": ("checkpoint", "aligned", "task", "preset", "seed", "suites"),
}


def pinned(checkpoint: Checkpoint) -> str:
    """The name that means this very checkpoint later: a Hub id with its commit."""
    if not checkpoint.revision:
        return checkpoint.name
    return f"{checkpoint.name.split('@')[0]}@{checkpoint.revision}"


def fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies a checkpoint: name, revision and a hash per file (of size and time for files over 256 MiB)."""
    files = {}
    for path in sorted({tensor.file for tensor in checkpoint.tensors.values()}):
        status = path.stat()
        if status.st_size <= HASHED_WHOLE:
            with path.open("rb") as file:
                files[path.name] = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        else:
            files[path.name] = f"size:{status.st_size} time:{status.st_mtime_ns}"
    return {"name": checkpoint.name, "revision": checkpoint.revision, "kind": checkpoint.kind, "files": files}


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of the recipe as canonical JSON."""
    return sha256(canonical(json.loads(json.dumps(recipe))))


def _pair(settings: Settings, request: Mapping[str, Any]) -> tuple[Checkpoint, Checkpoint]:
    aligned = resolve(_text(request, "aligned"), settings, field="aligned")
    tuned = resolve(_text(request, "tuned"), settings, field="tuned")
    if aligned.kind == "adapter":
        raise UserError("aligned", problem=f"{aligned.name} is an adapter", remedy="Name the full aligned checkpoint.")
    raise_errors(check_pair(aligned, tuned))
    return aligned, tuned


def _base_of(settings: Settings, request: Mapping[str, Any], checkpoint: Checkpoint) -> Checkpoint | None:
    """The aligned checkpoint under an adapter; None for a full checkpoint."""
    if checkpoint.kind == "full":
        return None
    name = str(request.get("aligned") or ("demo/aligned" if checkpoint.name.startswith("demo/") else ""))
    if not name:
        remedy = "Name the checkpoint it was trained on as aligned."
        raise UserError("aligned", problem=f"{checkpoint.name} is an adapter and needs its base", remedy=remedy)
    aligned = resolve(name, settings, field="aligned")
    raise_errors(check_pair(aligned, checkpoint))
    return aligned


def _measuring(settings: Settings, request: Mapping[str, Any]) -> dict[str, Any]:
    task = _text(request, "task", "")
    if task:
        plugin = tasks.get(task)
        if plugin.facts["suite"] not in suite_names(settings):
            raise unknown_name("task", task, [one.name for one in tasks if one.facts["suite"] in suite_names(settings)])
    suites = request.get("suites") or SAFETY_SUITES
    names = [part.strip() for part in suites.split(",")] if isinstance(suites, str) else [str(one) for one in suites]
    return {
        "task": task,
        "preset": find_preset(_text(request, "preset", "quick")).name,
        "suites": names,
        "seed": _seed(request),
    }


def _measured_with(suites: Sequence[Suite], spec: Mapping[str, Any]) -> dict[str, Any]:
    used = {suite.judge: judges.get(suite.judge) for suite in suites}
    return {
        "suites": {
            suite.name: {"axis": suite.axis, "version": suite.version, "n": len(suite.rows), "hash": suite.hash}
            for suite in suites
        },
        "judges": {name: plugin_hash(plugin) for name, plugin in used.items()},
        "scorers": {suite.scorer: plugin_hash(tasks.get(suite.scorer)) for suite in suites if suite.scorer},
        "decoding": {"strategy": "greedy", "new_tokens": find_preset(spec["preset"]).new_tokens},
    }


def _text(request: Mapping[str, Any], field: str, default: str | None = None) -> str:
    value = request.get(field)
    if value is None or not str(value).strip():
        if default is None:
            raise UserError(field, problem="nothing was given", remedy="Name a demo checkpoint, a folder or a Hub id.")
        return default
    return str(value).strip()


def _seed(request: Mapping[str, Any]) -> int:
    value = request.get("seed", 0)
    try:
        seed = int(str(value))
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**32:
        raise UserError("seed", got=value, allowed=f"a whole number from 0 to {2**32 - 1}", remedy="The default is 0.")
    return seed


def estimates(settings: Settings, aligned: Checkpoint, tuned: Checkpoint) -> dict[str, Estimate]:
    """What a merge of the pair to disk, and one point of a quick sweep, would take."""
    prompts = sum(n or 0 for n in find_preset("quick").prompts.values())
    memory = estimate_resident(aligned, tuned)
    return {
        "merge": estimate_merge(aligned, tuned),
        "sweep": _forecast(settings, aligned, points=1, prompts=prompts, memory=memory),
    }


def _forecast(settings: Settings, model: Checkpoint, *, points: int, prompts: int, memory: int) -> Estimate:
    """A rough forecast from the number of multiply-adds; the run itself corrects it from measured steps."""
    flops = GPU_FLOPS if settings.device == "cuda" else CPU_FLOPS_PER_THREAD * settings.threads
    per_point = SECONDS_PER_POINT + prompts * TOKENS_PER_PROMPT * 2 * model.parameters / flops
    return Estimate(SECONDS_TO_START + points * per_point, memory + LIBRARIES, prompts * points * BYTES_PER_ANSWER)


def _check_room(settings: Settings, estimate: Estimate) -> None:
    """Refuse a run that this machine has no memory or disk for."""
    if settings.device != "cuda":  # what a GPU has free is known only to the process that holds it
        check_memory(estimate.memory)
    check_space(settings.home, estimate.disk, field="STUDIO_HOME")
