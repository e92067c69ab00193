"""Loops that Numba compiles: θ(λ) in one pass, with the bits of torch's several. Imported only where Numba is.

Each multiplies, adds and rounds in torch's order and as often as torch does. All take NumPy arrays and let other
threads run; bf16 is seen as the upper half of the bits of fp32, in unsigned integers. What is compiled once is kept
beside this file, for later processes on the same kind of processor.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba.extending import intrinsic, overload

HALF, SINGLE = numba.types.uint16, numba.types.float32
bits, single, double = np.uint32, np.float32, np.float64
# As in arrays and place. What Numba keeps lasts until this file changes, so they stand here too.
LANES, BITS, STRIDE = 512, 24, 0x9E3779B9


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called with such dtypes; what was kept and cannot be used is compiled again."""
    plain = numba.njit(nogil=True)(loop)
    try:
        chosen = numba.njit(nogil=True, cache=True)(loop)
    except RuntimeError:  # there is no folder to keep it in
        chosen = plain

    def call(*given: Any) -> Any:
        nonlocal chosen
        try:
            return chosen(*given)
        except Exception:  # a damaged file raises whatever unpickling does, a full disk another
            if chosen is plain:
                raise
            chosen = plain
            return chosen(*given)

    call.__doc__ = loop.__doc__
    return call


def lerp_is_fused() -> bool:
    """Whether `torch.lerp` rounds only once after multiplying and adding here, as `line` does; most processors can."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    features = get_host_cpu_features()
    return bool(features.get("avx2") and features.get("fma"))


@intrinsic
def fma(_context: Any, factor: Any, number: Any, base: Any) -> Any:
    """factor · number + base, rounded once."""
    return SINGLE(SINGLE, SINGLE, SINGLE), lambda context, builder, signature, numbers: builder.fma(*numbers)


def widened(number: Any) -> Any:
    """A stored number in fp32."""


def stored_as(like: Any, exact: Any) -> Any:
    """fp32 in the dtype of `like`; of two equally near the even one."""


def cast(like: Any, stored: Any) -> Any:
    """A stored number in the dtype of `like`."""


@overload(widened, strict=False)
def _widened(number: Any) -> Any:
    if number == HALF:
        return lambda number: bits(bits(number) << bits(16)).view(single)
    return lambda number: number


@overload(stored_as, strict=False)
def _stored_as(like: Any, exact: Any) -> Any:
    if like != HALF:
        return lambda like, exact: exact

    def nearest(like: Any, exact: Any) -> Any:
        whole = single(exact).view(bits)
        return np.uint16((whole + bits(0x7FFF) + ((whole >> bits(16)) & bits(1))) >> bits(16))

    return nearest


@overload(cast, strict=False)
def _cast(like: Any, stored: Any) -> Any:
    if like == stored:
        return lambda like, stored: stored
    return lambda like, stored: stored_as(like, widened(stored))


@compiled
def line(start: Any, goal: Any, share: float, target: Any) -> None:
    """target = start + share·(goal − start), in the dtype of `start`, cast to the target's."""
    near = abs(single(share)) < single(0.5)
    factor = single(share) if near else single(single(share) - single(1))
    for at in range(target.size):
        here, there = widened(start[at]), widened(goal[at])
        exact = fma(factor, single(there - here), here if near else there)
        target[at] = cast(target[at], stored_as(start[at], exact))


@compiled
def step(origin: Any, direction: Any, knob: float, target: Any, stored: Any) -> None:
    """target = origin + knob·direction, in the dtype of the number `stored`, cast to the target's."""
    factor = single(knob)
    for at in range(target.size):
        exact = single(direction[at] * factor) + widened(origin[at])
        target[at] = cast(target[at], stored_as(stored, exact))


@compiled
def blend(origin: Any, goal: Any, first: float, second: float, target: Any, stored: Any) -> None:
    """target = first·origin + second·goal, as `step` stores it."""
    near, far = single(first), single(second)
    for at in range(target.size):
        exact = single(widened(origin[at]) * near) + single(widened(goal[at]) * far)
        target[at] = cast(target[at], stored_as(stored, exact))


@compiled
def dot(one: Any, other: Any) -> Any:
    """The products of all elements summed in fp64 lanes: that of element i in lane i mod `LANES`, in order."""
    lanes = np.zeros(LANES)
    full = one.size - one.size % LANES
    for begin in range(0, full, LANES):
        row, beside = one[begin : begin + LANES], other[begin : begin + LANES]
        for lane in range(LANES):
            lanes[lane] += double(widened(row[lane])) * double(widened(beside[lane]))
    for lane in range(one.size - full):
        lanes[lane] += double(widened(one[full + lane])) * double(widened(other[full + lane]))
    return lanes


@compiled
def sizes(numbers: Any) -> Any:
    """The magnitudes of all elements, summed as `dot` does."""
    lanes = np.zeros(LANES)
    full = numbers.size - numbers.size % LANES
    for begin in range(0, full, LANES):
        row = numbers[begin : begin + LANES]
        for lane in range(LANES):
            lanes[lane] += abs(double(widened(row[lane])))
    for lane in range(numbers.size - full):
        lanes[lane] += abs(double(widened(numbers[full + lane])))
    return lanes


@compiled
def draw(numbers: Any, limit: int, first: int, key: int, kept: Any) -> None:
    """kept = the number where its die, as `Place.dice` throws it, falls below `limit`, else 0."""
    for at in range(numbers.size):
        state = bits(bits(first) + bits(at) * bits(STRIDE))
        state = bits((state ^ (state >> bits(16))) * bits(0x7FEB352D))
        state = bits((state ^ (state >> bits(15)) ^ bits(key)) * bits(0x846CA68B))
        kept[at] = numbers[at] if (state >> bits(32 - BITS)) < bits(limit) else single(0)
