"""The references and which of them protect now: who is looked at, who is chosen, with what weight. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from backend.lazy import torch
from backend.tuning.balance import HELPFUL
from backend.tuning.scores import capped_simplex, quotas

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from backend.tuning.data import Example

FLOOR, CEILING = 64, 1024
REFRESH_SHARE = 0.09
COST = 1.35  # of looking at a reference, in task rows: its gradient, and what the start model says


def pool_size(rows: int, batch: int, every: int, relative_length: float) -> int:
    """M: as many references as 9 % of the training time allow, at least 64 and at most 1,024 or all.

    Args:
        relative_length: tokens of a mean reference divided by those of a mean task row.

    >>> pool_size(600, 32, 100, 1.0), pool_size(5000, 8, 25, 4.0), pool_size(30, 16, 100, 1.0)
    (213, 64, 30)
    """
    affordable = int(REFRESH_SHARE * batch * every / (COST * max(relative_length, 1e-6)))
    return min(rows, CEILING, max(FLOOR, affordable))


def shared_start(rows: Sequence[Example]) -> int:
    """How many tokens all answers begin with alike: a chat template's own words, an empty block of thoughts for one.

    They say nothing about whether an answer declines. 0 where an answer is no more than they are.

    >>> from backend.tuning.data import Example
    >>> shared_start([Example((1, 7, 8, 2), prompt=1), Example((5, 5, 7, 8, 3), prompt=2)])
    2
    >>> shared_start([Example((1, 7, 8), prompt=1), Example((5, 5, 7, 8, 3), prompt=2)])
    0
    """
    answers = [row.tokens[row.prompt :] for row in rows]
    first, last = min(answers), max(answers)  # whatever all begin with, these two do
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return shared if all(len(answer) > shared for answer in answers) else 0


@dataclass
class Pool:
    """References in the order of their ids, and the present choice as index -> weight."""

    rows: Sequence[Example]
    size: int
    k: int
    tau: float
    kind_quota: float
    generator: Generator
    chosen: dict[int, float] = field(default_factory=dict)
    place: int = 0
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = torch.randperm(len(self.rows), generator=self.generator).tolist()

    def candidates(self) -> list[int]:
        """The next `size` references of a fixed random round, and the previous choice; rising, each once."""
        count = min(self.size, len(self.rows))
        turn = [self.order[(self.place + step) % len(self.order)] for step in range(count)]
        self.place = (self.place + count) % len(self.order)
        return sorted({*turn, *self.chosen})

    def choose(self, indices: Sequence[int], scores: Tensor) -> Tensor:
        """Weights of the scored references, summing to 1, chosen for helpful answers and others apart.

        With k = 1 and τ > 0 they are the softmax of all scores, which cannot be shared out between two kinds.
        """
        helpful, others = self._sides(indices)
        if self.kind_quota < 0 or not helpful or not others or (self.k == 1 and self.tau > 0):
            weights = capped_simplex(scores, self.tau, self.k)
        else:
            weights = torch.zeros_like(scores)
            counts = quotas(self.k, len(helpful), len(others), self.kind_quota)
            for at, count in zip((helpful, others), counts, strict=True):
                if count:
                    weights[at] = capped_simplex(scores[at], self.tau, count) * count / sum(counts)
        self._keep(indices, weights)
        return weights

    def choose_at_random(self) -> None:
        """k references drawn alike, by kind as `choose` does."""
        everyone = list(range(len(self.rows)))
        self.choose(everyone, torch.rand(len(everyone), generator=self.generator))

    def choose_all(self) -> None:
        """Every reference with the same weight."""
        self.chosen = dict.fromkeys(range(len(self.rows)), 1 / len(self.rows))

    def _keep(self, indices: Sequence[int], weights: Tensor) -> None:
        pairs = zip(indices, weights.tolist(), strict=True)
        self.chosen = {index: weight for index, weight in pairs if weight > 0}

    def draw(self, count: int) -> tuple[list[int], list[float]]:
        """A batch drawn from the chosen by their weights, without replacement, each counting alike.

        Helpful answers and others have the shares in it that they have among the chosen: left to chance, a batch of
        eight is now and then of one kind. All of them with their own weights where that is no more than `count`.
        """
        indices, weights = list(self.chosen), list(self.chosen.values())
        if len(indices) <= count:
            return indices, weights
        sides = self._sides(indices)
        share = sum(weights[at] for at in sides[0])
        drawn: list[int] = []
        for side, number in zip(sides, quotas(count, len(sides[0]), len(sides[1]), share), strict=True):
            if number:
                likely = torch.tensor([weights[at] for at in side])
                places = torch.multinomial(likely, number, generator=self.generator).tolist()
                drawn += [indices[side[place]] for place in places]
        return sorted(drawn), [1 / count] * count

    def _sides(self, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """The places of the helpful answers among these references, and those of the others."""
        helpful = [at for at, index in enumerate(indices) if self.rows[index].kind == HELPFUL]
        others = [at for at, index in enumerate(indices) if self.rows[index].kind != HELPFUL]
        return helpful, others

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": dict(self.chosen), "place": self.place, "order": list(self.order)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen, self.place, self.order = dict(state["chosen"]), state["place"], list(state["order"])
