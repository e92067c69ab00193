"""Where a fine-tune moved: the length and direction of the task vector, layer by layer and module by module."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.inputs import Bundle, Models
from backend.merging.place import Place
from backend.types import LayerChange

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**22  # elements summed at once: bounds the memory of the fp64 copies


def layer_changes(models: Models, report: Callable[[float, str], None] = lambda *_: None) -> list[LayerChange]:
    """‖δ‖/‖θ0‖ and cos(δ, θ0) of δ = θ1 − θ0 for every (layer, module), outside the layers first, then by depth.

    Tensors of one layer and module (a weight and its bias, the norms of a layer, experts) are taken as one vector, and
    so are those of one module in all layers of a tower that sees or hears; towers come last.
    Sums run in fp64, one tensor in memory at a time; an adapter's δ is formed tensor by tensor from its factors.

    Args:
        models: an aligned and one fine-tuned source.
        report: told how far the reading is, 0–1.
    """
    sums: dict[tuple[str, int, str], list[float]] = {}
    for number, name in enumerate(models.names):
        report(number / len(models.names), name)
        held = models.read(name)
        if not isinstance(held, Bundle):
            continue
        layer = -1 if held.place.layer is None else held.place.layer
        found = sums.setdefault((held.place.tower, layer, module_of(held.place)), [0.0, 0.0, 0.0, 0.0])
        for place, value in enumerate(_sums(held.aligned, held.tuned[0], equal=held.equal)):
            found[place] += value
        found[3] += held.aligned.numel()
    return [
        LayerChange(
            layer=None if layer < 0 else layer,
            module=module,
            distance=(step / start) ** 0.5 if start else None,
            cosine=dot / (step * start) ** 0.5 if step and start else None,
            parameters=int(count),
            tower=tower,
        )
        for (tower, layer, module), (step, start, dot, count) in sorted(sums.items(), key=lambda item: item[0][:2])
    ]


def module_of(place: Place) -> str:
    """The short name of the module that a tensor belongs to.

    >>> layer = "model.layers.0."
    >>> [module_of(Place(layer + name)) for name in ("self_attn.q_proj.weight", "mlp.up_proj.bias", "norm.weight")]
    ['q', 'up', 'norms']
    >>> [module_of(Place(name)) for name in ("model.embed_tokens.weight", "lm_head.weight", "h.1.attn.c_attn.bias")]
    ['embed', 'head', 'c_attn']
    >>> module_of(Place("model.layers.3.mlp.experts.7.down_proj.weight"))
    'down'
    """
    names = {"embedding": "embed", "head": "head", "norm": "norms"}
    if place.kind in names:
        return names[place.kind]
    parts = [part for part in place.name.split(".") if part not in ("weight", "bias")]
    return re.sub(r"_proj$", "", parts[-1])


def _sums(aligned: Tensor, tuned: Tensor, *, equal: bool) -> tuple[float, float, float]:
    """‖δ‖², ‖θ0‖², ⟨δ, θ0⟩ in fp64."""
    step = start = dot = 0.0
    flat, other = aligned.reshape(-1), tuned.reshape(-1)
    for begin in range(0, flat.numel(), BLOCK):
        here = flat[begin : begin + BLOCK].to(torch.float64)
        start += float(here @ here)
        if not equal:
            delta = other[begin : begin + BLOCK].to(torch.float64) - here
            step += float(delta @ delta)
            dot += float(delta @ here)
    return step, start, dot
