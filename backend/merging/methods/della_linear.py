"""Dropping small changes more often, then adding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.merging.blocks import Whole
from backend.merging.consensus import combine
from backend.merging.knobs import (
    Chance,
    Densities,
    Epsilon,
    Lam,
    Normalize,
    Rescale,
    Weights,
    check_chances,
    densities_of,
    weights_of,
)
from backend.merging.place import Place
from backend.merging.sparse import draw, keep_chances
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2406.11617",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    random=True,
    splits="rows",
    check=check_chances,
)
def della_linear(
    deltas: list[Tensor],
    place: Place,
    whole: Whole | None = None,
    *,
    lam: Lam = 0.6,
    density: Chance = 0.5,
    epsilon: Epsilon = 0.15,
    rescale: Rescale = "inverse",
    weights: Weights = (),
    densities: Densities = (),
    normalize: Normalize = "off",
) -> Tensor:
    """Drop changes at random, the small ones more often, scale up the rest, and add them.

    θ = θ0 + λ·Σ w_k û_k; in a row of m elements the one of ascending rank r stays with probability d − ε + 2ε·r/(m − 1)
    and is divided by it.

    Args:
        deltas: δ_k, fp32, any shape.
        place: the tensor's name and the seed.
        whole: the tensors these are blocks of, None where they are all of it.

    >>> from torch import tensor
    >>> della_linear([tensor([1.0, -2.0])], Place("w"), density=1.0)
    tensor([ 1., -2.])
    """
    shares = densities_of(densities, density, len(deltas))
    chances = [keep_chances(delta, share, epsilon) for delta, share in zip(deltas, shares, strict=True)]
    kept = [draw(deltas[k], chance, rescale, place, k, whole) for k, chance in enumerate(chances)]
    return combine(kept, weights_of(weights, len(kept)), normalize=normalize)
