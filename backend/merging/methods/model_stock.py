"""As far as the fine-tunes agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.merging.sphere import angles, gram
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


POLE = 1e-6


@merge_method(
    paper="arXiv:2403.19522",
    needs="an aligned model and two or more fine-tuned from it",
    gives="step",
    least=2,
    splits="rows",
    why="it measures how far fine-tuned models agree, and one agrees with itself",
)
def model_stock(
    deltas: list[Tensor], whole: Whole | None = None, *, lam: Lam = 1.0, filter_wise: bool = False
) -> Tensor:
    """Move towards the mean of the fine-tuned models as far as their changes point the same way.

    c = mean pairwise cos(δ_j, δ_k); t = K·c/(1 + (K − 1)·c), 0 at the pole; θ = θ0 + λ·t·mean δ_k.

    Args:
        deltas: δ_k, fp32, any shape.
        whole: the tensors these are blocks of, None where they are all of it.
        filter_wise: measure the agreement in each row (along the last axis) instead of the whole tensor.

    >>> from torch import tensor
    >>> model_stock([tensor([1.0, 0.0]), tensor([1.0, 0.0])])
    tensor([1., 0.])
    >>> model_stock([tensor([1.0, 0.0]), tensor([0.0, 1.0])])
    tensor([0., 0.])
    """
    count = len(deltas)
    mean = torch.stack(list(deltas)).mean(0)
    if not filter_wise or mean.dim() == 0:
        cosines, _ = angles(gram(deltas, whole))
        agreement = float(cosines.triu(1).sum()) * 2 / (count * (count - 1))
        below = 1 + (count - 1) * agreement
        return mean * (0.0 if abs(below) < POLE else count * agreement / below)
    pairs = [(one, other) for place, one in enumerate(deltas) for other in deltas[place + 1 :]]
    cosines = torch.stack([_row_cosines(one.double(), other.double()) for one, other in pairs]).mean(0)
    divisor = 1 + (count - 1) * cosines
    shares = torch.where(divisor.abs() < POLE, 0, count * cosines / torch.where(divisor.abs() < POLE, 1, divisor))
    return mean * shares.float().unsqueeze(-1)


def _row_cosines(one: Tensor, other: Tensor) -> Tensor:
    lengths = one.norm(dim=-1) * other.norm(dim=-1)
    return ((one * other).sum(-1) / torch.where(lengths > 0, lengths, 1)).clamp(-1, 1)
