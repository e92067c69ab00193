"""Write a merge to a Hugging Face folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from backend.api import Studio
from backend.checkpoints.resolve import resolve
from backend.commands.common import (
    add_dry_run,
    add_pair,
    checkpoints_of,
    print_json,
    print_line,
    see_through,
    settings_of,
)
from backend.errors import UserError
from backend.jobs import replay
from backend.registry import EXTRA_INPUTS
from backend.settings import Settings
from backend.types import Plan, Run, straight_words

SAID_BY = {
    "recipe": ("from_mergekit", "method", "set", "lam", "seed", "donor"),
    "from_mergekit": ("tuned", *EXTRA_INPUTS, "calibration", "method", "set", "lam", "donor"),
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_pair(parser, required=False)
    parser.add_argument("--recipe", help="the recipe.json of a merge, to make it again byte for byte")
    parser.add_argument("--from-mergekit", metavar="YAML", help="take method, models and knobs from mergekit's file")
    parser.add_argument("--to-mergekit", metavar="YAML", help="write mergekit's file for this merge instead of merging")
    parser.add_argument("--lambda", dest="lam", help="0 is aligned, 1 fine-tuned")
    parser.add_argument("--out", help="the new folder; default: under the studio's home")
    parser.add_argument("--seed", help="of methods that draw at random; default: 0")
    add_dry_run(parser)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from backend.merging.mergekit import from_mergekit, to_mergekit

    for file in SAID_BY:
        if getattr(options, file):
            _refuse_beside(file, options)
    studio = Studio(settings)
    recipe = replay.read_recipe(Path(options.recipe)) if options.recipe else None
    checkpoints = checkpoints_of(options) | {"aligned": options.aligned}
    if recipe:
        replay.check_names(settings, recipe, checkpoints)
        request = replay.request_of(recipe, checkpoints)
    elif options.from_mergekit:
        request = from_mergekit(
            _read_text(options.from_mergekit),
            options.aligned or "",
            find=lambda name: resolve(name, settings, field="from-mergekit"),
        )
    else:
        request = checkpoints | {"method": options.method or "linear", "parameters": _parameters(options)}
    request = {"seed": options.seed or "0"} | request | {"out": options.out}
    if options.to_mergekit:
        plan = studio.plan("merge", request)
        text = to_mergekit(
            plan.spec, adapters=_adapters(plan), aligned=resolve(plan.spec["aligned"], settings, field="aligned")
        )
        Path(options.to_mergekit).write_text(text, encoding="utf-8")
        return print_line(f"{options.to_mergekit} is written; nothing was merged.")
    if recipe:
        replay.check_inputs(settings, recipe, studio.plan("merge", request).spec)
    return see_through(studio, "merge", request, options, lambda run: _tell(run, recipe, options.json))


def _tell(run: Run, recipe: dict[str, Any] | None, as_json: bool) -> int:
    result = run.result or {}
    if recipe:
        replay.check_result(recipe, result["recipe"])
    if as_json:
        return print_json({"run": run.id, "folder": result["folder"], "recipe": result["recipe"]})
    straight = straight_words(result["recipe"])
    return print_line(f"{result['folder']} is ready" + (f", with {straight}." if straight else "."))


def _parameters(options: argparse.Namespace) -> dict[str, str]:
    """The knobs of `--set` and `--lambda`, λ said once."""
    given = settings_of(options.set)
    if options.lam is None:
        return given
    if "lam" in given:
        both = f"got --set lam={given['lam']} and --lambda {options.lam}"
        raise UserError("lam", problem=both, remedy="Say λ once.")
    return given | {"lam": options.lam}


def _adapters(plan: Plan) -> list[str]:
    """Which of the fine-tuned names of a planned merge are adapters."""
    names, said = plan.spec["tuned"], plan.recipe["tuned"]
    pairs = zip(names, said, strict=True) if isinstance(names, list) else [(names, said)]
    return [name for name, one in pairs if one["kind"] == "adapter"]


def _refuse_beside(file: str, options: argparse.Namespace) -> None:
    """What a file says is not said again; where the models of a recipe lie now, it does not say."""
    given = [name for name in SAID_BY[file] if getattr(options, name) not in (None, [])]
    if given:
        words = " and ".join(f"--{'lambda' if name == 'lam' else name.replace('_', '-')}" for name in given)
        raise UserError(file.replace("_", "-"), problem="the file says that itself", remedy=f"Leave out {words}.")


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError("from-mergekit", problem=f"{path} cannot be read ({reason})") from None
