"""Several task vectors into one: weighted sums, with the signs elected first where the method wants that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def combine(steps: Sequence[Tensor], weights: Sequence[float], *, normalize: str, election: str = "") -> Tensor:
    """Σ m_k w_k û_k, divided as `normalize` says; m_k = 1 where û_k has the elected sign, everywhere without election.

    One step with weight 1 is given back as it is: there is nothing to elect or to divide.

    Args:
        steps: û_k, K tensors of one shape.
        weights: w_k.
        normalize: "off"; "weights" divides by Σ m_k w_k as mergekit does; "count" by the number agreeing, as PEFT does.
        election: "" for none; "weighted" elects the sign of Σ w_k û_k as mergekit does, "total" that of Σ û_k and
            "frequency" that of Σ sign(û_k), as PEFT does. A sum of 0 elects plus; zeros never agree.

    >>> from torch import tensor
    >>> combine([tensor([1.0, 2.0]), tensor([-3.0, 4.0])], [1.0, 1.0], normalize="weights", election="weighted")
    tensor([-3.,  3.])
    """
    if len(steps) == 1 and weights[0] == 1:
        return steps[0]
    if not election:
        whole = torch.zeros_like(steps[0])
        for step, weight in zip(steps, weights, strict=True):
            whole += weight * step
        divisor = {"off": 1.0, "weights": float(sum(weights)), "count": float(len(steps))}[normalize]
        return whole if abs(divisor) < 1e-8 or divisor == 1 else whole / divisor
    plus = elected(steps, weights, election) >= 0
    whole, below = torch.zeros_like(steps[0]), torch.zeros_like(steps[0])
    for step, weight in zip(steps, weights, strict=True):
        # The sign that counts is that of w·û where weights vote, that of û where they do not.
        vote = weight * step if election == "weighted" else step
        agrees = torch.where(plus, vote > 0, vote < 0)
        whole += weight * step * agrees
        below += agrees * (weight if normalize == "weights" else 1.0)
    if normalize == "off":
        return whole
    return whole / torch.where(below == 0, torch.ones_like(below), below)


def elected(steps: Sequence[Tensor], weights: Sequence[float], election: str) -> Tensor:
    """The sum whose sign is elected."""
    votes = torch.zeros_like(steps[0])
    for step, weight in zip(steps, weights, strict=True):
        votes += step.sign() if election == "frequency" else step if election == "total" else weight * step
    return votes
