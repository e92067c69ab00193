"""θ(λ) of a tensor straight into a loaded model, in as few passes over memory as there are. Files are not known here.

Torch adds a scaled fp32 step to a bf16 tensor in four passes, and a core then spends as long in its cache as it waits
for memory. A loop that Numba compiles needs one. It multiplies, adds and rounds in the same order and one at a time,
so its bits are torch's; where there is no Numba, or the tensor is small or on a GPU, torch's passes write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from backend.lazy import torch
from backend.merging.arrays import WORTH, array_of, compiled_loops
from backend.merging.crew import Crew

if TYPE_CHECKING:
    from torch import Tensor

CACHED = 2**17  # elements of a block that a core keeps in its cache from pass to pass
GPU_BLOCK = 2**27


def write_line(start: Tensor, goal: Tensor, share: float, target: Tensor, crew: Crew) -> None:
    """target = start + share·(goal − start), rounded to their dtype and cast to the target's.

    >>> from torch import tensor, zeros
    >>> target = zeros(2)
    >>> write_line(tensor([1.0, 2.0]), tensor([2.0, 2.0]), 0.5, target, Crew())
    >>> target
    tensor([1.5000, 2.0000])
    """
    loops = _loops_for(start, target, start.dtype)
    loops = loops if loops and loops.lerp_is_fused() else None
    if loops is None and start.dtype == target.dtype:
        torch.lerp(start, goal, share, out=target)
        return

    def write(block: tuple[Tensor, ...]) -> None:
        here, there, place = block
        if loops:
            loops.line(array_of(here), array_of(there), share, array_of(place))
            return
        place.copy_(torch.lerp(here, there, share, out=crew.room(0, here, here.dtype)))

    crew.each(write, list(_blocks(crew, loops, start, goal, target)), target.device)


def write_step(origin: Tensor, step: Tensor, knob: float, target: Tensor, stored: torch.dtype, crew: Crew) -> None:
    """target = origin + knob·step, in fp32, rounded to the dtype that it is stored in and cast to the target's.

    Args:
        origin: any floating dtype.
        step: fp32.
        target: contiguous.
        stored: the aligned model's dtype.

    >>> from torch import bfloat16, tensor, zeros
    >>> target = zeros(2)
    >>> write_step(tensor([1.0, 2.0]), tensor([1.0, 0.001]), 0.5, target, bfloat16, Crew())
    >>> target
    tensor([1.5000, 2.0000])
    """
    loops, like = _loops_for(origin, target, stored), _one_of(stored)

    def write(block: tuple[Tensor, ...]) -> None:
        here, direction, place = block
        if loops:
            loops.step(array_of(here), array_of(direction), knob, array_of(place), like)
            return
        exact = torch.mul(direction, knob, out=crew.room(0, direction))
        # A CPU adds bf16 to fp32 by way of a new tensor; into room that is there it is cheaper.
        exact.add_(crew.room(1, here).copy_(here) if here.device.type == "cpu" else here)
        place.copy_(exact if stored == place.dtype else exact.to(stored))

    crew.each(write, list(_blocks(crew, loops, origin, step, target)), target.device)


def write_blend(
    origin: Tensor, goal: Tensor, shares: tuple[float, float], target: Tensor, stored: torch.dtype, crew: Crew
) -> None:
    """target = first·origin + second·goal, rounded and cast as `write_step` does.

    Args:
        shares: first and second.

    >>> from torch import float32, tensor, zeros
    >>> target = zeros(2)
    >>> write_blend(tensor([1.0, 2.0]), tensor([1.0, 0.0]), (0.5, 0.25), target, float32, Crew())
    >>> target
    tensor([0.7500, 1.0000])
    """
    loops, like = _loops_for(origin, target, stored) if origin.dtype == goal.dtype else None, _one_of(stored)

    def write(block: tuple[Tensor, ...]) -> None:
        here, there, place = block
        if loops:
            loops.blend(array_of(here), array_of(there), *shares, array_of(place), like)
            return
        exact = crew.room(0, here).copy_(here).mul_(shares[0])
        exact.add_(crew.room(1, there).copy_(there).mul_(shares[1]))
        place.copy_(exact if stored == place.dtype else exact.to(stored))

    crew.each(write, list(_blocks(crew, loops, origin, goal, target)), target.device)


def _loops_for(origin: Tensor, target: Tensor, stored: torch.dtype) -> ModuleType | None:
    dtypes = (origin.dtype, stored, target.dtype)
    if target.device.type != "cpu" or target.numel() < WORTH or not {*dtypes} <= {torch.bfloat16, torch.float32}:
        return None
    return compiled_loops()


def _one_of(dtype: torch.dtype) -> Any:
    """A number by whose type a loop knows the dtype."""
    return array_of(torch.zeros(1, dtype=dtype))[0]


def _blocks(crew: Crew, loops: ModuleType | None, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape laid flat, in parts: what a cache holds between passes, with loops one for each thread."""
    count, device = tensors[0].numel(), tensors[0].device
    size = -(-count // crew.threads) if loops else CACHED if device.type == "cpu" else GPU_BLOCK
    return zip(*(torch.split(one.detach().reshape(-1), max(1, size)) for one in tensors), strict=True)
