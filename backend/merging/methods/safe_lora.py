"""Projecting harmful changes onto alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.knobs import Lam
from backend.merging.project import leaning, onto_alignment
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2405.16833",
    needs="an aligned model, one fine-tuned from it, the raw model from before alignment",
    gives="step",
    survey=("matrices", leaning),
    products=2,
)
def safe_lora(
    aligned: Tensor,
    delta: Tensor,
    raw: Tensor,
    standing: int | None = None,
    *,
    lam: Lam = 1.0,
    threshold: Annotated[float, Between(0, 1)] = 0.5,
    matrices: Annotated[int, Between(0, 10000)] = 0,
) -> Tensor:
    """Project the changes of those matrices that lean away from alignment onto what alignment changed.

    V = θ0 − θ_raw, C = V·Vᵀ/‖V‖; θ = θ0 + λ·C·δ for matrices where cos(C·δ, δ) ≤ threshold, θ0 + λ·δ elsewhere. C is
    the paper's; it also rescales. Instead of by threshold, the N matrices of the whole model with the smallest cosines
    may be projected. Tensors that are no matrices, or that alignment did not touch, keep their change.

    Args:
        aligned: θ0, fp32, any shape.
        delta: δ = θ1 − θ0.
        raw: θ_raw.
        standing: the matrix's rank by cosine among all that changed, 0 the smallest.
        lam: λ, no unit; 0 is the aligned model, 1 the whole of the projected changes.
        threshold: matrices whose change has this cosine with its projection or less are projected; 0 projects none.
        matrices: N, how many matrices of smallest cosine are projected instead of those below the threshold; 0 goes by
            the threshold.

    >>> from torch import tensor
    >>> safe_lora(tensor([[2.0], [0.0]]), tensor([[1.0], [3.0]]), tensor([[0.0], [0.0]]))
    tensor([[2.],
            [0.]])
    """
    if matrices:
        chosen = standing is not None and standing < matrices
        return onto_alignment(aligned - raw, delta)[0] if chosen else delta
    projected, cosine = onto_alignment(aligned - raw, delta)
    return projected if threshold > 0 and cosine <= threshold else delta
