"""The rows of one optimiser step: scored together, chosen together, whatever the micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from backend.tuning.data import Example
from backend.tuning.gradients import Gradient, Keeper, Scores, gates, per_sample
from backend.tuning.scores import wide
from backend.tuning.tools import Losses, Tools, weighted

Norm = Literal["sample", "token"]


class Window:
    """The rows of one optimiser step, and the gradient they leave in the parameters.

    Either `plain`, or `score` and then `combine`. Choices are made for the whole window, never for a part of it.

    Args:
        norm: whether rows count alike, or in proportion to the tokens of their answers; so do those that are chosen.
    """

    def __init__(self, tools: Tools, step: int, rows: Sequence[Example], norm: Norm = "sample") -> None:
        self.tools = tools
        self.step = step
        self.rows = rows
        self.tokens = [row.targets for row in rows]
        self.norm = norm
        self.scores: Scores | None = None
        self._kept: list[Tensor] = []

    def plain(self, losses: Losses) -> float:
        """The mean of the rows' losses, or of their tokens'."""
        if self.norm == "token":
            return self._weighted_pass(_positive(self.rows, self._by_tokens(torch.ones(len(self.rows)))), losses)
        total = 0.0
        for part in self.tools.chunks(self.rows):
            loss = losses(part).sum() / len(self.rows)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def score(self, direction: Gradient, metric: Gradient | None = None) -> Scores:
        """Loss, <g_i, d> and |g_i| of every row, with what `combine` needs kept aside."""
        tools = self.tools
        if tools.scorer == "sample":
            parts = []
            for part in tools.chunks(self.rows):
                keeper = Keeper(direction, metric=metric)
                with per_sample(tools.layers, keeper):
                    values = tools.losses(part)
                    values.sum().backward()  # type: ignore[no-untyped-call]
                parts.append(keeper.scores(values))
                assert keeper.flat is not None
                self._kept.append(keeper.flat)
        elif tools.scorer == "gate":
            parts = [self._gate(part, weighted(direction, metric)) for part in tools.chunks(self.rows)]
        else:
            parts = [tools.score_singly(self.rows, direction, tools.losses, metric)]
        norms = None if parts[0].norms is None else torch.cat([part.norms for part in parts if part.norms is not None])
        self.scores = Scores(torch.cat([p.losses for p in parts]), torch.cat([p.dots for p in parts]), norms)
        return self.scores

    def _gate(self, rows: Sequence[Example], direction: Gradient) -> Scores:
        """One backward pass for the dots and, in the parameters, for the sum of all gradients."""
        alpha = self.tools.gate_values(len(rows))
        with gates(self.tools.layers, direction, alpha):
            values = self.tools.losses(rows)
            values.sum().backward()  # type: ignore[no-untyped-call]
        assert alpha.grad is not None
        return Scores(wide(values.detach()).cpu(), wide(alpha.grad).cpu(), None)

    def combine(self, weights: Tensor) -> float:
        """Leave Σ p_i g_i in the parameters' gradients; returns Σ p_i l_i. Unscored, only rows with p > 0 are read.

        Where tokens count alike p_i is first multiplied by the tokens of row i, and brought back to a sum of 1.
        """
        if self.norm == "token":
            weights = self._by_tokens(weights)
        if self.scores is None:
            return self._weighted_pass(_positive(self.rows, weights))
        if self._kept:
            self._recombine(weights)
        elif self.tools.scorer == "gate" and _is_uniform(weights):
            self._subtract(weights)
        else:
            for one in self.tools.parameters:
                one.grad = None
            self._weighted_pass(_positive(self.rows, weights))
        self._kept = []
        return float((weights * self.scores.losses).sum())

    def _recombine(self, weights: Tensor) -> None:
        shares = torch.split(weights.to(self._kept[0]), [len(kept) for kept in self._kept])
        sums = [p @ flat for p, flat in zip(shares, self._kept, strict=True)]
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
        parameters = self.tools.parameters
        for part, one in zip(torch.split(total, [one.numel() for one in parameters]), parameters, strict=True):
            one.grad = part.view_as(one).to(one.dtype)

    def _subtract(self, weights: Tensor) -> None:
        """(Σ all − Σ dropped)/K: the second pass goes over the few dropped rows, not the many kept ones."""
        dropped = [row for row, p in zip(self.rows, weights.tolist(), strict=True) if p == 0]
        kept = len(self.rows) - len(dropped)
        if len(dropped) <= kept:
            self._weighted_pass([(row, -1.0) for row in dropped])
        else:
            for one in self.tools.parameters:
                one.grad = None
            self._weighted_pass([(row, 1.0) for row, p in zip(self.rows, weights.tolist(), strict=True) if p > 0])
        for one in self.tools.parameters:
            if one.grad is not None:
                one.grad.div_(kept)

    def _by_tokens(self, weights: Tensor) -> Tensor:
        longer = weights * torch.tensor(self.tokens, dtype=weights.dtype)
        return longer / longer.sum()

    def _weighted_pass(self, rows: Sequence[tuple[Example, float]], losses: Losses | None = None) -> float:
        total = 0.0
        for start in range(0, len(rows), self.tools.chunk):
            part = rows[start : start + self.tools.chunk]
            share = torch.tensor([weight for _, weight in part], device=self.tools.device)
            loss = ((losses or self.tools.losses)([row for row, _ in part]) * share).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total


def _positive(rows: Sequence[Example], weights: Tensor) -> list[tuple[Example, float]]:
    return [(row, p) for row, p in zip(rows, weights.tolist(), strict=True) if p > 0]


def _is_uniform(weights: Tensor) -> bool:
    positive = weights[weights > 0]
    return bool((positive == positive[0]).all())
