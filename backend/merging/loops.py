"""Loops that Numba compiles: θ(λ) in one pass, with the bits of torch's several. Tensors are not known here.

Each multiplies, adds and rounds in torch's order and as often as torch does. bf16 is seen as the upper half of the bits
of fp32, in unsigned integers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from backend.lazy import torch


class Loops(NamedTuple):
    """Compiled for the dtypes of one merge; all take NumPy arrays and let other threads run."""

    line: Callable[..., None]
    step: Callable[..., None]
    blend: Callable[..., None]


@functools.cache
def lerp_is_fused() -> bool:
    """Whether `torch.lerp` rounds only once after multiplying and adding, as `line` does; most processors can."""
    start, goal = torch.linspace(0.1, 0.9, 64), torch.linspace(0.7, -0.3, 64)
    fused = start.double() + float(torch.tensor(0.3)) * (goal - start).double()
    return torch.equal(torch.lerp(start, goal, 0.3), fused.float())


@functools.cache
def compiled_loops(reads_half: bool, stores_half: bool, writes_half: bool) -> Loops | None:
    """The loops for bf16 (half of fp32's bits, the upper one) or fp32 in each place; None without Numba."""
    try:
        import numba
        import numpy as np
        from numba.extending import intrinsic
    except ImportError:
        return None
    compiled = numba.njit(nogil=True)
    bits, single, single_type = np.uint32, np.float32, numba.types.float32

    def nearest(exact: Any) -> Any:  # of two equally near the even one
        whole = single(exact).view(bits)
        return np.uint16((whole + bits(0x7FFF) + ((whole >> bits(16)) & bits(1))) >> bits(16))

    same = compiled(lambda number: number)
    widen = compiled(lambda half: bits(bits(half) << bits(16)).view(single))
    halve = compiled(nearest)
    halve_and_widen = compiled(lambda exact: widen(halve(exact)))
    read = widen if reads_half else same
    write = halve if writes_half else halve_and_widen if stores_half else same

    def fused(typing: Any, factor: Any, number: Any, base: Any) -> Any:
        return single_type(*[single_type] * 3), lambda context, builder, signature, numbers: builder.fma(*numbers)

    fma = intrinsic(fused)

    def line(start: Any, goal: Any, share: Any, target: Any) -> None:
        near = abs(single(share)) < single(0.5)
        factor = single(share) if near else single(single(share) - single(1))
        for at in range(target.size):
            here, there = read(start[at]), read(goal[at])
            target[at] = write(fma(factor, single(there - here), here if near else there))

    def step(origin: Any, direction: Any, knob: Any, target: Any) -> None:
        factor = single(knob)
        for at in range(target.size):
            target[at] = write(single(direction[at] * factor) + read(origin[at]))

    def blend(origin: Any, goal: Any, first: Any, second: Any, target: Any) -> None:
        near, far = single(first), single(second)
        for at in range(target.size):
            target[at] = write(single(read(origin[at]) * near) + single(read(goal[at]) * far))

    return Loops(compiled(line), compiled(step), compiled(blend))
