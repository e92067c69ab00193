"""Only the changes that matter most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="after mergekit 0.1.5", needs="an aligned model and one fine-tuned from it", gives="step", splits="rows"
)
def arcee_fusion(
    aligned: Tensor, fine_tuned: Tensor, delta: Tensor, whole: Whole | None = None, *, lam: Lam = 1.0
) -> Tensor:
    """Take only the changes whose importance stands out in their tensor.

    θ = θ0 + λ·mask·δ; importance I = |δ|·KL(softmax θ1 ‖ softmax θ0) over the last axis, 1e-8 added to both, and the
    mask is I ≥ q2 + 1.5·(q3 − q1) with the exact quartiles of I (mergekit samples them in large tensors).

    Args:
        aligned: θ0, fp32, any shape.
        fine_tuned: θ1.
        delta: δ = θ1 − θ0.
        whole: the tensor these are rows of, None where they are all of it.
        lam: λ, no unit; 0 is the aligned model, 1 the whole of the chosen changes.

    >>> from torch import tensor
    >>> start, goal = tensor([0.0, 0.0, 0.0, 0.0]), tensor([0.0, 0.0, 0.1, 2.0])
    >>> arcee_fusion(start, goal, goal - start)
    tensor([0., 0., 0., 2.])
    """
    ours, theirs = (torch.softmax(part.reshape(part.shape or (1,)), -1) + 1e-8 for part in (aligned, fine_tuned))
    divergence = (theirs * torch.log(theirs / ours)).sum(-1, keepdim=True).clamp(min=0)  # below it is rounding
    importance = delta.abs() * divergence.reshape(divergence.shape if delta.dim() else ())
    whole = whole or Whole(importance.numel())
    last = whole.elements - 1
    first, median, third = whole.ranked(importance, [int(share * last) for share in (0.25, 0.5, 0.75)])
    return delta * (importance >= median + 1.5 * (third - first))
