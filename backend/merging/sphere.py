"""Angles between tensors, and walks along arcs. Sums are taken in fp64 over fixed chunks, so size changes no result."""

from __future__ import annotations

import math
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


def unit(one: Tensor, length: float) -> Tensor:
    """The tensor over its length, in fp64; a zero tensor stays zero."""
    return one.double() / length if length else one.double()
