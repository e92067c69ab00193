"""One model as it is, or scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and one fine-tuned from it",
    knob="scale",
    reaches_tuned=True,
    keeps_equal=False,
    splits="elements",
)
def passthrough(fine_tuned: Tensor, *, scale: Annotated[float, Between(0, 2)] = 1.0) -> Tensor:
    """Give back the fine-tuned model, every weight multiplied by one number.

    θ = s·θ1.

    Args:
        fine_tuned: θ1, fp32, any shape.
        scale: s, no unit; 1 is the fine-tuned model exactly.

    >>> from torch import tensor
    >>> passthrough(tensor([1.0, -2.0]), scale=0.5)
    tensor([ 0.5000, -1.0000])
    """
    return fine_tuned if scale == 1 else fine_tuned * scale
