"""Angles between tensors, walks along arcs and means on the sphere. Sums are taken in fp64.

A mean of tensors is a sum of them with one number each, and these numbers follow from their dots alone: so no method
here holds more of a tensor than a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.blocks import Whole

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 2**20
NEARLY_ALIGNED = 0.9995


def dot(one: Tensor, other: Tensor) -> float:
    """⟨one, other⟩ over all elements; fp32 in, fp64 sums."""
    parts = zip(torch.split(one.reshape(-1), CHUNK), torch.split(other.reshape(-1), CHUNK), strict=True)
    return sum(float(torch.dot(left.double(), right.double())) for left, right in parts)


def norm(one: Tensor) -> float:
    """‖one‖."""
    return math.sqrt(dot(one, one))


def cosine(one: Tensor, other: Tensor, *, empty: float = 1.0, whole: Whole | None = None) -> float:
    """The cosine of the angle between two tensors, `empty` where one of them is zero; always in [−1, 1].

    Args:
        whole: the tensors that `one` and `other` are blocks of, None where they are all of it.

    >>> from torch import tensor
    >>> cosine(tensor([1.0, 0.0]), tensor([0.0, 2.0]))
    0.0
    """
    whole = whole or Whole(one.numel())
    return cosine_of(*whole.dots((one, one), (other, other), (one, other)), empty=empty)


def cosine_of(first: float, second: float, both: float, *, empty: float = 1.0) -> float:
    """The cosine from ⟨a, a⟩, ⟨b, b⟩ and ⟨a, b⟩; `empty` where a or b is zero.

    >>> cosine_of(1.0, 4.0, 1.0), cosine_of(0.0, 4.0, 0.0)
    (0.5, 1.0)
    """
    lengths = math.sqrt(first) * math.sqrt(second)
    return max(-1.0, min(1.0, both / lengths)) if lengths else empty


def arc(cos: float, share: float, *, straight: float = NEARLY_ALIGNED) -> tuple[float, float]:
    """The coefficients (of a, of b) at `share` of the way along the arc; a straight line where |cos| > `straight`.

    >>> [round(coefficient, 6) for coefficient in arc(0.0, 0.5)]
    [0.707107, 0.707107]
    """
    if abs(cos) > straight:
        return 1 - share, share
    angle = math.acos(cos)
    return math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)


def gram(tensors: Sequence[Tensor], whole: Whole | None = None) -> Tensor:
    """⟨x_j, x_k⟩ of all pairs, [K, K] in fp64.

    Args:
        whole: the tensors that these are blocks of, None where they are all of it.

    >>> from torch import tensor
    >>> gram([tensor([1.0, 0.0]), tensor([1.0, 2.0])]).tolist()
    [[1.0, 1.0], [1.0, 5.0]]
    """
    count = len(tensors)
    pairs = [(one, other) for one in range(count) for other in range(one, count)]
    whole = whole or Whole(tensors[0].numel())
    found = torch.zeros(count, count, dtype=torch.float64)
    for (one, other), dot in zip(pairs, whole.dots(*((tensors[j], tensors[k]) for j, k in pairs)), strict=True):
        found[one, other] = found[other, one] = dot
    return found


def angles(dots: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines of all pairs, [K, K], and the lengths, [K], from a `gram`; a zero tensor has the cosine 0 with all.

    >>> from torch import tensor
    >>> [one.tolist() for one in angles(tensor([[4.0, 2.0], [2.0, 4.0]]))]
    [[[1.0, 0.5], [0.5, 1.0]], [2.0, 2.0]]
    """
    lengths = dots.diagonal().sqrt()
    scale = torch.where(lengths > 0, lengths, 1)
    return (dots / scale[:, None] / scale[None, :]).clamp(-1, 1), lengths


def per_length(shares: Tensor, lengths: Tensor) -> Tensor:
    """What shares of unit tensors are as shares of the tensors themselves; 0 of a zero tensor."""
    return torch.where(lengths > 0, shares / torch.where(lengths > 0, lengths, 1), 0)


def mixed(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Σ share_k·x_k in fp64, rounded once to fp32: shares may be large where tensors are small, and terms may cancel.

    >>> from torch import tensor
    >>> mixed([tensor([1.0, 0.0]), tensor([1.0, 2.0])], [0.5, 2.0])
    tensor([2.5000, 4.0000])
    """
    total = tensors[0].double().mul_(shares[0])
    for one, share in zip(tensors[1:], shares[1:], strict=True):
        total.add_(one.double().mul_(share))
    return total.float()
