"""Seconds of a piece of work, on a CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(work: Callable[[], object], device: str) -> float:
    """Wall-clock seconds until the work, and on a GPU everything it queued, is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
