"""A fine-tuning request, checked and estimated before it is queued. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backend.checkpoints.config import check_model_type
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.evaluation.runner import plugin_hash
from backend.jobs import named_suites, planning
from backend.jobs.chat_files import chat_rows, left_out
from backend.jobs.datafile import DataFile
from backend.jobs.datasets import DEMO, find_data, recommended, recommended_suites
from backend.jobs.evaluated import held_out, measured_on
from backend.jobs.forecast import LIBRARIES, check_room, flops_per_second, forecast
from backend.jobs.mixes import mix_warnings
from backend.jobs.sources import fingerprint, pinned, table_of, text_of
from backend.jobs.targets import check_targets
from backend.params import check_parameters
from backend.registry import strategies, tasks
from backend.settings import Settings, refuse_in_public
from backend.tuning.balance import balance_warnings
from backend.tuning.knobs import check_training
from backend.tuning.overlap import Apart, keep_apart
from backend.tuning.rows import Row, counted, remarks
from backend.tuning.rules import Rules
from backend.tuning.strategy import Strategy
from backend.types import Checkpoint, Estimate, Plan

PRESET = "quick"
TOKENS_PER_ROW = 64
MOST_PROBES_APART = 10_000
MOST_DIGITS = 20
ADAPTER = "Name the full checkpoint under it, or write both into one folder first: a merge with λ = 1."
DEMO_REFERENCES = "demo/references"


def plan_tune(settings: Settings, request: Mapping[str, Any]) -> Plan:
    """See `backend.api.Studio.plan`; raises `UserError` naming the field."""
    strategy = strategies.get(text_of(request, "strategy", "dualselect"))
    model = resolve(text_of(request, "model"), settings, field="model")
    if model.kind == "adapter":
        raise UserError("model", problem=f"{model.name} is an adapter", remedy=ADAPTER)
    check_model_type(model.config, field="model")
    task_data = find_data(settings, text_of(request, "task_data"), "task_data")
    references = _references(settings, request, task_data.name, needed="references" in strategy.facts["needs"])
    rows = _read({"task_data": task_data, "references": references})
    spec: dict[str, Any] = {
        "model": pinned(model),
        "task_data": task_data.name,
        "references": references.name if references else "",
        "strategy": strategy.name,
        "parameters": check_parameters(strategy.name, strategy.parameters, table_of(request, "parameters")),
        "training": check_training(
            recommended(settings, task_data.name) | table_of(request, "training"), parameters=model.parameters
        ),
        "probe_every": _whole(request, "probe_every", 0, MOST_PROBES_APART),
        "out": _out(settings, request),
    } | named_suites.measuring(
        settings,
        {
            **request,
            "task": _task(settings, request, task_data),
            "preset": request.get("preset") or PRESET,
            "suites": request.get("suites") or recommended_suites(settings, task_data.name),
        },
    )
    hooks = strategy.function(**spec["parameters"])
    _check_together(spec["parameters"], spec["training"], hooks, model)
    suites, _ = measured_on(settings, spec)
    recipe = {
        "kind": "tune",
        **{key: value for key, value in spec.items() if key not in ("out", "probe_every")},
        "model": fingerprint(model),
        "task_data": task_data.to_json(),
        "references": references.to_json() if references else None,
        "strategy": {"name": strategy.name, "paper": strategy.facts["paper"], "source": plugin_hash(strategy)},
        **named_suites.measured_with(suites, spec),
    }
    estimate = _estimate(settings, model, spec["training"], hooks, sum(len(suite.rows) for suite in suites))
    check_room(settings, estimate)
    apart = keep_apart(rows.task, rows.references, held_out(settings, spec))
    _check_left(apart, rows, spec)
    warnings = (
        *rows.warnings,
        *apart.sentences,
        *balance_warnings(row.kind for row in apart.references),
        *hooks.advice(spec["training"]),
    )
    return Plan("tune", spec, recipe, planning.recipe_hash(recipe), estimate, warnings)


class _Rows(NamedTuple):
    """What both files hold, and a sentence for each file about what is left out of it or in it twice."""

    task: Sequence[Row]
    references: Sequence[Row]
    warnings: list[str]


def _read(files: Mapping[str, DataFile | None]) -> _Rows:
    found: dict[str, Sequence[Row]] = dict.fromkeys(files, ())
    warnings = []
    for field, file in files.items():
        if file:
            found[field], skipped = chat_rows(file, field=field)
            if skipped:
                warnings.append(f"Left out of {file.path.name}: {left_out(skipped)}.")
            warnings += [*mix_warnings(file), *remarks(found[field], field.replace("_", " "))]
    if unanswered := sum(not row.is_answered for row in found["references"]):
        told = f"{counted(unanswered)} of the references {'has' if unanswered == 1 else 'have'} no answer"
        warnings.append(f"{told}: the start model answers before training.")
    return _Rows(found["task_data"], found["references"], warnings)


def _check_left(apart: Apart, rows: _Rows, spec: Mapping[str, Any]) -> None:
    """Refuse now what would end the run after the model was loaded."""
    batch = spec["training"]["batch"]
    if len(apart.task) < batch:
        problem = f"{len(apart.task)} of {len(rows.task)} rows are left, fewer than one batch of {batch}"
        remedy = "Take a smaller batch or more rows; prompts of the suites are left out."
        raise UserError("task_data", problem=problem, remedy=remedy)
    if rows.references and not apart.references:
        problem = f"all {len(rows.references)} stand in the task data or in a suite as well"
        raise UserError("references", problem=problem, remedy="Name rows of their own.")


def _check_together(
    parameters: Mapping[str, Any], training: Mapping[str, Any], hooks: Strategy, model: Checkpoint
) -> None:
    """Refuse settings of the strategy and of the training that do not go together, and layers that are not there."""
    rules = getattr(hooks, "rules", None)
    warmup = rules.warmup if isinstance(rules, Rules) else -1  # as a preset may have set it
    if warmup >= training["steps"]:
        allowed = f"less than the {training['steps']} steps"
        by_preset = parameters.get("warmup", -1) != warmup
        remedy = "Train longer, or set warmup." if by_preset else "-1 chooses a twentieth."
        problem = f"the preset {parameters['preset']} sets it to {warmup}" if by_preset else None
        raise UserError("warmup", got=warmup, problem=problem, allowed=allowed, remedy=remedy)
    if training["full"] and parameters.get("scores") == "sample":
        allowed = "auto, gate or single where all weights are trained (full)"
        raise UserError("scores", got="sample", allowed=allowed, remedy="sample is for adapters.")
    if not training["full"]:
        check_targets(training["targets"], model)


def _references(settings: Settings, request: Mapping[str, Any], task_data: str, *, needed: bool) -> DataFile | None:
    name = str(request.get("references") or "").strip()
    if not name and needed and task_data.startswith(DEMO):
        name = DEMO_REFERENCES
    if not name and needed:
        remedy = "Name a file of good answers: refusals to harmful prompts and helpful answers to benign ones."
        raise UserError("references", problem="this strategy needs them", remedy=remedy)
    return find_data(settings, name, "references") if name else None


def _task(settings: Settings, request: Mapping[str, Any], task_data: DataFile) -> str:
    """The task that is measured: the one asked for, or that of a demo set; empty for none."""
    asked = request.get("task")
    if asked is not None:
        return str(asked)
    guess = task_data.name.removeprefix(DEMO).split("-")[0] if task_data.name.startswith(DEMO) else ""
    known = named_suites.suite_names(settings)
    return guess if any(one.name == guess and one.facts["suite"] in known for one in tasks) else ""


def _out(settings: Settings, request: Mapping[str, Any]) -> str:
    out = str(request.get("out") or "").strip()
    if not out:
        return ""
    refuse_in_public(settings, "out", out)
    target = Path(out).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("out", problem=f"{target} exists and is not empty", remedy="Name a new folder.")
    return str(target)


def _whole(request: Mapping[str, Any], field: str, default: int, most: int) -> int:
    value = request.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return default
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < MOST_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        allowed = f"a whole number from 0 to {most} steps"
        raise UserError(field, got=value, allowed=allowed, remedy="0 measures only at the end.")
    return value


def _estimate(
    settings: Settings, model: Checkpoint, training: Mapping[str, Any], strategy: Strategy, prompts: int
) -> Estimate:
    """Six multiply-adds per weight and token, four with an adapter, times what the strategy costs; and the measurement.

    Without an adapter to switch off, a strategy that needs the start model keeps a copy of it.
    """
    per_row = TOKENS_PER_ROW * (6 if training["full"] else 4) * model.parameters
    work = training["steps"] * training["batch"] * per_row * strategy.effort(training["batch"])
    measuring = forecast(settings, model, points=1, prompts=prompts, memory=0)
    whole = 24 if "start_model" in strategy.needs else 20
    memory = model.parameters * (whole if training["full"] else 5) + LIBRARIES
    disk = model.bytes * (5 if training["full"] else 1) // (1 if training["full"] else 10)
    return Estimate(work / flops_per_second(settings) + measuring.seconds, memory, disk + measuring.disk)
