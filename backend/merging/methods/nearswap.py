"""Moving at most so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and one fine-tuned from it",
    knob="t",
    splits="elements",
)
def nearswap(aligned: Tensor, delta: Tensor, *, t: Annotated[float, Between(0, 1)] = 0.001) -> Tensor:
    """Take small changes whole and cut large ones off at a bound.

    θ = θ0 + clip(δ, −t, t): weights that lie within t of each other are swapped, the others move by t.

    Args:
        aligned: θ0, fp32, any shape.
        delta: δ = θ1 − θ0.
        t: the furthest a weight may move, in units of weights; look near the median of |δ|.

    >>> from torch import tensor
    >>> nearswap(tensor([0.0, 1.0]), tensor([0.5, -4.0]), t=1.0)
    tensor([0.5000, 0.0000])
    """
    return aligned + delta.clamp(-t, t)
