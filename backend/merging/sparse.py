"""Which elements of a task vector stay: the largest, a band, or a draw; and what makes up for those that go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.arrays import array_of, compiled_loops
from backend.merging.blocks import Whole
from backend.merging.ops import masked
from backend.merging.place import BITS, Place

if TYPE_CHECKING:
    from torch import Tensor


def keep_top(delta: Tensor, density: float, whole: Whole | None = None) -> Tensor:
    """The largest ⌊density·n⌋ elements by magnitude, at least one, of equal ones the first; the others 0.

    Args:
        whole: the tensor that `delta` is a block of, None where it is all of it.

    >>> from torch import tensor
    >>> keep_top(tensor([1.0, -3.0, 2.0, 0.5]), 0.5)
    tensor([ 0., -3.,  2.,  0.])
    """
    if density >= 1:
        return delta
    whole = whole or Whole(delta.numel())
    (mask,) = whole.largest((delta.abs(), max(1, int(density * whole.elements))))
    return masked(delta, mask)


def keep_band(delta: Tensor, density: float, gamma: float, whole: Whole | None = None) -> Tensor:
    """Without the ⌊gamma·n⌋ largest, the ⌊density·n⌋ next largest, at least one.

    >>> from torch import tensor
    >>> keep_band(tensor([1.0, -3.0, 2.0, 0.5]), 0.5, 0.25)
    tensor([1., 0., 2., 0.])
    """
    whole = whole or Whole(delta.numel())
    total = whole.elements
    kept, gone = max(1, int(density * total)), int(gamma * total)
    if kept >= total:
        return delta
    below = max(0, total - kept - gone)
    sizes = delta.abs()
    inside, beyond = whole.largest((sizes, total - below), (sizes, total - below - kept))
    return masked(delta, inside & ~beyond)


def draw(
    delta: Tensor, keep: Tensor | float, rescale: str, place: Place, salt: int, whole: Whole | None = None
) -> Tensor:
    """Keep each element with probability `keep` and make up for the rest; 0 ≤ keep ≤ 1, a number or one per element.

    Args:
        rescale: "inverse" divides by the probability, so that the mean over seeds is `delta`; "l1" multiplies by
            ‖delta‖₁/‖kept‖₁; "none" does nothing.
        salt: tells the fine-tuned models of one merge apart.
        whole: the tensor that `delta` is a block of, None where it is all of it.
    """
    if isinstance(keep, float) and keep >= 1:
        return delta
    whole = whole or Whole(delta.numel())
    kept = _kept(delta, keep, place, salt, compiled=whole.large)
    if rescale == "inverse":
        return kept / keep
    if rescale == "l1":
        before, after = whole.sizes(delta, kept)
        return kept * (before / after) if after else kept
    return kept


def _kept(delta: Tensor, keep: Tensor | float, place: Place, salt: int, *, compiled: bool) -> Tensor:
    """`delta` where a die falls below `keep`, 0 elsewhere."""
    loops = compiled_loops() if compiled and isinstance(keep, float) and delta.device.type == "cpu" else None
    if loops:
        kept = torch.empty(delta.shape, dtype=delta.dtype)
        numbers, into = array_of(delta.reshape(-1)), array_of(kept.reshape(-1))
        loops.draw(numbers, math.ceil(keep * 2**BITS), *place.counter(salt), into)
        return kept
    limit = torch.as_tensor(keep, dtype=torch.float64, device=delta.device).mul(2**BITS).ceil().to(torch.int32)
    dice = place.dice(delta.numel(), salt, device=delta.device).reshape(delta.shape)
    stays = dice.sub_(limit).bitwise_right_shift_(31)  # all bits set where dice < limit
    return stays.bitwise_and_(delta.view(torch.int32)).view(torch.float32)


def keep_chances(delta: Tensor, density: float, epsilon: float) -> Tensor | float:
    """DELLA's probabilities: per row, from density − ε at the smallest magnitude to density + ε at the largest.

    >>> from torch import tensor
    >>> keep_chances(tensor([3.0, -1.0, 2.0]), 0.5, 0.25)
    tensor([0.7500, 0.2500, 0.5000])
    """
    columns = delta.shape[-1] if delta.dim() else 1
    if density >= 1 or columns <= 1:
        return density
    rows = delta.abs().reshape(-1, columns)
    order = rows.argsort(dim=1, stable=True)
    ranks = torch.empty_like(rows)
    steps = torch.arange(columns, dtype=rows.dtype, device=rows.device).expand_as(rows)
    ranks.scatter_(1, order, steps)
    return (ranks * (2 * epsilon / (columns - 1)) + (density - epsilon)).reshape(delta.shape)
