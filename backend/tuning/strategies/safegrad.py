"""SafeGrad: project the task step, then pull back toward the start model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from backend.params import Between
from backend.registry import strategy
from backend.tuning.guard import FreshReferences
from backend.tuning.scores import Rule
from backend.tuning.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from backend.tuning.data import Example


@strategy(paper="arXiv:2508.07172", needs="references and the start model", cost="2.5")
def safegrad(
    *,
    rho: Annotated[float, Between(0, 2)] = 1.0,
    b_ref: Annotated[int, Between(0, 4096, "rows")] = 0,
    temperature: Annotated[float, Between(0.1, 10)] = 1.0,
) -> Strategy:
    """Remove from each task step what works against safety, and add a pull toward the start model's own answers.

    d = gradient of the mean KL(π_start || π) over the answer tokens of a reference batch;
    g = g_task − (min(0, <g_task,d>)/|d|²) d + ρ d.

    Args:
        rho: how hard each step is pulled toward the start model's answers; 0 leaves the step as it is.
        b_ref: references per step; 0 takes as many as task rows, as the paper does.
        temperature: of both models' distributions; above 1 it looks at unlikely words too.

    >>> sorted(safegrad().needs)
    ['references', 'start_model']
    """
    return SafeGrad(rho, b_ref, temperature)


class SafeGrad(FreshReferences):
    needs = frozenset({"references", "start_model"})
    rule: Rule = "safegrad"

    def __init__(self, rho: float, size: int, temperature: float) -> None:
        super().__init__(size)
        self.rho, self.temperature = rho, temperature

    def reference_losses(self, rows: Sequence[Example]) -> Tensor:
        return self.tools.drifts(rows, self.temperature)
