"""Averaged gradient episodic memory: never climb on a random reference batch."""

from __future__ import annotations

from typing import Annotated

from backend.params import Between
from backend.registry import strategy
from backend.tuning.guard import FreshReferences
from backend.tuning.strategy import Strategy


@strategy(paper="arXiv:1812.00420", needs="references", cost="1 + b_ref/batch")
def agem(*, b_ref: Annotated[int, Between(0, 4096, "rows")] = 0) -> Strategy:
    """Take away from each task step what would raise the loss of a random batch of references.

    d = gradient of b_ref references drawn anew each step; g = g_task − (min(0, <g_task,d>)/|d|²) d, one dot over all
    weights. GEM (arXiv:1706.08840) holds one such constraint per earlier task, PCGrad (2001.06782) both ways.

    Args:
        b_ref: references per step; 0 takes as many as task rows.

    >>> sorted(agem().needs)
    ['references']
    """
    return FreshReferences(b_ref)
