"""Linear interpolation, the method of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.knobs import Lam, Shares, weights_of
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2412.19512",
    needs="an aligned model and one or more fine-tuned from it",
    reaches_tuned=True,
    splits="elements",
    straight=True,
)
def linear(aligned: Tensor, models: list[Tensor], *, lam: Lam = 0.5, weights: Shares = ()) -> Tensor:
    """Walk a straight line from the aligned to the fine-tuned weights.

    θ(λ) = (1 − λ)·θ0 + λ·θ1, for each tensor on its own; with several fine-tuned models θ1 is Σ w_k θ_k / Σ w_k.

    Args:
        aligned: θ0, fp32, any shape; the engine casts and rounds once.
        models: θ_k, fp32, same shape as `aligned`.
        lam: λ, no unit; 0 is the aligned model, 1 the fine-tuned one, both exactly.
        weights: one for each fine-tuned model, 1 where none is given.

    >>> from torch import tensor
    >>> linear(tensor([0.0, 2.0]), [tensor([1.0, 4.0])], lam=0.5)
    tensor([0.5000, 3.0000])
    """
    goal = models[0]
    if len(models) > 1:
        given = weights_of(weights, len(models))
        goal = torch.zeros_like(aligned)
        for weight, one in zip(given, models, strict=True):
            goal += (weight / (sum(given) or 1)) * one
    if lam in (0, 1):  # lerp would turn −0.0 into 0.0
        return goal if lam else aligned
    return torch.lerp(aligned, goal, lam)
