"""Threads that rewrite blocks of a tensor side by side, each with room of its own that it uses again and again.

A block is a few passes of torch over the same numbers. One core that makes all of them finds them in its cache; cores
that share every pass hand them to each other through memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Block = TypeVar("Block")


def lone_threads(count: int) -> ThreadPoolExecutor:
    """Threads that each compute with one thread of torch. Others may read that setting: restore it afterwards."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


class Crew:
    """As many threads as torch computes with; with one thread, or outside a `with`, the caller's own.

    What they were given is done at the end of the `with`, or when `wait` returns.
    """

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._open = False
        self._waiting: list[Future[None]] = []
        self._room = threading.local()

    def __enter__(self) -> Crew:
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open = False
        if self._pool is not None:
            try:
                self._pool.shutdown(cancel_futures=error is not None)
            finally:
                torch.set_num_threads(self.threads)
        if error is None:
            self.wait()

    def each(self, work: Callable[[Block], object], blocks: Sequence[Block], device: torch.device) -> None:
        """Do `work` for every block, in any order; the caller prepares the next tensor meanwhile."""
        if not self._open or self.threads == 1 or len(blocks) == 1 or device.type != "cpu":
            for block in blocks:
                work(block)
            return
        if self._pool is None:
            self._pool = lone_threads(self.threads)

        def part(number: int) -> None:
            with torch.inference_mode():  # which is each thread's own
                for block in blocks[number * share : (number + 1) * share]:
                    work(block)

        share = -(-len(blocks) // self.threads)  # handing over every block by itself would cost as much as it takes
        self._waiting += [self._pool.submit(part, number) for number in range(self.threads)]

    def wait(self) -> None:
        """Until all is done that was given so far; raises what a thread raised."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.result()

    def room(self, number: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """This thread's room for as many numbers as `like` has, laid flat; one for each number. fp32 unless said."""
        rooms: dict[tuple[int, torch.device, torch.dtype], Tensor] = self._room.__dict__.setdefault("rooms", {})
        place = (number, like.device, dtype or torch.float32)
        if place not in rooms or rooms[place].numel() < like.numel():
            rooms[place] = torch.empty(like.numel(), dtype=place[2], device=like.device)
        return rooms[place][: like.numel()]
