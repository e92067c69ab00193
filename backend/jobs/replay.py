"""A recipe.json made into the same merge again, and the proof that it was the same. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.checkpoints.hashes import file_hashes
from backend.checkpoints.resolve import is_folder_here
from backend.errors import RunFailed, UserError
from backend.jobs.calibration import calibrated_with
from backend.jobs.planning import DEVICES
from backend.jobs.sources import DONORS, open_spec
from backend.registry import EXTRA_INPUTS
from backend.settings import Settings
from backend.types import Checkpoint

FIELD = "recipe"


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a merged folder, checked for what a replay needs.

    Args:
        path: a recipe.json, or the folder it lies in.
    """
    path = path / "recipe.json" if path.is_dir() else path
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "Name a recipe.json."
        raise UserError(FIELD, problem=f"{path} cannot be read ({error.strerror})", remedy=remedy) from None
    except ValueError:
        raise UserError(FIELD, problem=f"{path.name} is no JSON", remedy="Name a recipe.json.") from None
    if not isinstance(recipe, dict):
        raise UserError(FIELD, problem=f"{path.name} is no recipe", remedy="Name the recipe.json of a merge.")
    shapes = {"method": str, "parameters": dict, "seed": int, "aligned": dict, "fine_tuned": list, "files": dict}
    for key, kind in shapes.items():
        if not isinstance(recipe.get(key), kind):
            raise UserError(FIELD, problem=f"{path.name} has no {key}", remedy="Name the recipe.json of a merge.")
    inputs = [recipe["aligned"], *recipe["fine_tuned"], *dict(recipe.get("extras") or {}).values()]
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in inputs):
        raise UserError(FIELD, problem=f"{path.name} names no checkpoints", remedy="Name the recipe.json of a merge.")
    if recipe.get("device", "cpu") not in DEVICES:
        raise UserError(FIELD, problem=f"{path.name} names no device we know", allowed=" or ".join(DEVICES))
    if recipe.get("donor", "aligned") not in DONORS:
        raise UserError(FIELD, problem=f"{path.name} names no donor we know", allowed=" or ".join(DONORS))
    return dict(recipe)


def request_of(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as the request of a merge.

    Args:
        recipe: as `read_recipe` gives it.
        given: where the checkpoints lie now, `aligned`, `tuned`, …; those not given are found by the recipe's names.
    """
    extras = dict(recipe.get("extras") or {})
    named = {"aligned": _name(recipe["aligned"]), "tuned": [_name(one) for one in recipe["fine_tuned"]]}
    named |= {role: _name(extras[role]) for role in EXTRA_INPUTS if role in extras}
    named |= {"calibration": recipe["calibration"]["name"]} if recipe.get("calibration") else {}
    named |= {key: value for key, value in given.items() if value} | {"donor": recipe.get("donor", "aligned")}
    named |= {"device": recipe["device"]} if recipe.get("device") else {}
    return named | {"method": recipe["method"], "parameters": recipe["parameters"], "seed": recipe["seed"]}


def check_names(settings: Settings, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse names of the recipe that mean nothing here: of a folder it knows the name, not where it lies.

    Args:
        recipe: as `read_recipe` gives it.
        given: as `request_of` takes it.
    """
    pairs = [("aligned", recipe["aligned"]), *(("tuned", one) for one in recipe["fine_tuned"])]
    pairs += dict(recipe.get("extras") or {}).items()
    for role, name in ((role, str(said["name"])) for role, said in pairs):
        if not given.get(role) and "/" not in name and not is_folder_here(name, settings):
            problem = f'the recipe names the folder "{name[:80]}", and none of that name is here'
            several = role == "tuned" and len(recipe["fine_tuned"]) > 1
            which = "the folders of all fine-tuned models, in the recipe's order," if several else "its folder"
            raise UserError(role, problem=problem, remedy=f"Name {which} with --{role}.")


def check_inputs(settings: Settings, recipe: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Refuse checkpoints whose weights are not those of the recipe."""
    found = open_spec(settings, spec)
    extras = dict(recipe.get("extras") or {})
    pairs: list[tuple[str, Checkpoint, Mapping[str, Any]]] = [("aligned", found.aligned, recipe["aligned"])]
    pairs += [("tuned", one, said) for one, said in zip(found.tuned, recipe["fine_tuned"], strict=False)]
    pairs += [(role, one, extras.get(role, {})) for role, one in found.extras.items()]
    for field, checkpoint, said in pairs:
        if file_hashes(checkpoint) != said.get("files"):
            problem = f"{checkpoint.name} holds other weights than the recipe's {str(said.get('name'))[:80]}"
            raise UserError(field, problem=problem, remedy="Name the folder of the original with this option.")
    said = dict(recipe.get("calibration") or {})
    if said and calibrated_with(settings, spec)["calibration"]["sha256"] != said.get("sha256"):
        problem = f"{spec['calibration']} holds other chats than the recipe's {str(said.get('name'))[:80]}"
        raise UserError("calibration", problem=problem, remedy="Name the original file with this option.")


def check_result(recipe: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Say so where the new files are not the recipe's, byte for byte, and what was different."""
    differing = [name for name, digest in recipe["files"].items() if made["files"].get(name) != digest]
    if not differing:
        return
    versions = [dict(one.get("versions") or {}) for one in (recipe, made)]
    others = sorted({name for one in versions for name in one} - {"torch"})
    named = ["torch", *(name for name in others if versions[0].get(name) != versions[1].get(name))]
    then, now = (_made_with(one, named) for one in (recipe, made))
    cause = f"made with {then}, now {now}"
    if then == now:  # what was measured on one processor rounds otherwise on another, and no recipe knows which it was
        cause = f"versions and device ({now}) are the same, so another processor or an older studio made it"
    raise RunFailed(f"{differing[0]} is not the recipe's byte for byte: {cause}. The folder was kept.")


def _made_with(recipe: Mapping[str, Any], names: Sequence[str]) -> str:
    versions = dict(recipe.get("versions") or {})
    said = ", ".join(f"{name} {versions.get(name, 'unknown')}" for name in names)
    return f"{said} on {recipe.get('device', 'cpu')}"


def _name(said: Mapping[str, Any]) -> str:
    revision = str(said.get("revision") or "")
    return f"{said['name']}@{revision}" if revision else str(said["name"])
