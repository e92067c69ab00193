"""Dropping changes at random, then electing signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.merging.blocks import Whole
from backend.merging.consensus import combine
from backend.merging.knobs import (
    Chance,
    Densities,
    Election,
    Lam,
    Normalize,
    Rescale,
    Weights,
    densities_of,
    weights_of,
)
from backend.merging.place import Place
from backend.merging.sparse import draw
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2311.03099",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    random=True,
    splits="elements",
)
def dare_ties(
    deltas: list[Tensor],
    place: Place,
    whole: Whole | None = None,
    *,
    lam: Lam = 0.6,
    density: Chance = 0.5,
    rescale: Rescale = "inverse",
    weights: Weights = (),
    densities: Densities = (),
    normalize: Normalize = "off",
    election: Election = "weighted",
) -> Tensor:
    """Drop changes at random, scale up the rest, elect a sign for each weight and add what agrees.

    θ = θ0 + λ·Σ m_k w_k û_k, û_k = δ_k kept with probability d and divided by d; m_k = 1 where û_k has the elected
    sign.

    Args:
        deltas: δ_k, fp32, any shape.
        place: the tensor's name and the seed.
        whole: the tensors these are blocks of, None where they are all of it.

    >>> from torch import tensor
    >>> dare_ties([tensor([1.0, -2.0])], Place("w"), density=1.0)
    tensor([ 1., -2.])
    """
    shares = densities_of(densities, density, len(deltas))
    kept = [draw(deltas[k], share, rescale, place, k, whole) for k, share in enumerate(shares)]
    return combine(kept, weights_of(weights, len(kept)), normalize=normalize, election=election)
