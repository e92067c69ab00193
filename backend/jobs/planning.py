"""From a request to a plan: everything is checked, hashed and estimated before a row is written. No torch.

A recipe says what is computed (methods, coefficients, file hashes, suites, judges, decoding, seed); two requests with
the same recipe hash have the same answer. What cannot change a result (threads, name, owner) is not in it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.checkpoints.config import check_model_type
from backend.checkpoints.guard import (
    check_pair,
    estimate_resident,
    raise_errors,
)
from backend.checkpoints.hashes import remembered
from backend.checkpoints.resolve import resolve
from backend.checkpoints.space import check_memory, check_space
from backend.checkpoints.writer import leftover
from backend.errors import UserError, unknown_name
from backend.evaluation.runner import plugin_hash
from backend.evaluation.suites import canonical, sha256
from backend.jobs.calibration import calibrated_with, find_calibration
from backend.jobs.forecast import arithmetic_seconds, check_room, forecast, forecast_merge
from backend.jobs.grids import default_grid, parse_grid, read_grid, settings_of
from backend.jobs.named_suites import (
    chosen_suites,
    measured_with,
    measuring,
    search_suites,
)
from backend.jobs.sources import Sources, find_sources, fingerprint, pinned, seed_of, table_of, text_of
from backend.merging.request import check_request
from backend.params import Parameter, check_parameters
from backend.registry import EXTRA_INPUTS, Plugin, methods
from backend.settings import Settings, refuse_in_public
from backend.types import Checkpoint, Plan

CHECKPOINTS = ("aligned", "tuned", *EXTRA_INPUTS)
BESIDE = ("calibration", "donor")
DEVICES = ("cpu", "cuda")
TUNING = "tuning.json"  # what a fine-tuning leaves beside its weights: lineage, settings, hashes
SEARCH = (
    Parameter("minutes", "float", 10.0, required=False, low=0.05, high=1440, help="when to stop looking"),
    Parameter("trials", "int", 60, required=False, low=0, high=1000, help="settings to try beside the uniform ones"),
    Parameter("depth", "int", 4, required=False, low=1, high=16, help="numbers of the curve over the layers"),
)


def make_plan(settings: Settings, kind: str, request: Mapping[str, Any]) -> Plan:
    """Check a request of `kind` and say what it will do. Raises `UserError` naming the field."""
    if kind not in _PLANNERS:
        raise unknown_name("kind", kind, _PLANNERS)
    allowed = _FIELDS[kind]
    for field in request:
        if field not in allowed:
            raise unknown_name(f"field of {kind}", field, allowed)
    with remembered(settings.hashes):
        return _PLANNERS[kind](settings, request)


def _plan_sweep(settings: Settings, request: Mapping[str, Any]) -> Plan:
    method = methods.get(text_of(request, "method", "linear"))
    grid = read_grid(request.get("grid", default_grid(method)), method)
    turned = settings_of(grid, method.facts["knob"])
    given = find_sources(settings, request, method)
    check_model_type(given.aligned.config, field="aligned")
    others = {key: value for key, value in table_of(request, "parameters").items() if key not in turned[0]}
    for point in turned:  # knobs that do not go together are refused before anything runs
        parameters = _checked(method, others | point, given)
    parameters = {key: value for key, value in parameters.items() if key not in turned[0]}
    spec = {
        **given.spec(),
        "method": method.name,
        "parameters": parameters,
        "grid": grid,
        **find_calibration(settings, request, method),
    } | measuring(settings, request)
    suites = chosen_suites(settings, spec)
    recipe = {
        "kind": "sweep",
        **spec,
        **given.fingerprints(),
        "method": identity(method),
        **measured_with(suites, spec),
        **calibrated_with(settings, spec),
    }
    prompts = sum(len(suite.rows) for suite in suites)
    steps, grams = method.facts["gives"] == "step", method.facts["calibration"]
    memory = estimate_resident(given.aligned, *given.others, steps=steps, grams=grams)
    estimate = forecast(settings, given.aligned, points=len(turned), prompts=prompts, memory=memory)
    seconds = arithmetic_seconds(settings, method, {**parameters, **turned[0]}, given.aligned)
    estimate = replace(estimate, seconds=estimate.seconds + seconds * _merged_anew(turned, method))
    check_room(settings, estimate)
    return Plan("sweep", spec, recipe, recipe_hash(recipe), estimate, given.warnings)


def _merged_anew(turned: list[dict[str, float]], method: Plugin) -> int:
    """How often a sweep computes a merge from the start: steps are kept while only the knob is turned."""
    knob = method.facts["knob"] if method.facts["gives"] == "step" else ""
    return len({tuple(value for name, value in one.items() if name != knob) for one in turned})


def _plan_evaluate(settings: Settings, request: Mapping[str, Any]) -> Plan:
    checkpoint = resolve(text_of(request, "checkpoint"), settings, field="checkpoint")
    aligned = _base_of(settings, request, checkpoint)
    check_model_type((aligned or checkpoint).config, field="aligned" if aligned else "checkpoint")
    spec = {"checkpoint": pinned(checkpoint), "aligned": pinned(aligned) if aligned else ""}
    spec |= measuring(settings, request)
    suites = chosen_suites(settings, spec)
    recipe = {"kind": "evaluate", **spec, "checkpoint": fingerprint(checkpoint), **measured_with(suites, spec)}
    if aligned:
        recipe["aligned"] = fingerprint(aligned)
    prompts = sum(len(suite.rows) for suite in suites)
    full = aligned or checkpoint
    memory = estimate_resident(full, checkpoint)
    estimate = forecast(settings, full, points=1, prompts=prompts, memory=memory)
    check_room(settings, estimate)
    return Plan("evaluate", spec, recipe, recipe_hash(recipe), estimate)


def _plan_merge(settings: Settings, request: Mapping[str, Any]) -> Plan:
    method = methods.get(text_of(request, "method", "linear"))
    given = find_sources(settings, request, method)
    parameters = _checked(method, table_of(request, "parameters"), given)
    if method.facts["calibration"]:  # it answers no prompt, but the chats run through it
        check_model_type(given.aligned.config, field="aligned")
    out = str(request.get("out") or "").strip()
    if out:
        refuse_in_public(settings, "out", out)
    target = _new_folder(out)
    spec = {
        **given.spec(),
        "method": method.name,
        "parameters": parameters,
        "out": str(target) if target else "",
        "seed": seed_of(request),
        **find_calibration(settings, request, method),
        **_recorded_device(request),
    }
    recipe = {
        "kind": "merge",
        **{key: value for key, value in spec.items() if key != "out"},
        **given.fingerprints(),
        "method": identity(method),
        **calibrated_with(settings, spec),
    }
    estimate = forecast_merge(settings, method, parameters, given.aligned, given.others)
    check_memory(estimate.memory)
    check_space(target or settings.models_root, estimate.disk - (leftover(target) if target else 0))
    return Plan("merge", spec, recipe, recipe_hash(recipe), estimate, given.warnings)


def _recorded_device(request: Mapping[str, Any]) -> dict[str, str]:
    """Where the recipe that is made again was made; {} for a merge of its own."""
    device = text_of(request, "device", "")
    if device not in ("", *DEVICES):
        raise unknown_name("device", device, DEVICES)
    return {"device": device} if device else {}


def _new_folder(out: str) -> Path | None:
    """Where a merge is to be written, None for a folder under the models root."""
    if not out:
        return None
    try:
        target = Path(out).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError):
            target.with_name(f"{target.name}.tmp").stat()  # what is written first has the longer name
        full = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except (OSError, RuntimeError, ValueError):  # too long, through a file, or `~` of somebody unknown
        allowed = "the path of a new folder that you may write to"
        raise UserError("out", got=out[:200], allowed=allowed, remedy="Choose another folder.") from None
    if full:
        raise UserError("out", problem=f"{target} exists and is not empty", remedy="Name a new folder.")
    return target


def _plan_search(settings: Settings, request: Mapping[str, Any]) -> Plan:
    method = methods.get("layerwise")
    given = find_sources(settings, request, method)
    check_model_type(given.aligned.config, field="aligned")
    _checked(method, {}, given)
    if len(given.tuned) > 1:
        problem = f"a search turns what one fine-tuning changed, {len(given.tuned)} were given"
        raise UserError("tuned", problem=problem, remedy="Merge them first, or search for each.")
    budget = {name: request[name] for name in ("minutes", "trials", "depth") if request.get(name) is not None}
    spec = {
        **given.spec(),
        "method": method.name,
        "grid": parse_grid(request.get("grid", "0:1:11")),
        **check_parameters("search", SEARCH, budget),
    } | measuring(settings, request)
    validation, held_out = search_suites(settings, spec)
    for axis in ("safety", "task"):
        if not any(suite.axis == axis for suite in held_out):
            problem = f"a search needs a {axis} score, and no suite measures one"
            raise UserError("task" if axis == "task" else "suites", problem=problem, remedy="Add one.")
    recipe = {
        "kind": "search",
        **spec,
        **given.fingerprints(),
        "method": identity(method),
        "validation": measured_with(validation, spec)["suites"],
        **measured_with(held_out, spec),
    }
    points = len(spec["grid"]) + spec["trials"]
    prompts = sum(len(suite.rows) for suite in validation)
    memory = estimate_resident(given.aligned, *given.others, steps=True)
    look = forecast(settings, given.aligned, points=points, prompts=prompts, memory=memory)
    settle = forecast(settings, given.aligned, points=2 * len(spec["grid"]), prompts=prompts, memory=memory)
    seconds = min(look.seconds, 60 * spec["minutes"]) + settle.seconds
    estimate = replace(look, seconds=seconds, disk=look.disk + settle.disk)
    check_room(settings, estimate)
    return Plan("search", spec, recipe, recipe_hash(recipe), estimate, given.warnings)


def _checked(method: Plugin, parameters: Mapping[str, Any], given: Sources) -> dict[str, Any]:
    return check_request(method, parameters, tuned=len(given.tuned), extras=list(given.extras))


def identity(method: Plugin) -> dict[str, Any]:
    """What a merge method is, for a recipe."""
    return {"name": method.name, "paper": method.facts["paper"], "source": plugin_hash(method)}


def _plan_tune(settings: Settings, request: Mapping[str, Any]) -> Plan:
    from backend.jobs.tune_plan import plan_tune  # it uses this module's checks

    return plan_tune(settings, request)


def _plan_compare(settings: Settings, request: Mapping[str, Any]) -> Plan:
    from backend.jobs.compare_plan import plan_compare

    return plan_compare(settings, request)


_PLANNERS: dict[str, Callable[[Settings, Mapping[str, Any]], Plan]] = {
    "sweep": _plan_sweep,
    "merge": _plan_merge,
    "evaluate": _plan_evaluate,
    "search": _plan_search,
    "tune": _plan_tune,
    "compare": _plan_compare,
}
_FIELDS = {
    "sweep": (*CHECKPOINTS, *BESIDE, "method", "parameters", "grid", "task", "preset", "seed", "suites"),
    "search": ("aligned", "tuned", "grid", "depth", "minutes", "trials", "task", "preset", "seed", "suites"),
    "merge": (*CHECKPOINTS, *BESIDE, "method", "parameters", "out", "seed", "device"),
    "evaluate": ("checkpoint", "aligned", "task", "preset", "seed", "suites"),
    "tune": (
        *("model", "task_data", "references", "strategy", "parameters", "training"),
        *("task", "preset", "probe_every", "seed", "out", "suites"),
    ),
    "compare": (
        *("model", "task_data", "references", "strategies", "seeds", "settings", "training"),
        *("task", "suites", "preset", "grid", "ablations", "tune", "reuse"),
    ),
}


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of the recipe as canonical JSON."""
    return sha256(canonical(json.loads(json.dumps(recipe))))


def _base_of(settings: Settings, request: Mapping[str, Any], checkpoint: Checkpoint) -> Checkpoint | None:
    """The aligned checkpoint under an adapter; None for a full checkpoint."""
    if checkpoint.kind == "full":
        return None
    default = "demo/aligned" if checkpoint.name.startswith("demo/") else _trained_on(checkpoint)
    name = str(request.get("aligned") or default)
    if not name:
        remedy = "Name the checkpoint it was trained on as aligned."
        raise UserError("aligned", problem=f"{checkpoint.name} is an adapter and needs its base", remedy=remedy)
    aligned = resolve(name, settings, field="aligned")
    raise_errors(check_pair(aligned, checkpoint))
    return aligned


def _trained_on(adapter: Checkpoint) -> str:
    """The base that one of the studio's own fine-tunes names; any other adapter's word is not taken for it."""
    return str(adapter.adapter.get("base_model_name_or_path") or "") if (adapter.folder / TUNING).is_file() else ""
