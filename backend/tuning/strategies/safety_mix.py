"""Safety pairs mixed into the task data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.lazy import torch
from backend.params import Between
from backend.registry import strategy
from backend.tuning.strategy import Strategy

if TYPE_CHECKING:
    from backend.tuning.tools import Tools


@strategy(paper="arXiv:2309.07875", needs="references", cost="1 + share")
def safety_mix(*, share: Annotated[float, Between(0, 1, "of the task rows")] = 0.03) -> Strategy:
    """Mix some references into the task data and fine-tune on both.

    n = share·N references, drawn at random, join the N task rows and are shuffled with them. The paper adds 100 to
    2,000 safety pairs to 20,000 rows; too many teach refusing everything.

    Args:
        share: how many references are added for each task row.

    >>> sorted(safety_mix().needs)
    ['references']
    """
    return SafetyMix(share)


class SafetyMix(Strategy):
    needs = frozenset({"references"})

    def __init__(self, share: float) -> None:
        self.share = share

    def prepare(self, tools: Tools) -> None:
        super().prepare(tools)
        count = round(self.share * len(tools.task)) or int(self.share > 0)  # none would be plain fine-tuning
        generator = tools.generator("mix")
        while count > 0:
            order = torch.randperm(len(tools.references), generator=generator).tolist()[:count]
            tools.task = tools.task + [tools.references[one] for one in order]
            count -= len(order)
