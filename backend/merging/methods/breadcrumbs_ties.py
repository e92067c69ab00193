"""Without the largest and the smallest changes, signs elected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.consensus import combine
from backend.merging.knobs import Density, Election, Lam, Normalize, Weights, weights_of
from backend.merging.sparse import keep_band
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(paper="arXiv:2312.06795", needs="an aligned model and one or more fine-tuned from it", gives="step")
def breadcrumbs_ties(
    deltas: list[Tensor],
    *,
    lam: Lam = 0.6,
    density: Density = 0.9,
    gamma: Annotated[float, Between(0, 0.2)] = 0.01,
    weights: Weights = (),
    normalize: Normalize = "off",
    election: Election = "weighted",
) -> Tensor:
    """Drop the largest and the smallest changes, elect a sign for each weight and add what agrees.

    θ = θ0 + λ·Σ m_k w_k û_k; û_k is δ_k without the ⌊γ·n⌋ largest, of which the ⌊d·n⌋ next largest stay; m_k = 1 where
    û_k has the elected sign.

    Args:
        deltas: δ_k, fp32, any shape.
        lam: λ, no unit; 0 is the aligned model, 1 adds the whole merged step.
        density: the share of each tensor's elements that stays, at least one; 1 keeps all.
        gamma: the share that is dropped as outliers, the largest first.
        weights: one for each fine-tuned model, 1 where none is given.
        normalize: divide the weighted sum by the weights that count, by the number of models that count, or not.
        election: how the sign of each element is voted: by weighted sum, by plain sum (total) or by heads (frequency).

    >>> from torch import tensor
    >>> breadcrumbs_ties([tensor([1.0, -3.0, 2.0, 0.5])], density=0.5, gamma=0.2)
    tensor([ 0., -3.,  2.,  0.])
    >>> breadcrumbs_ties([tensor([1.0, -3.0, 2.0, 0.5, 0.1])], density=0.4, gamma=0.2)
    tensor([1., 0., 2., 0., 0.])
    """
    kept = [keep_band(delta, density, gamma) for delta in deltas]
    return combine(kept, weights_of(weights, len(kept)), normalize=normalize, election=election)
