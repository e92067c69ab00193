"""Intervals for rates and means. Pure Python; shares in, shares out, always 95 %."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

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


def replicates(matrix: Sequence[Sequence[float | None]], *, seed: str = "") -> list[float]:
    """Bootstrap means of a score measured for several training seeds (rows) on the same prompts (columns).

    Seeds and prompts are resampled independently of each other (the pigeonhole bootstrap, Owen 2007), so that the
    spread holds both kinds of chance. Calls of one shape and `seed` draw the same seeds and prompts: differences of
    two of them are paired.

    Args:
        matrix: scores in [0, 1], None where there is none (the judge could not tell).
        seed: names the stream of draws.

    >>> spread = replicates([[1, 0, 1, 1], [1, 0, 0, 1]])
    >>> len(spread), 0 <= min(spread) < max(spread) <= 1
    (2000, True)
    """
    import numpy as np  # kept out of the facade's start

    known = np.array([[value is not None for value in row] for row in matrix], dtype=float)
    values = np.array([[value or 0.0 for value in row] for row in matrix], dtype=float)
    by_seed, by_prompt = _draws(seed, *values.shape)
    weight = np.maximum((by_seed @ known * by_prompt).sum(1), 1e-12)
    return [float(one) for one in (by_seed @ values * by_prompt).sum(1) / weight]


@lru_cache(maxsize=8)
def _draws(seed: str, rows: int, columns: int) -> tuple[Any, Any]:
    """How often each replicate has each row and each column; kept, since the arms of a comparison share them."""
    import numpy as np

    draw = np.random.default_rng(list(seed.encode()) or [0])
    by_seed = draw.multinomial(rows, np.full(rows, 1 / rows), BOOTSTRAP_REPLICATES)
    by_prompt = draw.multinomial(columns, np.full(columns, 1 / columns), BOOTSTRAP_REPLICATES)
    return by_seed.astype(float), by_prompt.astype(float)


def percentiles(spread: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of bootstrap replicates."""
    ordered = sorted(spread)
    return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered)) - 1]


def over_seeds(matrix: Sequence[Sequence[float | None]], *, seed: str = "") -> Score:
    """The mean over seeds and prompts with the interval of `replicates`; `n` is prompts times seeds.

    Where every answer is the same a bootstrap sees no spread: then the bound of `rate` for the distinct prompts.

    >>> over_seeds([[1.0] * 100] * 3) == Score(1.0, rate(100, 100).low, 1.0, 300)
    True
    """
    values = [value for row in matrix for value in row if value is not None]
    if not values:
        return rate(0, 0)
    if set(values) in ({0.0}, {1.0}):
        bound = rate(round(values[0]) * len(matrix[0]), len(matrix[0]))
        return Score(values[0], bound.low, bound.high, len(values))
    low, high = percentiles(replicates(matrix, seed=seed))
    return Score(math.fsum(values) / len(values), low, high, len(values))
