"""Mixing safety data into harmful changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.knobs import Lam
from backend.merging.project import onto_alignment
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


Share = Annotated[float, Between(0, 2)]


@merge_method(
    paper="arXiv:2503.17239",
    needs="an aligned model, one fine-tuned from it, the raw model from before alignment, one tuned on safety data",
    gives="step",
    products=2,
)
def safemerge(
    aligned: Tensor,
    delta: Tensor,
    raw: Tensor,
    safe: Tensor,
    *,
    lam: Lam = 1.0,
    threshold: Annotated[float, Between(0, 1)] = 0.35,
    tuned_share: Share = 0.8,
    safe_share: Share = 0.2,
) -> Tensor:
    """Mix the changes of a safety fine-tune into those matrices that lean away from alignment.

    V = θ0 − θ_raw, C = V·Vᵀ/‖V‖; τ = w1·δ + w2·(θ_safe − θ0) for matrices where cos(C·δ, δ) < threshold, τ = δ
    elsewhere; θ = θ0 + λ·τ. Full changes are mixed, not factors, so there are no cross terms.

    Args:
        aligned: θ0, fp32, any shape.
        delta: δ = θ1 − θ0.
        raw: θ_raw.
        safe: θ_safe.
        lam: λ, no unit; 0 is the aligned model, 1 the whole of the mixed changes.
        threshold: matrices whose change has a smaller cosine with its projection are mixed; 0 mixes none.
        tuned_share: w1, how much of the fine-tuning stays in a mixed matrix.
        safe_share: w2, how much of the safety fine-tuning is added to it.

    >>> from torch import tensor
    >>> zero = tensor([[0.0], [0.0]])
    >>> safemerge(tensor([[2.0], [0.0]]), tensor([[1.0], [3.0]]), zero, tensor([[3.0], [0.0]]))
    tensor([[1.0000],
            [2.4000]])
    """
    _, cosine = onto_alignment(aligned - raw, delta)
    if cosine >= threshold:
        return delta
    return tuned_share * delta + safe_share * (safe - aligned)
