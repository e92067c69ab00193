"""What strategies with a fresh reference batch per step share: draw it, take its gradient, correct the task's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backend.lazy import torch
from backend.tuning import scores
from backend.tuning.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from backend.tuning.data import Example
    from backend.tuning.tools import Tools
    from backend.tuning.window import Window


def correct(
    gradient: Sequence[Tensor], direction: Sequence[Tensor], rule: scores.Rule, *, rho: float, norm_match: bool
) -> dict[str, float]:
    """Apply a rule of `scores.correction` to `gradient` in place; the cosine before, and the share projected away."""
    product, task, length = scores.dot(gradient, direction), scores.norm(gradient), scores.norm(direction)
    found = scores.correction(rule, product, task, length, rho=rho, norm_match=norm_match)
    if found.pull:
        scores.add_into(gradient, direction, found.pull)
    short = min(task, length) < scores.SHORTEST
    return {"cos_task_ref": 0.0 if short else product / (task * length), "projected": found.projected}


class FreshReferences(Strategy):
    """Every step is corrected by the gradient of a random batch of references."""

    needs = frozenset({"references"})
    rule: scores.Rule = "agem"
    rho = 0.0

    def __init__(self, size: int) -> None:
        self.size = size
        self._metrics: dict[str, float] = {}

    def effort(self, batch: int) -> float:
        return 1 + (self.size or batch) / batch * (1.5 if "start_model" in self.needs else 1)

    def prepare(self, tools: Tools) -> None:
        super().prepare(tools)
        self.size = min(self.size or tools.batch, len(tools.references))

    def reference_losses(self, rows: Sequence[Example]) -> Tensor:
        """What "forgotten" means, [rows], with its graph."""
        return self.tools.losses(rows)

    def correct(self, gradient: list[Tensor], window: Window) -> None:
        tools = self.tools
        order = torch.randperm(len(tools.references), generator=tools.generator("references"))[: self.size].tolist()
        rows = [tools.references[one] for one in order]
        direction, loss = tools.gradient(rows, [1 / len(rows)] * len(rows), self.reference_losses)
        self._metrics = {"loss_ref": loss} | correct(gradient, direction, self.rule, rho=self.rho, norm_match=False)

    def metrics(self) -> dict[str, Any]:
        return dict(self._metrics)
