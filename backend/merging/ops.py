"""The arithmetic that merging shares, as pure functions on tensors. Files, devices and seeds come from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.errors import UserError
from backend.lazy import torch
from backend.merging.arrays import dots

if TYPE_CHECKING:
    from torch import Tensor

    from backend.checkpoints.reader import Array

BLOCK = 2**17
LEAST_MOVED = 1e-9  # of the squared lengths: fp64 then leaves six digits of what moved


def round_once(exact: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """The fp32 result in the dtype it is stored in.

    Raises:
        UserError: a number that fp16 cannot hold, naming the tensor.

    >>> from torch import float16, tensor
    >>> round_once(tensor([1.0, 70000.0]), float16, "norm.weight")
    Traceback (most recent call last):
    backend.errors.UserError: norm.weight: got 70000.0; allowed is up to 65504, the largest fp16 number. Use bf16.
    """
    rounded = exact.to(dtype)
    if dtype == torch.float16 and not bool(torch.isfinite(rounded).all()):
        largest = float(exact.abs().max())
        raise UserError(name, got=largest, allowed="up to 65504, the largest fp16 number", remedy="Use bf16.")
    return rounded


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values`, fp32, where `mask`, 0 elsewhere: `torch.where` by way of bits, which a CPU vectorises.

    >>> from torch import tensor
    >>> masked(tensor([1.0, float("nan")]), tensor([True, False]))
    tensor([1., 0.])
    """
    bits = mask.to(torch.int32).neg_().bitwise_and_(values.view(torch.int32))
    return bits.view(torch.float32)


class Walk(NamedTuple):
    """Sums over a tensor, or over blocks of it, that say where θ = start + knob·τ lies for every knob.

    With s = start − θ0 and δ what fine-tuning changed; where a method gives no step, s is all that it moves.
    """

    start_along: float = 0.0  # ⟨s, δ⟩
    start_moved: float = 0.0  # ⟨s, s⟩
    cross: float = 0.0  # ⟨s, τ⟩
    along: float = 0.0  # ⟨τ, δ⟩
    moved: float = 0.0  # ⟨τ, τ⟩
    whole: float = 0.0  # ⟨δ, δ⟩
    length: float = 0.0  # ⟨θ0, θ0⟩, where no fine-tuned model gives a δ
    lines: float = 0.0  # tensors that a method of arcs mixed along a straight line, since they are nearly parallel
    arcs: float = 0.0  # tensors that it walked along an arc

    @classmethod
    def of(cls, start: Tensor | None, step: Tensor | None, delta: Tensor | None, aligned: Tensor | None = None) -> Walk:
        """The sums of one block; all fp32 and of one shape, None for zeros; `aligned` where there is no `delta`."""
        s, t, d, a = (None if part is None else part.reshape(-1) for part in (start, step, delta, aligned))
        return cls(_dot(s, d), _dot(s, s), _dot(s, t), _dot(t, d), _dot(t, t), _dot(d, d), _dot(a, a))

    def __add__(self, other: Walk) -> Walk:  # type: ignore[override]
        return Walk(*(one + two for one, two in zip(self, other, strict=True)))


class Blend(NamedTuple):
    """θ = first·θ0 + second·θ1, and what is known of the tensors it is made of.

    >>> from torch import tensor
    >>> one, other = tensor([1.0, 0.0]), tensor([0.0, 1.0])
    >>> blend = Blend(0.5, 0.75, (1.0, 1.0, 0.0))
    >>> blend.of(one, other)
    tensor([0.5000, 0.7500])
    >>> blend.walk() == Walk.of(blend.of(one, other) - one, None, other - one)
    True
    """

    first: float
    second: float
    dots: tuple[float, float, float] | None = None  # ⟨θ0, θ0⟩, ⟨θ1, θ1⟩, ⟨θ0, θ1⟩ of the whole tensor, in fp64

    @property
    def is_end(self) -> bool:
        """Whether it is θ0 or θ1 itself."""
        return (self.first, self.second) in ((1, 0), (0, 1))

    def of(self, aligned: Tensor, fine_tuned: Tensor) -> Tensor:
        """θ; an end of the walk is the very tensor it ends at."""
        if self.is_end:
            return aligned if self.first else fine_tuned
        return aligned.mul(self.first).add_(fine_tuned.mul(self.second))

    def counted(self) -> Walk:
        """One line or one arc; an end of the walk is neither.

        >>> Blend(0.25, 0.75).counted().lines, Blend(0.5, 0.75).counted().arcs, Blend(0, 1).counted() == Walk()
        (1, 1, True)
        """
        if self.is_end:
            return Walk()
        return Walk(lines=1) if self.first + self.second == 1 else Walk(arcs=1)

    def walk(self) -> Walk | None:
        """How far the whole tensor goes, without looking at it again.

        None where its dots are not known, or where so little moved that their differences would not hold it.
        """
        if self.dots is None:
            return None
        (aligned, tuned, both), back = self.dots, self.first - 1
        whole = aligned + tuned - 2 * both
        if whole < LEAST_MOVED * (aligned + tuned):
            return None
        return Walk(
            start_along=back * (both - aligned) + self.second * (tuned - both),
            start_moved=back * back * aligned + 2 * back * self.second * both + self.second * self.second * tuned,
            whole=whole,
        )


def walk_of(moved: Array, delta: Array, *, compiled: bool) -> Walk:
    """The sums of one block of a method that gives no step: `moved` is s, both are fp32 laid flat; as `arrays.dots`.

    >>> import numpy
    >>> walk_of(numpy.float32([1, 0]), numpy.float32([2, 1]), compiled=False).start_along
    2.0
    """
    along, length, whole = dots([(moved, delta), (moved, moved), (delta, delta)], compiled=compiled)
    return Walk(start_along=along, start_moved=length, whole=whole)


STRAIGHT = Walk(along=1.0, moved=1.0, whole=1.0)  # τ = δ: how long δ is cancels


def _dot(one: Tensor | None, other: Tensor | None) -> float:
    """fp32 within pieces that stay in the cache, fp64 between them."""
    if one is None or other is None:
        return 0.0
    pieces = zip(torch.split(one, BLOCK), torch.split(other, BLOCK), strict=True)
    return sum(float(torch.dot(left, right)) for left, right in pieces)


@dataclass
class Effect:
    """How far a merge goes, over every tensor counted, before it is rounded to the dtype it is stored in.

    With δ = θ1 − θ0: `projection` = ⟨θ − θ0, δ⟩ / ⟨δ, δ⟩ and `distance` = ‖θ − θ0‖ / ‖δ‖. Equal λ is not equal effect,
    so both stand beside every merged point. No unit; both are None where δ is 0: the method takes no fine-tuned model,
    or it equals the aligned one. Of a method that takes none there is `shift` = ‖θ − θ0‖ / ‖θ0‖ instead, no unit.

    >>> from torch import tensor
    >>> effect, delta = Effect(), tensor([2.0, 2.0])
    >>> effect.count(Walk.of(None, tensor([2.0, 0.0]), delta), 0.5)
    >>> effect.to_json()
    {'projection': 0.25, 'distance': 0.3535533905932738}
    >>> alone = Effect()
    >>> alone.count(Walk.of(None, tensor([0.0, 1.0]), None, aligned=tensor([3.0, 4.0])), 0.5)
    >>> alone.to_json()
    {'projection': None, 'distance': None, 'shift': 0.1}
    """

    along: float = 0.0
    moved: float = 0.0
    whole: float = 0.0
    length: float = 0.0
    lines: float = 0.0
    arcs: float = 0.0

    def count(self, walk: Walk, knob: float) -> None:
        """Count one tensor."""
        self.along += walk.start_along + knob * walk.along
        self.moved += walk.start_moved + 2 * knob * walk.cross + knob * knob * walk.moved
        self.whole += walk.whole
        self.length += walk.length
        self.lines += walk.lines
        self.arcs += walk.arcs

    def to_json(self) -> dict[str, float | None]:
        if not self.whole:
            shift = {"shift": (max(0.0, self.moved) / self.length) ** 0.5} if self.length else {}
            return {"projection": None, "distance": None, **shift}
        return {"projection": self.along / self.whole, "distance": (max(0.0, self.moved) / self.whole) ** 0.5}

    def lines_json(self) -> dict[str, dict[str, int]]:
        """Of a method of arcs, how many of the tensors that it mixed went along a straight line; {} of any other.

        >>> effect = Effect()
        >>> for blend in (Blend(0.25, 0.75), Blend(0.5, 0.75)):
        ...     effect.count(blend.counted(), 0.75)
        >>> effect.lines_json()
        {'straight_lines': {'tensors': 1, 'of': 2}}
        """
        mixed = int(self.lines + self.arcs)
        return {"straight_lines": {"tensors": int(self.lines), "of": mixed}} if mixed else {}
