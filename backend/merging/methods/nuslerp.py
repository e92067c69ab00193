"""Along the arc between two fine-tunes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from backend.lazy import torch
from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.merging.sphere import arc, cosine, mixed
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


COLLINEAR = 1 - 1e-16


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and exactly two fine-tuned from it",
    gives="step",
    least=2,
    most=2,
    splits="rows",
    why="it walks along the arc between two fine-tuned models; use slerp for one",
)
def nuslerp(
    deltas: list[Tensor],
    whole: Whole | None = None,
    *,
    lam: Lam = 1.0,
    t: Annotated[float, Between(0, 1)] = 0.5,
    axis: Literal["whole", "rows", "columns"] = "whole",
) -> Tensor:
    """Walk along the arc from one fine-tuning's change to another's, then add the result to the aligned model.

    θ = θ0 + λ·(sin((1 − t)Ω)·δ1 + sin(tΩ)·δ2) / sin Ω with Ω the angle between δ1 and δ2.

    Args:
        deltas: δ1 and δ2, fp32, any shape.
        whole: the tensors these are blocks of, None where they are all of it.
        t: 0 is the first fine-tuning's change, 1 the second's.
        axis: whether one angle is taken for the whole tensor, for each row (along the last axis) or for each
            column (over all rows).

    >>> from torch import tensor
    >>> nuslerp([tensor([1.0, 0.0]), tensor([0.0, 1.0])])
    tensor([0.7071, 0.7071])
    """
    first, second = deltas
    if axis == "whole" or first.dim() < 2:
        return mixed(deltas, arc(cosine(first, second, whole=whole), t, straight=COLLINEAR))
    one, other = first.double(), second.double()
    products = [one.square(), other.square(), one * other]
    if axis == "rows":
        squares, others, both = (part.sum(-1, keepdim=True) for part in products)
    else:
        squares, others, both = (whole or Whole(first.numel())).columns(*products)
    lengths = squares.sqrt() * others.sqrt()
    cos = (both / torch.where(lengths > 0, lengths, 1)).clamp(-1, 1)
    straight = (1 - cos.square() <= 1e-16) | (lengths == 0)
    angle = torch.acos(torch.where(straight, 0, cos))
    curved = (torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * other) / torch.sin(angle)
    return torch.where(straight, (1 - t) * one + t * other, curved).float()
