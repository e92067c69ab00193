"""A mean on the sphere, in one step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backend.errors import UserError
from backend.lazy import torch
from backend.merging.knobs import Lam, Shares, weights_of
from backend.merging.place import Place
from backend.merging.sphere import norm, unit
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


TINY = 1e-8


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and two or more fine-tuned from it",
    gives="step",
    least=2,
    why="with one fine-tuned model it gives that model",
)
def multislerp(deltas: list[Tensor], place: Place, *, lam: Lam = 1.0, weights: Shares = ()) -> Tensor:
    """Average the directions of several fine-tunings on the sphere, and their lengths apart.

    u_k = δ_k/‖δ_k‖, m = unit(Σ w u), v = Σ w(u_k − (u_k·m)m), φ = ‖v‖; θ = θ0 + λ·(Σ w‖δ_k‖)·(m·cos φ + v·sin φ/φ),
    the w summing to 1. Where Σ w u vanishes, two changes are averaged plainly; more are refused.

    Args:
        deltas: δ_k, fp32, any shape.
        place: names the tensor where it has to be refused.

    >>> from torch import tensor
    >>> multislerp([tensor([1.0, 0.0]), tensor([0.0, 1.0])], Place("w"))
    tensor([0.7071, 0.7071])
    """
    given = weights_of(weights, len(deltas))
    shares = [weight / (sum(given) or 1) for weight in given]
    lengths = [norm(delta) for delta in deltas]
    units = [unit(delta, length) for delta, length in zip(deltas, lengths, strict=True)]
    middle = torch.stack([share * one for share, one in zip(shares, units, strict=True)]).sum(0)
    size = float(middle.norm())
    if size < TINY:
        if len(deltas) > 2 and any(lengths):
            problem = f"the changes of `{place.name}` cancel, so they have no mean direction"
            raise UserError("weights", problem=problem, remedy="Give other weights, or use task_arithmetic.")
        return torch.stack([share * delta for share, delta in zip(shares, deltas, strict=True)]).sum(0)
    middle /= size
    aside = torch.zeros_like(middle)
    for share, one in zip(shares, units, strict=True):
        aside += share * (one - float((one * middle).sum()) * middle)
    angle = float(aside.norm()) + TINY
    mean = sum(share * length for share, length in zip(shares, lengths, strict=True))
    return (mean * (middle * math.cos(angle) + aside * (math.sin(angle) / angle))).float()
