"""Knobs that several methods share, by one name and one range. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from backend.params import Between, Several

Lam = Annotated[float, Between(0, 1)]
Density = Annotated[float, Between(0.001, 1)]
Weights = Annotated[tuple[float, ...], Between(-2, 2), Several()]
Shares = Annotated[tuple[float, ...], Between(0, 2), Several()]
Normalize = Annotated[Literal["off", "weights", "count"], Several()]
Election = Annotated[Literal["weighted", "total", "frequency"], Several()]
Rescale = Literal["inverse", "l1", "none"]


def weights_of(given: tuple[float, ...] | list[float], count: int) -> list[float]:
    """One weight for each fine-tuned model; none given means 1 each.

    >>> weights_of((), 2)
    [1.0, 1.0]
    """
    return list(given) if given else [1.0] * count
