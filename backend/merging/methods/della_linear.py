"""Dropping small changes more often, then adding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from backend.errors import UserError
from backend.merging.consensus import combine
from backend.merging.knobs import Density, Lam, Normalize, Rescale, Weights, weights_of
from backend.merging.place import Place
from backend.merging.sparse import draw, keep_chances
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


def _probabilities(knobs: Mapping[str, Any]) -> None:
    density, epsilon = knobs["density"], knobs["epsilon"]
    if density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
        allowed = f"density − epsilon above 0 and density + epsilon below 1, here with density {density:g}"
        raise UserError("epsilon", got=epsilon, allowed=allowed, remedy="Choose a smaller epsilon.")


@merge_method(
    paper="arXiv:2406.11617",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    random=True,
    check=_probabilities,
)
def della_linear(
    deltas: list[Tensor],
    place: Place,
    *,
    lam: Lam = 0.6,
    density: Density = 0.5,
    epsilon: Annotated[float, Between(0, 0.5)] = 0.15,
    rescale: Rescale = "inverse",
    weights: Weights = (),
    normalize: Normalize = "off",
) -> Tensor:
    """Drop changes at random, the small ones more often, scale up the rest, and add them.

    θ = θ0 + λ·Σ w_k û_k; in a row of m elements the one of ascending rank r stays with probability d − ε + 2ε·r/(m − 1)
    and is divided by it.

    Args:
        deltas: δ_k, fp32, any shape.
        place: the tensor's name and the seed.
        lam: λ, no unit; 0 is the aligned model, 1 adds the whole merged step.
        density: the mean probability of a change to stay; 1 keeps all.
        epsilon: how far the probability to stay goes below the density for a row's smallest change and above it for
            the largest.
        rescale: what makes up for the dropped changes: dividing by the probability to stay, or matching the sum of
            magnitudes.
        weights: one for each fine-tuned model, 1 where none is given.
        normalize: divide the sum by the weights, by the number of models, or not.

    >>> from torch import tensor
    >>> della_linear([tensor([1.0, -2.0])], Place("w"), density=1.0)
    tensor([ 1., -2.])
    """
    chances = [keep_chances(delta, density, epsilon) for delta in deltas]
    kept = [draw(deltas[k], chance, rescale, place, k) for k, chance in enumerate(chances)]
    return combine(kept, weights_of(weights, len(kept)), normalize=normalize)
