"""Extrapolating the directions of alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.project import leading_directions
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2506.15606",
    needs="an aligned model and the raw model from before alignment; no fine-tuned one",
    knob="extrapolate",
    gives="step",
    products=10,
)
def lox(
    aligned: Tensor,
    raw: Tensor,
    *,
    extrapolate: Annotated[float, Between(0, 3, step=0.05)] = 1.25,
    rank: Annotated[int, Between(0, 1024)] = 6,
) -> Tensor:
    """Push the aligned model further along the main directions of its alignment, before it is fine-tuned.

    θ = θ0 + c·SVD_k(θ0 − θ_raw), the k largest singular triples, for matrices; other tensors stay.

    Args:
        aligned: θ0, fp32, any shape.
        raw: θ_raw.
        extrapolate: c, no unit; 0 is the aligned model.
        rank: k, how many directions; 0 takes all.

    >>> from torch import tensor
    >>> lox(tensor([[3.0, 0.0], [0.0, 1.0]]), tensor([[0.0, 0.0], [0.0, 0.0]]), rank=1).round()
    tensor([[3., 0.],
            [0., 0.]])
    """
    step = aligned - raw
    return step * 0 if step.dim() < 2 else leading_directions(step, rank)
