"""Trim, elect signs, merge what agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.merging.blocks import Whole
from backend.merging.consensus import combine
from backend.merging.knobs import Densities, Density, Election, Lam, Normalize, Weights, densities_of, weights_of
from backend.merging.sparse import keep_top
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2306.01708",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    splits="elements",
)
def ties(
    deltas: list[Tensor],
    whole: Whole | None = None,
    *,
    lam: Lam = 0.6,
    density: Density = 0.5,
    weights: Weights = (),
    densities: Densities = (),
    normalize: Normalize = "weights",
    election: Election = "weighted",
) -> Tensor:
    """Keep the largest changes, elect a sign for each weight, and average the changes that agree with it.

    θ = θ0 + λ·Σ m_k w_k û_k / Σ m_k w_k with û_k = the ⌊d·n⌋ largest of δ_k (at least one) and m_k = 1 where û_k has
    the elected sign. mergekit elects "weighted" and divides by "weights"; PEFT elects by "total" or "frequency" and
    divides by "count".

    Args:
        deltas: δ_k, fp32, any shape.
        whole: the tensors these are blocks of, None where they are all of it.
        density: the share of each tensor's elements that stays, the largest first; 1 keeps all.

    >>> from torch import tensor
    >>> ties([tensor([4.0, 1.0, -2.0, 0.5]), tensor([2.0, 1.0, 3.0, 0.5])], density=0.5)
    tensor([3., 0., 3., 0.])
    """
    shares = densities_of(densities, density, len(deltas))
    kept = [keep_top(delta, share, whole) for delta, share in zip(deltas, shares, strict=True)]
    return combine(kept, weights_of(weights, len(kept)), normalize=normalize, election=election)
