"""Knobs that several methods share: one name, one range and one sentence each. No torch.

A method whose knob means something more says so in its own docstring, which goes before the sentence here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from backend.errors import UserError
from backend.merging.by_tensor import curves_of
from backend.params import Between, ByTensor, Help, Several

Lam = Annotated[
    float,
    Between(0, 1, beyond=(-0.5, 1.5)),  # the papers stay between the two models; past them it goes on, or turns back
    Help("λ, no unit; 0 is the aligned model, 1 adds the whole merged step."),
]
Density = Annotated[
    float,
    Between(0.001, 1, step=0.001),
    Help("the share of each tensor's elements that stays, at least one; 1 keeps all."),
]
Chance = Annotated[float, Between(0.001, 1, step=0.001), Help("the mean probability of a change to stay; 1 keeps all.")]
Epsilon = Annotated[
    float,
    Between(0, 0.5),
    Help(
        "how far the probability to stay goes below the density for a row's smallest change and above it for the "
        "largest."
    ),
]
Outliers = Annotated[float, Between(0, 0.2), Help("the share that is dropped as outliers, the largest first.")]
Weights = Annotated[
    tuple[float, ...],
    Between(-2, 2),
    Several(),
    ByTensor(),
    Help(
        "one for each fine-tuned model in their order, 1 where none is given; in [1, [0, 0.5]] the second's rises from "
        "0 in the first layer to 0.5 in the last."
    ),
]
Densities = Annotated[
    tuple[float, ...],
    Between(0.001, 1),
    Several(),
    ByTensor(),
    Help(
        "another density for each fine-tuned model, written like the weights; where none is given, density is that of "
        "all."
    ),
]
Shares = Annotated[
    tuple[float, ...],
    Between(0, 2),
    Several(),
    Help("one for each fine-tuned model in their order, 1 where none is given."),
]
Normalize = Annotated[
    Literal["off", "weights", "count"],
    Several(),
    Help(
        "divide the sum by the weights that count, by the number of models that count (all without election), or not."
    ),
]
Election = Annotated[
    Literal["weighted", "total", "frequency"],
    Several(),
    Help("how the sign of each element is voted: by weighted sum, by plain sum (total) or by heads (frequency)."),
]
Rescale = Annotated[
    Literal["inverse", "l1", "none"],
    Help(
        "what makes up for the dropped changes: dividing by the probability to stay, or matching the sum of magnitudes."
    ),
]


def weights_of(given: tuple[float, ...] | list[float], count: int) -> list[float]:
    """One weight for each fine-tuned model; none given means 1 each.

    >>> weights_of((), 2)
    [1.0, 1.0]
    """
    return list(given) if given else [1.0] * count


def densities_of(given: tuple[float, ...] | list[float], density: float, count: int) -> list[float]:
    """One density for each fine-tuned model.

    >>> densities_of((), 0.5, 2), densities_of((0.2, 0.9), 0.5, 2)
    ([0.5, 0.5], [0.2, 0.9])
    """
    return list(given) if given else [density] * count


def check_chances(knobs: Mapping[str, Any]) -> None:
    """Refuse a density and an epsilon between which a probability would leave 0 to 1.

    >>> check_chances({"density": 0.5, "epsilon": 0.15, "densities": [0.5, [0.4, 1.0]]})
    """
    epsilon, curves = knobs["epsilon"], [curves_of(one) for one in knobs.get("densities") or [knobs["density"]]]
    for density in (number for one in curves for curve in one for number in curve):
        if density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            allowed = f"density − epsilon above 0 and density + epsilon below 1, here with density {density:g}"
            raise UserError("epsilon", got=epsilon, allowed=allowed, remedy="Choose a smaller epsilon.")
