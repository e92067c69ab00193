"""Walking along the arc between two tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.merging.ops import Blend
from backend.merging.sphere import arc, cosine_of
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="doi:10.1145/325334.325242",
    needs="an aligned model and one fine-tuned from it",
    gives="blend",
    reaches_tuned=True,
    splits="elements",
)
def slerp(aligned: Tensor, fine_tuned: Tensor, whole: Whole | None = None, *, lam: Lam = 0.6) -> Blend:
    """Walk along the arc from the aligned to the fine-tuned weights, keeping their length.

    θ(λ) = (sin((1 − λ)Ω)·θ0 + sin(λΩ)·θ1) / sin Ω with Ω the angle between them, for each tensor on its own; a straight
    line where |cos Ω| > 0.9995, which is a change under 3.2 % and so most of what LoRA makes.

    Args:
        aligned: θ0, fp32, any shape.
        fine_tuned: θ1, fp32, same shape.
        whole: the tensors these are blocks of, None where they are all of it.
        lam: λ, no unit; 0 is the aligned model, 1 the fine-tuned one, both exactly.

    >>> from torch import tensor
    >>> one, other = tensor([1.0, 0.0]), tensor([0.0, 1.0])
    >>> slerp(one, other, lam=0.5).of(one, other)
    tensor([0.7071, 0.7071])
    """
    if lam in (0, 1):
        return Blend(1 - lam, lam)
    whole = whole or Whole(aligned.numel())
    dots = whole.dots((aligned, aligned), (fine_tuned, fine_tuned), (aligned, fine_tuned))
    return Blend(*arc(cosine_of(*dots), lam), (dots[0], dots[1], dots[2]))
