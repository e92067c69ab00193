"""The maths of choosing samples and joining gradients: pure functions of small tensors. Knows no model and no data.

Symbols as in ARCHITECTURE.md and arXiv:2606.09866: l and r are losses, c and s the scores of task samples and
references, p and q their weights, g the task gradient, d the references' direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Scale = Literal["z", "rank", "off"]
Rule = Literal["safegrad", "add", "agem", "none"]

CLIP = 3.0  # a z-score counts no further than this
FLAT = 1e-8  # a deviation below this is none
SHORTEST = 1e-12  # a vector below this length has no direction
ENOUGH = 16  # values from which on a mean and a deviation are no noise


# ------------------------------------------------------------------------------------------------ one scale


def cosine(dots: Tensor, norms: Tensor, length: float) -> Tensor:
    """cos = <g, d> / (|g| |d|), and 0 where one of the two is shorter than 1e-12.

    >>> from torch import tensor
    >>> cosine(tensor([2.0, 0.0]), tensor([1.0, 0.0]), 4.0)
    tensor([0.5000, 0.0000])
    """
    if length < SHORTEST:
        return torch.zeros_like(dots)
    return torch.where(norms < SHORTEST, torch.zeros_like(dots), dots / (norms.clamp(min=SHORTEST) * length))


def standardise(values: Tensor, scale: Scale = "z", *, clip: float = CLIP) -> Tensor:
    """Losses or cosines of one set on a common scale: z, ranks, or as they are.

    z = clip((v − mean)/std, ±3); ranks have mean 0 and std 1. Values that are all alike give 0.

    >>> from torch import tensor
    >>> standardise(tensor([1.0, 2.0, 3.0]))
    tensor([-1.2247,  0.0000,  1.2247])
    >>> standardise(tensor([1.0, 9.0, 100.0]), "rank")
    tensor([-1.2247,  0.0000,  1.2247])
    """
    if scale == "off":
        return values
    if scale == "rank":
        values = (values[:, None] > values).sum(1) - (values[:, None] < values).sum(1)
        values = values.to(torch.float32)
    return scaled(values, float(values.mean()), float(values.std(unbiased=False)), clip=clip)


def scaled(values: Tensor, mean: float, deviation: float, *, clip: float = CLIP) -> Tensor:
    """clip((v − mean)/deviation, ±clip), 0 where there is no deviation."""
    if not deviation >= FLAT * max(1.0, abs(mean)):
        return torch.zeros_like(values)
    return ((values - mean) / deviation).clamp(-clip, clip)


class Moments(NamedTuple):
    """A running mean and mean square (exponential, 0.95), for windows too small to have their own.

    >>> from torch import tensor
    >>> Moments().seen(tensor([1.0, 3.0])).mean
    2.0
    """

    mean: float = 0.0
    square: float = 0.0
    started: bool = False

    def seen(self, values: Tensor, keep: float = 0.95) -> Moments:
        mean, square = float(values.mean()), float(values.pow(2).mean())
        if not self.started:
            return Moments(mean, square, True)
        return Moments(keep * self.mean + (1 - keep) * mean, keep * self.square + (1 - keep) * square, True)

    @property
    def deviation(self) -> float:
        return float(max(0.0, self.square - self.mean**2) ** 0.5)

    def standardise(self, values: Tensor, scale: Scale, *, clip: float = CLIP) -> Tensor:
        """The values' own z from 16 on, the running one below; ranks and raw values need no moments."""
        if scale != "z" or len(values) >= ENOUGH:
            return standardise(values, scale, clip=clip)
        return scaled(values, self.mean, self.deviation, clip=clip)


# ------------------------------------------------------------------------------------------------ reference weights


def top_weights(scores: Tensor, k: int) -> Tensor:
    """1/K on the K largest scores, 0 elsewhere; of equal ones the first.

    >>> from torch import tensor
    >>> top_weights(tensor([1.0, 5.0, 5.0, 5.0]), 2)
    tensor([0.0000, 0.5000, 0.5000, 0.0000])
    """
    k = min(k, len(scores))
    chosen = torch.argsort(scores, descending=True, stable=True)[:k]
    return torch.zeros_like(scores).index_fill_(0, chosen, 1 / k)


def capped_simplex(scores: Tensor, tau: float, k: int) -> Tensor:
    """The weights that maximise <q, s> + τ·H(q) with 0 <= q_j <= 1/K: q_j = min(1/K, exp((s_j − z)/τ)).

    z is found by bisection in [min s + τ log K, τ logsumexp(s/τ)]. τ → 0 gives the K largest, K = 1 the softmax.

    Args:
        scores: [n]
        tau: τ >= 0, in units of the scores.
        k: K >= 1; at most n counts.

    >>> from torch import tensor
    >>> capped_simplex(tensor([2.0, 1.0, 0.0]), 0.5, 2)
    tensor([0.5000, 0.4404, 0.0596])
    >>> capped_simplex(tensor([2.0, 1.0, 0.0]), 0.0, 2)
    tensor([0.5000, 0.5000, 0.0000])
    """
    k = max(1, min(k, len(scores)))
    if tau <= 0:
        return top_weights(scores, k)
    exact = scores.double()
    cap = 1 / k
    low = float(exact.min()) + tau * torch.log(torch.tensor(float(k))).item()
    high = float(tau * torch.logsumexp(exact / tau, 0))
    low = min(low, high)
    for _ in range(100):
        middle = (low + high) / 2
        if float(((exact - middle) / tau).exp().clamp(max=cap).sum()) > 1:
            low = middle
        else:
            high = middle
    weights = ((exact - high) / tau).exp().clamp(max=cap)
    return (weights / weights.sum()).clamp(max=cap).to(scores.dtype)


def quotas(k: int, helpful: int, others: int, share: float) -> tuple[int, int]:
    """How many of K references are helpful answers and how many others, when `share` should be helpful.

    What one side does not have the other gives.

    >>> quotas(10, helpful=100, others=100, share=0.5), quotas(10, helpful=2, others=100, share=0.5)
    ((5, 5), (2, 8))
    """
    k = min(k, helpful + others)
    wanted = min(round(share * k), helpful)
    rest = min(k - wanted, others)
    return k - rest, rest


def entropy(weights: Tensor, among: int) -> float:
    """H(q) divided by the log of how many could be chosen: 0 when one holds all weight, 1 when all are alike.

    Args:
        weights: q of the chosen ones, summing to 1; the others of `among` have 0.

    >>> from torch import tensor
    >>> entropy(tensor([0.25, 0.25, 0.25, 0.25]), 4), entropy(tensor([0.25, 0.25, 0.25, 0.25]), 16)
    (1.0, 0.5)
    >>> entropy(tensor([1.0]), 16)
    0.0
    """
    if among < 2:
        return 0.0
    chaos = -(weights * weights.clamp(min=1e-30).log()).sum() / math.log(among)
    return round(float(chaos), 6) + 0.0


def jaccard(first: set[str], second: set[str]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets.

    >>> jaccard({"a", "b"}, {"b", "c"})
    0.3333333333333333
    """
    return len(first & second) / len(first | second) if first | second else 1.0


def chance_jaccard(k: int, n: int) -> float:
    """What two random choices of k out of n share: k/(2n − k).

    >>> chance_jaccard(10, 100)
    0.05263157894736842
    """
    return k / (2 * n - k) if n else 1.0


# ------------------------------------------------------------------------------------------------ task weights


def keep_within_budget(order: Sequence[int], tokens: Sequence[int], budget: float) -> list[int]:
    """Whole samples in `order`: the first ones whose tokens come nearest to `budget`, at least one.

    A running budget carries what was kept too much or too little into the next window, so that the share holds over
    the run although samples are whole. At equal distance fewer are kept.

    >>> keep_within_budget([2, 0, 1], [10, 10, 10], 21.0)
    [2, 0]
    >>> keep_within_budget([2, 0, 1], [10, 10, 10], -5.0)
    [2]
    """
    kept, best, total = 0, float("inf"), 0
    for count, row in enumerate(order, start=1):
        total += tokens[row]
        if abs(total - budget) < best:
            kept, best = count, abs(total - budget)
    return list(order[: max(1, kept)])


def soft_weights(costs: Tensor, kept: Sequence[int], tau: float) -> Tensor:
    """p over all samples, 0 on those not kept: alike for τ = 0, else ~ exp(−c/τ).

    >>> from torch import tensor
    >>> soft_weights(tensor([0.0, 1.0, 2.0]), [0, 1], 0.0)
    tensor([0.5000, 0.5000, 0.0000])
    """
    chosen = torch.tensor(list(kept))
    share = (
        torch.full((len(chosen),), 1 / len(chosen), dtype=costs.dtype)
        if tau <= 0
        else torch.softmax(-costs[chosen] / tau, 0)
    )
    return torch.zeros_like(costs).index_put_((chosen,), share.to(costs.dtype))


# ------------------------------------------------------------------------------------------------ joining gradients


class Correction(NamedTuple):
    """What to add to the task gradient: `pull`·d; `projected` is the removed share of its length."""

    pull: float
    projected: float


def correction(rule: Rule, dot: float, task: float, direction: float, *, rho: float, norm_match: bool) -> Correction:
    """How much of the direction d joins the task gradient g; every rule is g + pull·d.

        add:       g + ρ d                                        may still climb on the references
        agem:      g − (min(0, <g,d>)/|d|²) d                     then <g,d> >= 0; ρ unused      (arXiv:1812.00420)
        safegrad:  g − (min(0, <g,d>)/|d|²) d + ρ d               (arXiv:2508.07172)

    Args:
        dot: <g, d>.
        task: |g|.
        direction: |d|.
        rho: ρ >= 0; 0 leaves the step as it is, except for agem.
        norm_match: first shorten d to at most |g|, so that ρ means the same for every model.

    >>> correction("safegrad", -2.0, 1.0, 4.0, rho=0.5, norm_match=True)
    Correction(pull=0.25, projected=0.5)
    >>> correction("add", -2.0, 1.0, 4.0, rho=0.0, norm_match=True)
    Correction(pull=0.0, projected=0.0)
    """
    if not acts(rule, rho) or direction < SHORTEST:
        return Correction(0.0, 0.0)
    shrink = min(1.0, task / direction) if norm_match else 1.0
    pull = 0.0 if rule == "agem" else rho * shrink
    if rule == "add" or dot >= 0:
        return Correction(pull, 0.0)
    removed = -dot / direction**2
    return Correction(removed + pull, removed * direction / max(task, SHORTEST))


def acts(rule: Rule, rho: float) -> bool:
    """Whether a rule changes anything at all.

    >>> acts("agem", 0.0), acts("safegrad", 0.0), acts("none", 1.0)
    (True, False, False)
    """
    return rule == "agem" or (rule in ("add", "safegrad") and rho > 0)


# ------------------------------------------------------------------------------------------------ gradients as lists


def wide(values: Tensor) -> Tensor:
    """At least fp32."""
    return values if values.dtype == torch.float64 else values.float()


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The inner product of two gradients given tensor by tensor, in fp32.

    >>> from torch import tensor
    >>> dot([tensor([1.0, 2.0]), tensor([3.0])], [tensor([1.0, 1.0]), tensor([2.0])])
    9.0
    """
    parts = [torch.dot(wide(a).flatten(), wide(b).flatten()) for a, b in zip(left, right, strict=True)]
    return float(torch.stack(parts).double().sum())


def norm(gradient: Sequence[Tensor]) -> float:
    """The length of a gradient given tensor by tensor, in fp32.

    >>> from torch import tensor
    >>> norm([tensor([3.0]), tensor([4.0])])
    5.0
    """
    parts = torch._foreach_norm([wide(one.detach()) for one in gradient])
    return float(torch.stack(list(parts)).double().norm())


def add_into(gradient: Sequence[Tensor], direction: Sequence[Tensor], factor: float) -> None:
    """g += factor·d, in place."""
    like = [right.to(left.dtype) for left, right in zip(gradient, direction, strict=True)]
    torch._foreach_add_(list(gradient), like, alpha=factor)
