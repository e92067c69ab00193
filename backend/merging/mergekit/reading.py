"""A mergekit file as the request of a merge, or the reason why no merge here is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.checkpoints.config import layer_count
from backend.errors import UserError, unknown_name
from backend.merging.by_tensor import curves_of, differs_by_tensor, number_everywhere, until_all, varies
from backend.merging.mergekit.beside import Find, check_format, check_template, donor_of
from backend.merging.mergekit.gradients import stacks_of
from backend.merging.mergekit.knobs import WALKS, along_arcs, check_known, knobs_of, layerwise_of
from backend.merging.mergekit.layout import read_table, sliced_models, whole_models
from backend.merging.mergekit.words import FIELD, SHARED
from backend.types import Checkpoint

FROM_BASE = ("nuslerp", "multislerp")  # mergekit's have a form without a base, these do not


def from_mergekit(
    text: str,
    aligned: str = "",
    *,
    find: Find = lambda name: None,
) -> dict[str, Any]:
    """A mergekit configuration as the request of a merge: method, aligned, tuned, parameters.

    Args:
        text: the YAML.
        aligned: which of its models is the aligned one, where the file has no `base_model`.
        find: the checkpoint of this name. Where it gives None, nothing that the file leaves to its models is compared,
            and a file whose meaning depends on them (a slice, weights by depth or tensor) is refused.

    Raises:
        UserError: no such configuration, or one that means something that a merge here cannot.

    >>> from_mergekit('''
    ... merge_method: slerp
    ... base_model: org/aligned
    ... models: [{model: org/aligned}, {model: org/tuned}]
    ... parameters: {t: 0.3}
    ... ''')
    {'method': 'slerp', 'aligned': 'org/aligned', 'tuned': ['org/tuned'], 'parameters': {'lam': 0.3}}
    """
    table = read_table(text)
    method = str(table.get("merge_method"))
    if method not in SHARED:
        raise unknown_name(f"{FIELD} merge_method", method[:40], SHARED)
    named = str(table.get("base_model") or "")
    sliced = table.get("slices") is not None
    entries = sliced_models(table, lambda name: _layers(find(name))) if sliced else whole_models(table)
    common = dict(table.get("parameters") or {})
    for settings in (common, *(settings for _, settings in entries)):
        check_known(method, settings)
    listed = [name for name, _ in entries]
    base = _base(method, named, aligned, listed, find)
    if method == "karcher" and base not in listed and (sliced or not named):
        problem = "its karcher averages the models that it lists, here the aligned model is always one of them"
        remedy = "Name one of the listed models with --aligned, or list the aligned model too."
        raise UserError(FIELD, problem=problem, remedy=remedy)
    if method == "linear" and named and base not in listed and not sliced and "weight" in common:
        entries.append((base, {}))  # mergekit merges a base that is not listed, with the weight of the whole file
    own = [(name, _over(common, settings)) for name, settings in entries]
    tuned = [(name, settings) for name, settings in own if name != base]
    before = [settings for name, settings in own if name == base]
    summed = method == "task_arithmetic" and len(tuned) > 1
    if method in WALKS and not summed and any(_differs(one.get("weight", 1.0)) for _, one in own):
        parameters = layerwise_of(method, common, before, tuned, _tensors(find(base)))
        method = "layerwise"
    elif method == "slerp" and _differs(common.get("t")):
        method, parameters = "slerp_curves", along_arcs(common["t"], _tensors(find(base)))
    else:
        parameters = knobs_of(method, common, before, tuned)
        _check_depth(parameters, _tensors(find(base)))
    given = [name for name, _ in tuned]
    names = [name.removeprefix(f"{base}+") for name in given]
    if any("+" in name for name in names):
        raise UserError(FIELD, problem="an adapter stands on another model than the base", remedy="Merge it first.")
    request = {"method": method, "aligned": base, "tuned": names, "parameters": parameters}
    check_format(table, base, [*names, *([base] if named or base in listed else [])], find)
    donor = donor_of(table, base, given, find)
    template_of = given[0] if donor == "fine_tuned" else base
    check_template(table.get("chat_template"), template_of, {*given, *([base] if named else []), *listed}, find)
    return request | ({"donor": donor} if donor == "fine_tuned" else {})


def _base(method: str, named: str, aligned: str, listed: Sequence[str], find: Find) -> str:
    """The aligned model as the file names it; refused where none is said, or two, or any makes another merge of it."""
    if method in FROM_BASE and not named:
        problem = f"without base_model mergekit's {method} goes between weights, here it goes between what fine-tuning "
        remedy = (
            "Name the model that they were fine-tuned from as base_model, or use slerp from one model to the other."
        )
        raise UserError(FIELD, problem=f"{problem}changed", remedy=remedy)
    if not named and not aligned:
        remedy = "Say which model is the aligned one with --aligned."
        raise UserError("aligned", problem="the configuration has no base_model", remedy=remedy)
    if named and aligned and not _same(named, aligned, find):
        problem = f"the configuration has base_model {named[:80]}, and {aligned[:80]} was given"
        raise UserError("aligned", problem=problem, remedy="Leave it out, or change base_model.")
    if named or aligned in listed:
        return named or aligned
    return next((name for name in listed if "+" not in name and _same(name, aligned, find)), aligned)


def _same(one: str, other: str, find: Find) -> bool:
    """Whether two names are of one model, as far as is known."""
    if one == other:
        return True
    first, second = find(one), find(other)
    return first is not None and second is not None and first.folder == second.folder


def _over(common: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings before those of the whole file, which count for the tensors that its filters do not find."""
    return {
        **common,
        **{key: until_all(value, common[key]) if key in common else value for key, value in settings.items()},
    }


def _check_depth(parameters: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse a curve over the depth of a model with two stacks of layers, which mergekit draws over each."""
    curves = [
        curve for value in parameters.values() if differs_by_tensor(value) for one in value for curve in curves_of(one)
    ]
    if any(len(curve) > 1 for curve in curves) and stacks_of(names) > 1:
        problem = "mergekit draws a curve over each of the two stacks of layers of this model"
        raise UserError(FIELD, problem=problem, allowed="one number for each model, or filters by name")


def _layers(checkpoint: Checkpoint | None) -> int | None:
    return None if checkpoint is None else layer_count(checkpoint.config)


def _tensors(checkpoint: Checkpoint | None) -> list[str]:
    return [] if checkpoint is None else list(checkpoint.tensors)


def _differs(setting: Any) -> bool:
    """Whether a setting is another number for another tensor."""
    return varies(setting) and number_everywhere(setting) is None
