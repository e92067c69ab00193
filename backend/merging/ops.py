"""The arithmetic that merging shares, as pure functions on tensors. Files, devices and seeds come from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import UserError
from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**17


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


@dataclass
class Effect:
    """How far a merge went, over every tensor added: fp32 within blocks that stay in the cache, fp64 between them.

    With δ = θ1 − θ0: `projection` = ⟨θ − θ0, δ⟩ / ⟨δ, δ⟩ and `distance` = ‖θ − θ0‖ / ‖δ‖. Equal λ is not equal effect,
    so both stand beside every merged point. No unit; both are 0 where the models are equal.

    >>> from torch import tensor
    >>> effect = Effect()
    >>> effect.add(tensor([0.0, 0.0]), tensor([1.0, 1.0]), tensor([2.0, 2.0]))
    >>> effect.to_json()
    {'projection': 0.5, 'distance': 0.5}
    """

    along: float = 0.0
    moved: float = 0.0
    whole: float = 0.0

    def add(self, aligned: Tensor, merged: Tensor, fine_tuned: Tensor) -> None:
        """Count one tensor; three of the same shape, any float dtype."""
        parts = (torch.split(part.reshape(-1), BLOCK) for part in (aligned, merged, fine_tuned))
        for start, end, goal in zip(*parts, strict=True):
            origin = start.float()
            step, delta = end.float() - origin, goal.float() - origin
            self.along += float(torch.dot(step, delta))
            self.moved += float(torch.dot(step, step))
            self.whole += float(torch.dot(delta, delta))

    def to_json(self) -> dict[str, float]:
        if not self.whole:
            return {"projection": 0.0, "distance": 0.0}
        return {"projection": self.along / self.whole, "distance": (self.moved / self.whole) ** 0.5}
