"""Products of large matrices that use every core and have the same bits on any number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.crew import lone_threads
from backend.threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 256


def by_columns(work: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    """`work` of each block of 256 columns, side by side; on a GPU of all columns at once.

    A library that shares one product out among threads rounds as their number has it. Here each block is one thread's,
    and where blocks begin does not depend on the threads.

    Args:
        work: [n, columns] -> [m, columns], each column for itself; called from other threads.
        matrix: [n, columns], fp32 or fp64.

    >>> from torch import eye
    >>> by_columns(lambda block: 2 * block, eye(2))
    tensor([[2., 0.],
            [0., 2.]])
    """
    if matrix.device.type != "cpu":
        return work(matrix)
    blocks, threads = torch.split(matrix, COLUMNS, dim=1), torch.get_num_threads()
    if threads == 1 or len(blocks) == 1:
        with one_thread():
            return torch.cat([work(block) for block in blocks], dim=1)
    try:
        with lone_threads(min(threads, len(blocks))) as pool:
            return torch.cat(list(pool.map(work, blocks)), dim=1)
    finally:
        torch.set_num_threads(threads)
