"""Arithmetic of one thread: sums that several threads share out are taken in another order, so last bits differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backend.lazy import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch inside; as a decorator, in the whole function. Other devices do as ever.

    >>> torch.set_num_threads(2)
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads()
    2
    >>> torch.set_num_threads(1)
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
