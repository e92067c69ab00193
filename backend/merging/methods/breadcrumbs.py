"""Without the largest and the smallest changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.merging.blocks import Whole
from backend.merging.consensus import combine
from backend.merging.knobs import Densities, Density, Lam, Normalize, Outliers, Weights, densities_of, weights_of
from backend.merging.sparse import keep_band
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2312.06795",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    splits="elements",
)
def breadcrumbs(
    deltas: list[Tensor],
    whole: Whole | None = None,
    *,
    lam: Lam = 0.6,
    density: Density = 0.9,
    gamma: Outliers = 0.01,
    weights: Weights = (),
    densities: Densities = (),
    normalize: Normalize = "off",
) -> Tensor:
    """Drop the largest and the smallest changes of each tensor and add the rest.

    θ = θ0 + λ·Σ w_k û_k; û_k is δ_k without the ⌊γ·n⌋ largest, of which the ⌊d·n⌋ next largest stay.

    Args:
        deltas: δ_k, fp32, any shape.
        whole: the tensors these are blocks of, None where they are all of it.

    >>> from torch import tensor
    >>> breadcrumbs([tensor([1.0, -3.0, 2.0, 0.5])], density=0.5, gamma=0.2)
    tensor([ 0., -3.,  2.,  0.])
    >>> breadcrumbs([tensor([1.0, -3.0, 2.0, 0.5, 0.1])], density=0.4, gamma=0.2)
    tensor([1., 0., 2., 0., 0.])
    """
    shares = densities_of(densities, density, len(deltas))
    kept = [keep_band(delta, share, gamma, whole) for delta, share in zip(deltas, shares, strict=True)]
    return combine(kept, weights_of(weights, len(kept)), normalize=normalize)
