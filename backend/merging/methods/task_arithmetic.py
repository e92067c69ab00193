"""Adding task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.merging.consensus import combine
from backend.merging.knobs import Lam, Normalize, Weights, weights_of
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2212.04089",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    reaches_tuned=True,
    splits="elements",
)
def task_arithmetic(
    deltas: list[Tensor], *, lam: Lam = 0.6, weights: Weights = (), normalize: Normalize = "off"
) -> Tensor:
    """Add what each fine-tuning changed, weighted, to the aligned model.

    θ = θ0 + λ·Σ w_k δ_k with δ_k = θk − θ0; divided by Σ w_k where `normalize` says so.

    Args:
        deltas: δ_k, fp32, any shape.

    >>> from torch import tensor
    >>> task_arithmetic([tensor([1.0, 0.0]), tensor([0.5, 2.0])], weights=(1, 2))
    tensor([2., 4.])
    """
    return combine(deltas, weights_of(weights, len(deltas)), normalize=normalize)
