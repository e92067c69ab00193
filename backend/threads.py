"""How many threads compute. Sums that several threads share out are taken in another order, so last bits differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from backend.lazy import torch
from backend.settings import expected_threads


def thread_count() -> int:
    """The threads that torch computes with, or would if it were loaded."""
    return torch.get_num_threads() if "torch" in sys.modules else expected_threads()


def set_thread_count(count: int) -> None:
    """Have torch compute with so many where it is loaded."""
    if "torch" in sys.modules:
        torch.set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch inside; as a decorator, in the whole function. Other devices do as ever.

    >>> torch.set_num_threads(2)
    >>> with one_thread():
    ...     thread_count()
    1
    >>> thread_count()
    2
    >>> torch.set_num_threads(1)
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
