"""What there is to choose from, as JSON: read from the plug-ins' signatures and the folders, never from a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.evaluation.presets import PRESETS
from backend.jobs.datasets import data_sets
from backend.jobs.grids import suggested
from backend.jobs.named_suites import PLAIN, find_suite, suite_names
from backend.jobs.planning import TUNING
from backend.registry import judges, methods, strategies, tasks
from backend.settings import Settings
from backend.tuning.knobs import TRAINING


def catalogue(settings: Settings) -> dict[str, Any]:
    """Methods, tasks, judges, presets, suites, strategies, what every training can be told, data sets, checkpoints.

    A method has name, summary, paper, needs, parameters, the knob a sweep turns, the values it tries of each number
    where nobody names any (grids), how many fine-tuned models it takes
    ([least, most], most null for any number) with the reason where one is too few, and the checkpoints it needs beside
    the pair; a task name, summary, suite, metric; a suite name, axis, n, judge and whether it is
    plain, for any model; a checkpoint name, role (unaligned, aligned, fine-tuned, merged),
    task and kind.
    """
    hidden = ("examples", "cases", "check", "survey")
    suites = [find_suite(settings, name) for name in suite_names(settings)]
    on_axis = {suite.name for suite in suites if suite.axis == "task"}
    return {
        "methods": [
            {key: value for key, value in plugin.to_json().items() if key not in hidden} | {"grids": suggested(plugin)}
            for plugin in methods
        ],
        "tasks": [
            {key: value for key, value in plugin.to_json().items() if key not in hidden}
            for plugin in tasks
            if plugin.facts["suite"] in on_axis
        ],
        "judges": [{key: value for key, value in plugin.to_json().items() if key not in hidden} for plugin in judges],
        "presets": [preset.to_json() for preset in PRESETS.values()],
        "suites": [
            {
                "name": suite.name,
                "axis": suite.axis,
                "n": len(suite.rows),
                "judge": suite.judge,
                "plain": suite.name.startswith(PLAIN),
            }
            for suite in suites
        ],
        "strategies": [plugin.to_json() for plugin in sorted(strategies, key=lambda one: one.name != "dualselect")],
        "training": [parameter.to_json() for parameter in TRAINING],
        "data": data_sets(settings),
        "checkpoints": checkpoints(settings),
    }


def checkpoints(settings: Settings) -> list[dict[str, Any]]:
    """The checkpoints at hand: the demo's, and every folder with a config under the models root."""
    found = [_entry(f"demo/{folder.name}", folder) for folder in _folders(settings.demo / "models")]
    return found + [_entry(folder.name, folder) for folder in _folders(settings.models_root)]


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    configs = ("config.json", "adapter_config.json")
    return sorted(folder for folder in root.iterdir() if any((folder / name).is_file() for name in configs))


def _entry(name: str, folder: Path) -> dict[str, Any]:
    adapter = (folder / "adapter_config.json").is_file()
    return {
        "name": name,
        "kind": "adapter" if adapter else "full",
        "role": _role(folder, adapter),
        "task": folder.name.split("-")[0] if name.startswith("demo/") and folder.name.endswith("-sft") else "",
    }


def _role(folder: Path, adapter: bool) -> str:
    if folder.name in ("aligned", "unaligned"):
        return folder.name
    if (folder / TUNING).is_file():
        return "fine-tuned"
    return "merged" if (folder / "recipe.json").is_file() else "fine-tuned" if adapter else "aligned"
