"""Write a merge to a Hugging Face folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from backend.api import Studio
from backend.checkpoints.resolve import resolve, short_name
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
from backend.jobs.sources import open_spec, pinned
from backend.registry import EXTRA_INPUTS
from backend.settings import Settings
from backend.storage.files import write_text
from backend.types import Checkpoint, Run, straight_words

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
    for file in SAID_BY:
        if getattr(options, file):
            _refuse_beside(file, options)
    if options.to_mergekit:
        _refuse_target(Path(options.to_mergekit), options)
    studio = Studio(settings)
    recipe = replay.read_recipe(Path(options.recipe)) if options.recipe else None
    request = {"seed": options.seed or "0"} | _request(settings, options, recipe) | {"out": options.out}
    if options.to_mergekit:
        text = _mergekit_of(settings, studio.plan("merge", request).spec)
        return _write_mergekit(Path(options.to_mergekit), text, options.json)
    if recipe:
        replay.check_inputs(settings, recipe, studio.plan("merge", request).spec)
    return see_through(studio, "merge", request, options, lambda run: _tell(run, recipe, options.json))


def _request(settings: Settings, options: argparse.Namespace, recipe: dict[str, Any] | None) -> dict[str, Any]:
    """What is to be merged, as a recipe, a mergekit file or the options say it."""
    checkpoints = checkpoints_of(options) | {"aligned": options.aligned}
    if recipe:
        replay.check_names(settings, recipe, checkpoints)
        return replay.request_of(recipe, checkpoints)
    if options.from_mergekit:
        return _read_mergekit(settings, options)
    return checkpoints | {"method": options.method or "linear", "parameters": _parameters(options)}


def _read_mergekit(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """A mergekit file as a request; paths to what the studio has a name for become that name."""
    from backend.merging.mergekit import from_mergekit

    text = _read_text(options.from_mergekit)
    find = partial(resolve, settings=settings, field="from-mergekit")
    request = from_mergekit(text, options.aligned or "", find=find)
    tuned = [short_name(name, settings) for name in request["tuned"]]
    return request | {"aligned": short_name(request["aligned"], settings), "tuned": tuned}


def _refuse_target(path: Path, options: argparse.Namespace) -> None:
    """Where no mergekit file can be written, nothing is planned, and one that is there is kept."""
    if options.out or options.dry_run:
        given = "--out" if options.out else "--dry-run"
        raise UserError("to-mergekit", problem="it writes a file and merges nothing", remedy=f"Leave out {given}.")
    if os.path.exists(path):  # of a path too long to be one it says no, where Path's raises
        raise UserError("to-mergekit", problem=f"{path} exists", remedy="Name a new file, or move this one away.")
    folder = path.absolute().parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        problem = f"{folder} is no folder that can be written to"
        raise UserError("to-mergekit", problem=problem, remedy="Name a file in another folder, or make this one.")


def _write_mergekit(path: Path, text: str, as_json: bool) -> int:
    try:
        write_text(path, text)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise UserError("to-mergekit", problem=problem, remedy="Name another file.") from None
    if as_json:
        return print_json({"mergekit": str(path)})
    return print_line(f"{path} is written; nothing was merged.")


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


def _mergekit_of(settings: Settings, spec: Mapping[str, Any]) -> str:
    """mergekit's file of a planned merge. It knows Hub ids and paths, and none of the studio's names."""
    from backend.merging.mergekit import to_mergekit

    found = open_spec(settings, spec)
    adapters = [_place(one) for one in found.tuned if one.kind == "adapter"]
    named = {**spec, "aligned": _place(found.aligned), "tuned": [_place(one) for one in found.tuned]}
    return to_mergekit(named, adapters=adapters, aligned=found.aligned)


def _place(checkpoint: Checkpoint) -> str:
    if checkpoint.revision:
        return pinned(checkpoint)
    place = str(checkpoint.folder)
    if "+" in place or "@" in place:
        problem = f"mergekit takes + and @ in {place} for an adapter and a revision"
        raise UserError("to-mergekit", problem=problem, remedy="Rename the folder.")
    return place


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
