"""The mean on the sphere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from backend.lazy import torch
from backend.merging.knobs import Lam
from backend.merging.sphere import norm, unit
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(paper="arXiv:2603.04972", needs="an aligned model and one or more fine-tuned from it", gives="step")
def karcher(
    aligned: Tensor,
    models: list[Tensor],
    *,
    lam: Lam = 1.0,
    max_iter: Annotated[int, Between(1, 100)] = 10,
    tol: Annotated[float, Between(0, 0.1)] = 1e-5,
) -> Tensor:
    """Take the mean of all models, the aligned one among them, along the arcs of the sphere.

    u_k = θ_k/‖θ_k‖, m = unit(mean u); repeat v = mean of (Ω_k/sin Ω_k)(u_k − (u_k·m)m) with Ω_k = acos(u_k·m), m ←
    cos‖v‖·m + sin‖v‖·v/‖v‖, until ‖v‖ < tol; the mean is (mean ‖θ_k‖)·m and θ = θ0 + λ·(mean − θ0).

    Args:
        aligned: θ0, fp32, any shape.
        models: θ_k, same shape.
        lam: λ, no unit; 0 is the aligned model, 1 the mean.
        max_iter: the most steps of the search for the mean.
        tol: the search ends at a step shorter than this, in radians.

    >>> from torch import tensor
    >>> karcher(tensor([1.0, 0.0]), [tensor([0.0, 1.0])])
    tensor([-0.2929,  0.7071])
    """
    everyone = [aligned, *models]
    lengths = [norm(one) for one in everyone]
    units = [unit(one, length) for one, length in zip(everyone, lengths, strict=True) if length]
    if not units:
        return torch.zeros_like(aligned)
    middle = torch.stack(units).mean(0)
    size = float(middle.norm())
    middle = middle / size if size > 1e-12 else units[0].clone()
    for _ in range(max_iter):
        step = torch.zeros_like(middle)
        for one in units:
            cos = max(-1.0, min(1.0, float((one * middle).sum())))
            angle = math.acos(cos)
            if math.sin(angle) > 1e-12:
                step += (angle / math.sin(angle) / len(units)) * (one - cos * middle)
        turn = float(step.norm())
        if turn < tol:
            break
        middle = math.cos(turn) * middle + (math.sin(turn) / turn) * step
        middle /= float(middle.norm())
    return (middle * (sum(lengths) / len(lengths)) - aligned.double()).float()
