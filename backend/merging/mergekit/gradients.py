"""mergekit's settings that differ by depth and by tensor, and `layerwise`'s knobs where those say the same. No torch.

What such a setting is for a tensor stands in `merging.by_tensor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend.merging.by_tensor import Curve, curves_of, number_at
from backend.merging.place import LAYER, Place, curve_at, layer_count
from backend.registry import methods

KINDS = ("attention", "mlp", "norm", "embedding", "head")
MOST = 2.0  # of a share and of the curve
NEAR = 1e-9


def layerwise_knobs(
    share: Callable[[str, float], float | None], curves: Sequence[Curve], names: Sequence[str]
) -> dict[str, Any] | None:
    """The knobs with which `layerwise` walks `share(name, depth)` of the way for every tensor; None if none do.

    Args:
        curves: over the depth, of which the shares may be multiples.
        names: the model's tensors.
    """
    places = _places(names)
    wanted = {place: share(place.name, place.depth) for place in places}
    if not names or any(value is None for value in wanted.values()):
        return None
    if stacks_of(names) > 1 and any(len(curve) > 1 for curve in curves):
        return None
    for curve in dict.fromkeys([(1.0,), *curves]):
        knobs = _fitted({place: value or 0.0 for place, value in wanted.items()}, curve)
        if knobs and all(abs(_share(place, knobs) - (value or 0.0)) < NEAR for place, value in wanted.items()):
            return knobs
    return None


def arc_knobs(setting: Any, names: Sequence[str]) -> dict[str, Any] | None:
    """The knobs with which `slerp_curves` goes as far as a setting says, for every tensor; None if none do.

    Args:
        names: the model's tensors.

    >>> names = ["embed_tokens.weight", "layers.0.self_attn.w", "layers.1.mlp.w", "layers.1.norm.weight"]
    >>> arc_knobs([{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}], names)
    {'lam': 1.0, 'attention': [0.0, 1.0], 'mlp': [0.5], 'other': [0.5]}
    """
    curves, knobs = list(dict.fromkeys(curves_of(setting))), {}
    if not names or (stacks_of(names) > 1 and any(len(curve) > 1 for curve in curves)):
        return None
    places = _places(names)
    for module in ("attention", "mlp", "other"):
        wanted = [
            (place.depth, number_at(setting, place.name, place.depth)) for place in places if place.module == module
        ]
        for curve in curves:
            if all(value is not None and abs(curve_at(curve, depth) - value) < NEAR for depth, value in wanted):
                knobs[module] = list(curve)
                break
        else:
            return None
    return {"lam": 1.0, **knobs}


def _places(names: Sequence[str]) -> list[Place]:
    """Every tensor; a head that is tied has none, but what one would get is known all the same."""
    layers = layer_count(list(names))
    return [Place(name, layers=layers) for name in dict.fromkeys([*names, "lm_head.weight"])]


def stacks_of(names: Sequence[str]) -> int:
    """How many stacks of layers a model has; mergekit draws a curve over each of them, a method here over one.

    >>> stacks_of(["model.layers.0.w", "model.layers.1.w", "vision_tower.encoder.layers.0.w", "norm.weight"])
    2
    """
    return len({name[: found.start()] for name in names if (found := LAYER.search(name))})


def _fitted(wanted: Mapping[Place, float], curve: Curve) -> dict[str, Any] | None:
    """The knobs that follow `curve`, from a tensor of each kind; they may not fit the others."""
    inside: dict[str, float] = {}
    outside = {place.kind: value for place, value in wanted.items() if place.layer is None}
    for place, value in wanted.items():
        height = 0.0 if place.layer is None else _share(place, {"lam": 1.0, "curve": curve})
        if height > 0:
            inside[place.kind] = value / height
    scale = 1 / max(curve) if max(curve) > 0 else 1.0
    if inside.get("norm") and outside.get("norm"):  # the final norm is on no curve, but its share is that of all norms
        scale = inside["norm"] / outside["norm"]
    steps = {kind: value / scale for kind, value in inside.items()} | outside
    lam = steps.get("other", min(1.0, max(steps.values())))
    if not 0 < lam <= 1:
        return None
    shares = {kind: round(steps[kind] / lam, 12) for kind in KINDS if kind in steps}
    drawn = [round(scale * value, 12) for value in curve]
    if not all(0 <= value <= MOST for value in (*shares.values(), *drawn)):
        return None
    return {"lam": round(lam, 12), "curve": drawn, **shares}


def _share(place: Place, knobs: Mapping[str, Any]) -> float:
    return float(knobs["lam"] * methods.get("layerwise").function([1.0], place, **knobs))
