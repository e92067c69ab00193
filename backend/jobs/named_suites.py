"""The suites that a request names: the micro-world's, the plain ones for any model, or a person's file. No torch.

The plain suites are written for models that speak English; only keyword rules judge them, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import UserError, unknown_name
from backend.evaluation.presets import preset as find_preset
from backend.evaluation.runner import plugin_hash
from backend.evaluation.suites import Suite, load_suite
from backend.jobs.sources import seed_of, text_of
from backend.registry import judges, tasks
from backend.settings import ASSETS, Settings, refuse_in_public

SAFETY_SUITES = ("safety", "over_refusal", "helpfulness")
PLAIN = "plain_"


def chosen_suites(settings: Settings, spec: Mapping[str, Any]) -> list[Suite]:
    """The suites of a checked sweep or evaluation, cut to its preset."""
    chosen = find_preset(spec["preset"])
    suites = [find_suite(settings, name) for name in spec["suites"]]
    if spec["task"]:
        name = task_suite(spec["task"], spec["suites"])
        suites.append(replace(find_suite(settings, name), scorer=spec["task"]))
    seed = spec.get("prompt_seed", spec["seed"])  # trainings of several seeds are measured on the same prompts
    return [suite.first(chosen.prompts[suite.axis], seed) for suite in suites]


def measuring(settings: Settings, request: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec that says what is measured: task, preset, suites and seed; raises `UserError`."""
    task = text_of(request, "task", "")
    suites = request.get("suites") or SAFETY_SUITES
    names = [part.strip() for part in suites.split(",")] if isinstance(suites, str) else [str(one) for one in suites]
    known = suite_names(settings)
    if task and task_suite(task, names) not in known:
        raise unknown_name("task", task, [one.name for one in tasks if task_suite(one.name, names) in known])
    return {
        "task": task,
        "preset": find_preset(text_of(request, "preset", "quick")).name,
        "suites": [_lasting(settings, name) for name in names],
        "seed": seed_of(request),
    }


def search_suites(settings: Settings, spec: Mapping[str, Any]) -> tuple[list[Suite], list[Suite]]:
    """The suites that a search chooses on and those that it is judged by: no prompt is in both.

    A suite of the demo has validation prompts of its own; any other is cut in two halves, by the seed.
    """
    chosen = find_preset(spec["preset"])
    named = [(name, find_suite(settings, name)) for name in spec["suites"]]
    if spec["task"]:
        name = task_suite(spec["task"], spec["suites"])
        named.append((name, replace(find_suite(settings, name), scorer=spec["task"])))
    validation, held_out = [], []
    for name, suite in named:
        other = settings.demo / "suites" / "validation" / f"{name}.jsonl"
        if name in suite_names(settings) and other.is_file():
            first, second = replace(load_suite(other), scorer=suite.scorer), suite
        else:
            first, second = suite.halves(spec["seed"])
        n = chosen.prompts[suite.axis]
        validation.append(first.first(n, spec["seed"]))
        held_out.append(second.first(n, spec["seed"]))
    return validation, held_out


def validation_suites(settings: Settings, spec: Mapping[str, Any], prompts: int) -> list[Suite]:
    """A few prompts of the validation twin of each suite; settings are never chosen by looking at the test suites."""
    names = [name for name in spec["suites"] if name != "helpfulness"]
    scorer = tasks.get(spec["task"]) if spec["task"] else None
    named = [(name, "") for name in names] + ([(scorer.facts["suite"], scorer.name)] if scorer else [])
    found = []
    for name, by in named:
        path = settings.demo / "suites" / "validation" / f"{name}.jsonl"
        if path.is_file():
            suite = load_suite(path)
            found.append(replace(suite, scorer=by or suite.scorer).first(prompts, spec["seed"]))
    return found


def suite_names(settings: Settings) -> list[str]:
    """The suites that came with the studio: the micro-world's, then the plain ones."""
    return [path.stem for path in _files(settings)]


def task_suite(task: str, suites: Sequence[str]) -> str:
    """The suite of a task, from the set that the other suites are of.

    >>> task_suite("code", ["safety"]), task_suite("code", ["plain_safety", "plain_over_refusal"])
    ('code', 'plain_code')
    """
    suite = str(tasks.get(task).facts["suite"])
    return PLAIN + suite if any(name.startswith(PLAIN) for name in suites) else suite


def find_suite(settings: Settings, name: str) -> Suite:
    """The suite of this name, or the one in this file.

    Raises:
        UserError: neither, or a file with broken rows.
    """
    for path in _files(settings):
        if path.stem == name:
            return load_suite(path)
    if name.endswith(".jsonl") or "/" in name:
        if settings.demo / "suites" not in Path(name).parents or ".." in Path(name).parts:
            refuse_in_public(settings, "suites", name)
        try:
            path = Path(name).expanduser()
        except RuntimeError:  # `~` of somebody unknown
            raise UserError("suites", got=name[:200], allowed="a .jsonl file", remedy="Check the path.") from None
        return load_suite(path, axis="safety")
    raise unknown_name("suite", name, suite_names(settings))


def _lasting(settings: Settings, name: str) -> str:
    """The name that means the same suite from any directory; a public page takes no paths, and tells none."""
    is_suite = name in suite_names(settings) or not (name.endswith(".jsonl") or "/" in name)
    return name if is_suite or settings.public or name.startswith("~") else str(Path(name).absolute())


def _files(settings: Settings) -> list[Path]:
    return [path for folder in (settings.demo, ASSETS) for path in sorted((folder / "suites").glob("*.jsonl"))]


def measured_with(suites: Sequence[Suite], spec: Mapping[str, Any]) -> dict[str, Any]:
    """What scores come from, for a recipe: prompts, judges, scorers, decoding."""
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
