"""Tensors as NumPy arrays, for what can be done without torch: loading it takes longer than many a merge.

NumPy has no bf16: an array of uint16 holds its bits, the upper half of those of fp32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from backend.lazy import numpy as np
from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from backend.checkpoints.reader import Array

WORTH = 2**20  # elements from which on a compiled loop is fetched, which takes half a second, once in a process
LANES = 512  # sums in a dot
PIECE = 2**16  # in fp64


@functools.cache
def compiled_loops() -> ModuleType | None:
    """`backend.merging.loops`; None without Numba."""
    try:
        from backend.merging import loops
    except ImportError:
        return None
    return loops


def array_of(tensor: Tensor) -> Array:
    """The tensor's own memory."""
    found: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return found


def widened(array: Array) -> Array:
    """In fp32 where it is bf16, else as it is.

    >>> widened(np.array([0x3F80, 0xC000], np.uint16))
    array([ 1., -2.], dtype=float32)
    """
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def equal(one: Array, other: Array) -> bool:
    """Whether all numbers are equal, as floats are: −0.0 is 0.0, and NaN is nothing."""
    return np.array_equal(widened(one), widened(other))


def largest(array: Array) -> float:
    """The largest magnitude of bf16 or fp32; NaN where one is there.

    >>> largest(np.array([1, -3], np.float32)), largest(np.array([0x7FC0, 0x3F80], np.uint16))
    (3.0, nan)
    """
    if not array.size:
        return 0.0
    half = array.dtype == np.uint16
    bits = array & np.uint16(0x7FFF) if half else array.view(np.uint32) & np.uint32(0x7FFFFFFF)
    return float(widened(bits.max(keepdims=True)).view(np.float32)[0])  # magnitudes are ordered as their bits are


def dots(pairs: Sequence[tuple[Array, Array]], *, compiled: bool = False) -> list[float]:
    """⟨one, other⟩ of each pair of bf16 or fp32, the same bits on every processor.

    Two numbers of fp32 multiply exactly in fp64. The product of element i goes to lane i mod `LANES`, in order, and the
    lanes are added up exactly, then rounded: a library's dot adds in an order of its own.

    Args:
        compiled: whether there is enough to do for a compiled loop.

    >>> numbers = np.arange(1000, dtype=np.float32)
    >>> dots([(numbers, numbers)])
    [332833500.0]
    """
    loops = compiled_loops() if compiled else None
    if loops:
        return [math.fsum(loops.dot(one, other).tolist()) for one, other in pairs]
    totals = [np.zeros(LANES) for _ in pairs]
    apart = {id(one): one for pair in pairs for one in pair}
    for begin in range(0, pairs[0][0].size, PIECE):
        wide = {key: widened(one[begin : begin + PIECE]).astype(np.float64) for key, one in apart.items()}
        for lanes, (one, other) in zip(totals, pairs, strict=True):
            _add_in_order(lanes, wide[id(one)] * wide[id(other)])
    return [math.fsum(lanes.tolist()) for lanes in totals]


def sizes(arrays: Sequence[Array], *, compiled: bool = False) -> list[float]:
    """Σ|x| of each array of bf16 or fp32, summed as `dots`.

    >>> sizes([np.array([1, -2], np.float32)])
    [3.0]
    """
    loops = compiled_loops() if compiled else None
    if loops:
        return [math.fsum(loops.sizes(one).tolist()) for one in arrays]
    totals = [np.zeros(LANES) for _ in arrays]
    for lanes, one in zip(totals, arrays, strict=True):
        for begin in range(0, one.size, PIECE):
            _add_in_order(lanes, np.abs(widened(one[begin : begin + PIECE]).astype(np.float64)))
    return [math.fsum(lanes.tolist()) for lanes in totals]


def _add_in_order(lanes: Array, numbers: Array) -> None:
    full = numbers.size - numbers.size % LANES
    for row in numbers[:full].reshape(-1, LANES):
        lanes += row
    lanes[: numbers.size - full] += numbers[full:]
