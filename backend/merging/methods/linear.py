"""Linear interpolation, the method of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.lazy import torch
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(paper="arXiv:2412.19512", needs="an aligned model and one fine-tuned from it")
def linear(aligned: Tensor, fine_tuned: Tensor, *, lam: Annotated[float, Between(0, 1)] = 0.5) -> Tensor:
    """Walk a straight line from the aligned to the fine-tuned weights.

    θ(λ) = (1 − λ)·θ_aligned + λ·θ_fine_tuned, for each tensor on its own.

    Args:
        aligned: fp32, any shape; the engine casts and rounds once.
        fine_tuned: fp32, same shape as `aligned`.
        lam: λ, no unit; 0 is the aligned model, 1 the fine-tuned one, both exactly.

    Raises:
        UserError: `lam` outside [0, 1], before any tensor is read.

    >>> from torch import tensor
    >>> linear(tensor([0.0, 2.0]), tensor([1.0, 4.0]), lam=0.5)
    tensor([0.5000, 3.0000])
    """
    if lam in (0, 1):  # lerp would turn −0.0 into 0.0
        return fine_tuned if lam else aligned
    return torch.lerp(aligned, fine_tuned, lam)
