"""The settings of a mergekit file as the knobs of a method here, or a refusal where none says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.errors import UserError, unknown_name
from backend.merging.by_tensor import (
    curves_of,
    divided,
    number_at,
    number_everywhere,
    says_all,
    until_all,
    varies,
)
from backend.merging.mergekit.gradients import arc_knobs, layerwise_knobs
from backend.merging.mergekit.words import FAMILY, FIELD, NORMALIZED, PLAIN, RESCALED

IGNORED = ("int8_mask", "eps")  # they change memory and the last bits, not what is meant
OWN = {
    **dict.fromkeys(FAMILY, ("weight", "normalize", "rescale", "lambda")),
    "linear": ("weight", "normalize"),
    "slerp": ("t",),
    "nuslerp": ("weight", "nuslerp_flatten", "nuslerp_row_wise"),
    "multislerp": ("weight", "normalize_weights"),
}
ON, OFF = ("true", "yes", "on", "y", "t", "1", "1.0"), ("false", "no", "off", "n", "f", "0", "0.0")
LARGEST_WEIGHT = 2  # of the knob `weights`
WALKS = ("linear", "task_arithmetic")  # with one fine-tuned model a straight line for each tensor


def check_known(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse a setting that mergekit's method of this name does not have."""
    known = {*OWN.get(method, PLAIN.get(method, {})), *(_kept(method) if method in FAMILY else ()), *IGNORED}
    for key in settings:
        if key not in known:
            raise unknown_name(f"{FIELD} parameter of {method}", str(key)[:40], known)


def knobs_of(
    method: str, common: Mapping[str, Any], before: Sequence[Mapping[str, Any]], tuned: Sequence[Any]
) -> dict[str, Any]:
    """The knobs with which the method of the same name does what the file says.

    Args:
        common: the settings of the whole file.
        before: those of the aligned model, where it is among the models.
        tuned: (name, settings) of the others.
    """
    settings = [one for _, one in tuned]
    if method in FAMILY:
        return _family(method, common, settings)
    if method == "slerp":
        return {"lam": _number(common, "t", None)}
    weights = [_number(one, "weight", 1.0) for one in settings]
    if method == "linear":
        start = sum(_number(one, "weight", 1.0) for one in before)
        total = start + sum(weights)
        if not total or (not _flag(common, "normalize", True) and abs(total - 1) > 1e-9):
            problem = f"the weights sum to {total:g}"
            raise UserError(FIELD, problem=problem, allowed="1, or normalize true and a sum above 0")
        return {"lam": sum(weights) / total} | ({"weights": _scaled(weights)} if len(weights) > 1 else {})
    if method == "nuslerp":
        flat, columns = _flag(common, "nuslerp_flatten", True), _flag(common, "nuslerp_row_wise", False)
        share = weights[1] / sum(weights) if len(weights) == 2 and abs(sum(weights)) >= 1e-6 else 0.5
        return {"lam": 1.0, "t": share, "axis": "whole" if flat else "columns" if columns else "rows"}
    if method == "multislerp":
        if not _flag(common, "normalize_weights", True):
            raise UserError(FIELD, problem="normalize_weights is off", allowed="on", remedy="Take it out.")
        return {"lam": 1.0, "weights": _scaled(weights)}
    source = {**common, **(settings[0] if method == "passthrough" and settings else {})}
    given = {ours: source[theirs] for theirs, ours in PLAIN[method].items() if source.get(theirs) is not None}
    return given if method in ("nearswap", "passthrough") else {"lam": 1.0, **given}


def layerwise_of(
    method: str,
    common: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]],
    tuned: Sequence[tuple[str, Mapping[str, Any]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """The knobs of `layerwise` that give every tensor the weight that the file gives it."""
    if len(tuned) != 1:
        problem = f"weight of {method} differs by depth or by tensor, with {len(tuned)} fine-tuned models"
        raise UserError(FIELD, problem=problem, allowed="one number for each", remedy="task_arithmetic takes others.")
    if _flag(common, "rescale", False):
        raise UserError(FIELD, problem=f"{method} with rescale has no counterpart here", remedy="Set rescale false.")
    end, starts = tuned[0][1].get("weight", 1), [one.get("weight", 1) for one in before]
    normal = _flag(common, "normalize", method == "linear")
    lam = _number(common, "lambda", 1.0)

    def share(name: str, depth: float) -> float | None:
        far = number_at(end, name, depth)
        near = [number_at(one, name, depth) for one in starts]
        if far is None or any(one is None for one in near):
            return None
        if method == "task_arithmetic":
            return lam * (float(far != 0) if normal else far)
        total = far + sum(one or 0.0 for one in near)
        return far / total if normal and total else far if abs(total - 1) < 1e-9 else None

    knobs = layerwise_knobs(share, [curve for one in (end, *starts) for curve in curves_of(one)], names)
    if knobs is None:
        problem = f"weight of {method} differs by depth or by tensor in a way that no merge here does"
        allowed = "what layerwise has: one curve over the layers, a share for each of attention, MLP, norms with the "
        allowed += "final one, embedding and head"
        raise UserError(FIELD, problem=problem, allowed=allowed, remedy="Use layerwise with a curve near it.")
    return knobs


def along_arcs(setting: Any, names: Sequence[str]) -> dict[str, Any]:
    """The knobs of `slerp_curves` that go as far for every tensor as slerp's `t` says there."""
    knobs = arc_knobs(setting, names)
    if knobs is None:
        problem = "t differs by depth or by tensor in a way that no merge here does"
        allowed = "what slerp_curves has: a curve over the layers for attention, for the MLPs and for the rest"
        raise UserError(FIELD, problem=problem, allowed=allowed, remedy="Use slerp_curves with curves near it.")
    return knobs


def _family(method: str, common: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    normalize = _flag(common, "normalize", method in NORMALIZED)
    lam = _number(common, "lambda", 1.0)
    weights = [_setting(one, "weight", 1.0) for one in settings]
    found: dict[str, Any] = {}
    for key, default in _kept(method).items():
        values = [_setting(one, key, default) if key == "density" else _number(one, key, default) for one in settings]
        if all(value == values[0] for value in values) and not varies(values[0]):
            found[key] = values[0]
        elif key == "density":
            found["densities"] = values
        else:
            problem = f"{key} differs between the models"
            raise UserError(FIELD, problem=problem, remedy="Use one value for all.")
    rescale = _flag(common, "rescale", method in RESCALED)
    if method in RESCALED:
        found["rescale"] = "l1" if rescale else "none"
    elif rescale:
        raise UserError(FIELD, problem=f"{method} with rescale has no counterpart here", remedy="Set rescale false.")
    if len(weights) == 1 and not any(varies(one) for one in (*weights, *found.get("densities", ()))):
        # Dividing by the weight takes it out again.
        return {"lam": lam * (float(weights[0] != 0) if normalize else weights[0]), **found}
    weights = _scaled(weights) if normalize else weights
    return {"lam": lam, "weights": weights, "normalize": "weights" if normalize else "off", **found}


def _kept(method: str) -> dict[str, float]:
    """The settings of one of the family's methods that say which entries are kept, with mergekit's defaults."""
    if method == "task_arithmetic":
        return {}
    known = {"density": 1.0}
    known |= {"epsilon": 0.15} if method.startswith("della") else {}
    return known | ({"gamma": 0.01} if method.startswith("breadcrumbs") else {})


def _scaled(weights: Sequence[Any]) -> list[Any]:
    """Weights that are divided by their sum later, in the range of the knob.

    >>> _scaled([1.5, 0.5]), _scaled([5.0, [3.0, 0.0]])
    ([1.5, 0.5], [1.0, [0.6, 0.0]])
    """
    largest = max((abs(number) for one in weights for curve in curves_of(one) for number in curve), default=0.0)
    return list(weights) if largest <= LARGEST_WEIGHT else [divided(one, largest) for one in weights]


def _setting(settings: Mapping[str, Any], key: str, default: float) -> Any:
    """A number, or what is one for every tensor: what no filter finds has mergekit's default."""
    value = settings.get(key, default)
    if not varies(value) or number_everywhere(value) is not None:
        return _number(settings, key, default)
    if not says_all(value) and key == "weight":
        problem = "weight says nothing of some tensors"
        raise UserError(FIELD, problem=problem, remedy="End it with a value that has no filter.")
    return until_all(value, default)


def _flag(settings: Mapping[str, Any], key: str, default: bool) -> bool:
    """A setting that is on or off, in the words that mergekit takes for them."""
    value = settings.get(key, default)
    word = str(value).lower()
    if isinstance(value, list | dict) or word not in (*ON, *OFF):
        raise UserError(FIELD, problem=f"{key} is {value!r}"[:100], allowed="true or false for all tensors")
    return word in ON


def _number(settings: Mapping[str, Any], key: str, default: float | None) -> float:
    value = settings.get(key, default)
    if varies(value) and (value := number_everywhere(value)) is None:
        problem = f"{key} differs by depth or by tensor"
        remedy = "By tensor there are weight and density of TIES, DARE and their kin, layerwise and slerp_curves."
        raise UserError(FIELD, problem=problem, allowed="one number", remedy=remedy)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise UserError(FIELD, problem=f"{key} is {value!r}"[:100], allowed="a number") from None
