"""Intervals for rates and means. Pure Python; shares in, shares out, always 95 %."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from backend.types import Score

Z = 1.959963984540054
BOOTSTRAP_REPLICATES = 2000


def rate(successes: int, n: int) -> Score:
    """A share with its Wilson interval; at 0 and n the closed Clopper–Pearson bound 1 − 0.025^(1/n).

    Args:
        successes: how many of `n`, 0 … n.
        n: how many trials; 0 gives a score without a value and the interval [0, 1].
    Raises:
        ValueError: more successes than trials.

    >>> score = rate(7, 10)
    >>> round(score.low, 4), score.value, round(score.high, 4)
    (0.3968, 0.7, 0.8922)
    >>> round(rate(0, 100).high, 4)
    0.0362
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    if n == 0:
        return Score(None, 0.0, 1.0, 0)
    bound = 0.025 ** (1 / n)
    if successes == 0:
        return Score(0.0, 0.0, 1 - bound, n)
    if successes == n:
        return Score(1.0, bound, 1.0, n)
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Score(p, centre - half, centre + half, n)


def mean(values: Sequence[float], *, seed: int = 0) -> Score:
    """The mean of scores in [0, 1]: a `rate` when all are 0 or 1, else a percentile bootstrap over prompts.

    >>> mean([1.0, 0.0, 1.0, 1.0]) == rate(3, 4)
    True
    >>> mean([0.5, 0.5]).low
    0.5
    """
    if all(value in (0.0, 1.0) for value in values):
        return rate(round(sum(values)), len(values))
    n = len(values)
    draw = random.Random(seed)
    means = sorted(sum(draw.choices(values, k=n)) / n for _ in range(BOOTSTRAP_REPLICATES))
    low, high = means[int(0.025 * BOOTSTRAP_REPLICATES)], means[int(0.975 * BOOTSTRAP_REPLICATES) - 1]
    return Score(sum(values) / n, low, high, n)


def average(scores: Sequence[Score]) -> Score:
    """The unweighted mean over suites, its interval from the suites' own (square-and-add, suites independent).

    Suites are never pooled over prompts: a long suite would drown a short one. `n` is the number of prompts in all.

    >>> average([rate(50, 100)]) == rate(50, 100)
    True
    >>> both = average([rate(0, 100), rate(100, 100)])
    >>> both.value, both.n
    (0.5, 200)
    """
    measured = [score for score in scores if score.value is not None]
    if not measured:
        return rate(0, 0)
    if len(measured) == 1:
        return measured[0]
    k = len(measured)
    value = math.fsum(score.value for score in measured if score.value is not None) / k
    below = math.sqrt(math.fsum(((score.value or 0.0) - score.low) ** 2 for score in measured)) / k
    above = math.sqrt(math.fsum((score.high - (score.value or 0.0)) ** 2 for score in measured)) / k
    return Score(value, max(0.0, value - below), min(1.0, value + above), sum(score.n for score in measured))
