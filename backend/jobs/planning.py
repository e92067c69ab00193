"""From a request to a plan: everything is checked, hashed and estimated before a row is written. No torch.

A recipe says what is computed (methods, coefficients, file hashes, suites, judges, decoding, seed); two requests with
the same recipe hash have the same answer. What cannot change a result (threads, name, owner) is not in it.
"""

from __future__ import annotations

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
from backend.jobs.sources import Sources, find_sources, fingerprint, pinned, text_of
from backend.merging.inputs import check_request
from backend.params import Parameter
from backend.registry import EXTRA_INPUTS, Plugin, judges, methods, tasks
from backend.settings import Settings
from backend.types import Checkpoint, Estimate, Plan

CHECKPOINTS = ("aligned", "tuned", *EXTRA_INPUTS)
SAFETY_SUITES = ("safety", "over_refusal", "helpfulness")
MOST_POINTS = 101
CPU_FLOPS_PER_THREAD = 2e10
GPU_FLOPS = 1e14
TOKENS_PER_PROMPT = 80
SECONDS_PER_POINT = 0.8
SECONDS_TO_START = 4.0
BYTES_PER_ANSWER = 500
LIBRARIES = 250 * 2**20


LAMBDA = Parameter("lam", "float", 0.5, required=False, low=0, high=1)


def parse_grid(grid: object, knob: Parameter = LAMBDA) -> list[float]:
    """The values of λ, or of `knob`, that `grid` names: "start:stop:count", "0, 0.5, 1" or a list; rising, each once.

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
            first, last = float(start), float(stop)
            values = [first + (last - first) * step / (steps - 1) for step in range(steps)]
        else:
            parts: Sequence[Any] = grid.split(",") if isinstance(grid, str) else list(grid)  # type: ignore[call-overload]
            values = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise UserError("grid", got=grid, allowed="numbers with commas, or a range", remedy=remedy) from None
    low, high = knob.low or 0.0, 1.0 if knob.high is None else knob.high
    for value in values:
        if not low <= value <= high:
            ends = (
                "λ = 0 is aligned and λ = 1 fine-tuned." if knob.name == "lam" else f"They are values of {knob.name}."
            )
            raise UserError("grid", got=value, allowed=f"numbers from {low:g} to {high:g}", remedy=ends)
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
    method = methods.get(text_of(request, "method", "linear"))
    knob = next((one for one in method.parameters if one.name == method.facts["knob"]), None)
    if knob is None:
        remedy = "Merge it once, or choose another method."
        raise UserError("method", problem=f"{method.name} has no number to sweep", remedy=remedy)
    given = find_sources(settings, request, method)
    others = {key: value for key, value in dict(request.get("parameters") or {}).items() if key != knob.name}
    parameters = _checked(method, others, given)
    parameters.pop(knob.name, None)
    spec = {
        **given.spec(),
        "method": method.name,
        "parameters": parameters,
        "grid": parse_grid(request.get("grid", "0:1:11"), knob),
    } | _measuring(settings, request)
    suites = chosen_suites(settings, spec)
    recipe = {
        "kind": "sweep",
        **spec,
        **given.fingerprints(),
        "method": _identity(method),
        **_measured_with(suites, spec),
    }
    prompts = sum(len(suite.rows) for suite in suites)
    memory = estimate_resident(given.aligned, *given.others, steps=method.facts["gives"] == "step")
    estimate = _forecast(settings, given.aligned, points=len(spec["grid"]), prompts=prompts, memory=memory)
    _check_room(settings, estimate)
    return Plan("sweep", spec, recipe, recipe_hash(recipe), estimate, given.warnings)


def _plan_evaluate(settings: Settings, request: Mapping[str, Any]) -> Plan:
    checkpoint = resolve(text_of(request, "checkpoint"), settings, field="checkpoint")
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
    method = methods.get(text_of(request, "method", "linear"))
    given = find_sources(settings, request, method)
    parameters = _checked(method, dict(request.get("parameters") or {}), given)
    out = str(request.get("out") or "").strip()
    target = Path(out).expanduser().absolute() if out else None
    if target and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("out", problem=f"{target} exists and is not empty", remedy="Name a new folder.")
    spec = {
        **given.spec(),
        "method": method.name,
        "parameters": parameters,
        "out": str(target) if target else "",
        "seed": _seed(request),
    }
    recipe = {
        "kind": "merge",
        **{key: value for key, value in spec.items() if key != "out"},
        **given.fingerprints(),
        "method": _identity(method),
    }
    estimate = estimate_merge(given.aligned, *given.others)
    return Plan("merge", spec, recipe, recipe_hash(recipe), estimate, given.warnings)


def _checked(method: Plugin, parameters: Mapping[str, Any], given: Sources) -> dict[str, Any]:
    return check_request(method, parameters, tuned=len(given.tuned), extras=list(given.extras))


def _identity(method: Plugin) -> dict[str, Any]:
    return {"name": method.name, "paper": method.facts["paper"], "source": plugin_hash(method)}


_PLANNERS: dict[str, Callable[[Settings, Mapping[str, Any]], Plan]] = {
    "sweep": _plan_sweep,
    "merge": _plan_merge,
    "evaluate": _plan_evaluate,
}
_FIELDS = {
    "sweep": (*CHECKPOINTS, "method", "parameters", "grid", "task", "preset", "seed", "suites"),
    "merge": (*CHECKPOINTS, "method", "parameters", "out", "seed"),
    "evaluate": ("checkpoint", "aligned", "task", "preset", "seed", "suites"),
}


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of the recipe as canonical JSON."""
    return sha256(canonical(json.loads(json.dumps(recipe))))


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
    task = text_of(request, "task", "")
    if task:
        plugin = tasks.get(task)
        if plugin.facts["suite"] not in suite_names(settings):
            raise unknown_name("task", task, [one.name for one in tasks if one.facts["suite"] in suite_names(settings)])
    suites = request.get("suites") or SAFETY_SUITES
    names = [part.strip() for part in suites.split(",")] if isinstance(suites, str) else [str(one) for one in suites]
    return {
        "task": task,
        "preset": find_preset(text_of(request, "preset", "quick")).name,
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
