"""Two sets of models on the same prompts: whose front dominates more, and how sure that is. Pure, numpy only.

The prompts are resampled, the same draw for every model (a paired bootstrap), so that what hard prompts do to both
cancels. Which models are in a set is fixed beforehand: choose them on other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.frontier import hypervolume

REPLICATES = 2000
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Marks:
    """One suite: what each model's answer to each prompt is worth, and whether it counts; both (models, prompts)."""

    axis: str
    worth: Numbers
    counted: Numbers


@dataclass(frozen=True)
class Verdict:
    """Hypervolumes against (0, 0), in shares, and the 95 % interval of found − uniform."""

    found: float
    uniform: float
    low: float
    high: float
    replicates: int

    @property
    def difference(self) -> float:
        return self.found - self.uniform


def contest(
    suites: Sequence[Marks],
    found: Sequence[int],
    uniform: Sequence[int],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Verdict:
    """Compare the fronts of two sets of models by hypervolume, with a paired bootstrap over prompts.

    Args:
        suites: marks of the same models in the same order; an axis is the unweighted mean of its suites.
        found: which models are in the first set, as rows of the marks.
        uniform: which are in the second; a model may be in both.

    >>> marks = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    >>> both = [Marks(axis, marks, np.ones_like(marks)) for axis in ("task", "safety")]
    >>> verdict = contest(both, [0], [1], seed=0)
    >>> verdict.found, verdict.uniform, verdict.low >= 0
    (0.5625, 0.25, True)
    """
    draw = np.random.default_rng(seed)
    models = suites[0].worth.shape[0]
    whole = _axes(suites, [np.ones((1, one.worth.shape[1])) for one in suites], models)
    counts = []
    for one in suites:
        prompts = one.worth.shape[1]
        counts.append(draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=replicates).astype(np.float64))
    drawn = _axes(suites, counts, models)
    differences = [_area(drawn, row, found) - _area(drawn, row, uniform) for row in range(replicates)]
    low, high = np.quantile(differences, [0.025, 0.975])
    return Verdict(_area(whole, 0, found), _area(whole, 0, uniform), float(low), float(high), replicates)


def _axes(suites: Sequence[Marks], counts: Sequence[Numbers], models: int) -> dict[str, Numbers]:
    """axis -> scores, (replicates, models): per suite Σ worth/Σ counted, averaged over the axis's suites."""
    by_axis: dict[str, list[Numbers]] = {}
    for one, drawn in zip(suites, counts, strict=True):
        total = drawn @ one.counted.T
        share = np.divide(drawn @ one.worth.T, total, out=np.zeros((len(drawn), models)), where=total > 0)
        by_axis.setdefault(one.axis, []).append(share)
    return {axis: np.mean(scores, axis=0) for axis, scores in by_axis.items()}


def _area(scores: Mapping[str, Numbers], row: int, chosen: Sequence[int]) -> float:
    task, safety = scores["task"][row], scores["safety"][row]
    return hypervolume([(float(task[model]), float(safety[model])) for model in chosen])
