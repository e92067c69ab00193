"""What a search turns: the numbers of the `layerwise` method, by the names that points carry. Pure.

A setting is {"lambda": λ, "curve_1": …, "attention": …}: λ times a curve over the depth times a share for each kind of
module. Every number left out is 1, so {"lambda": λ} is the uniform merge θ0 + λ·δ and a search can start from those.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

KINDS = ("attention", "mlp", "norm", "embedding", "head")
MOST_SHARE = 1.5
DIGITS = 3

Setting = dict[str, float]
Space = dict[str, tuple[float, float]]


def space_of(kinds: Collection[str], depth: int) -> Space:
    """name -> (low, high) of every number to search, for a pair whose tensors of these `kinds` differ.

    Args:
        kinds: as `Place.kind` says; a kind that fine-tuning did not move has nothing to search.
        depth: numbers of the curve over the layers, 1 for none.

    >>> list(space_of({"attention", "mlp"}, 2))
    ['lambda', 'curve_1', 'curve_2', 'attention', 'mlp']
    >>> list(space_of({"mlp"}, 1))
    ['lambda']
    """
    names = [f"curve_{number}" for number in range(1, depth + 1)] if depth > 1 else []
    here = [kind for kind in KINDS if kind in kinds]
    shares = [*names, *(here if len(here) > 1 else [])]
    return {"lambda": (0.0, 1.0)} | dict.fromkeys(shares, (0.0, MOST_SHARE))


def completed(setting: Mapping[str, float], space: Space) -> Setting:
    """The setting with 1 for every number it leaves out.

    >>> completed({"lambda": 0.5}, space_of({"mlp", "head"}, 1))
    {'lambda': 0.5, 'mlp': 1.0, 'head': 1.0}
    """
    return {name: setting.get(name, 1.0) for name in space}


def knobs_of(setting: Mapping[str, float]) -> dict[str, Any]:
    """The setting as knobs of `layerwise`.

    >>> knobs_of({"lambda": 0.5, "curve_1": 0.2, "curve_2": 1.0, "mlp": 0.7})
    {'lam': 0.5, 'curve': [0.2, 1.0], 'mlp': 0.7}
    """
    curve = [setting[name] for name in sorted(setting) if name.startswith("curve_")]
    shares = {name: setting[name] for name in KINDS if name in setting}
    return {"lam": setting["lambda"]} | ({"curve": curve} if curve else {}) | shares
