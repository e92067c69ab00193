"""Supervised fine-tuning: the yardstick."""

from __future__ import annotations

from backend.registry import strategy
from backend.tuning.strategy import Strategy


@strategy(paper="supervised fine-tuning", needs="nothing else", cost="1")
def sft() -> Strategy:
    """Plain fine-tuning: learn the task data and look at nothing else.

    g = mean_i g_i, each sample's loss the mean over its answer tokens.

    >>> sft().needs
    frozenset()
    """
    return Strategy()
