"""Which elements of a task vector stay: the largest, a band, or a draw; and what makes up for those that go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.place import Place

if TYPE_CHECKING:
    from torch import Tensor

LOW_BITS = 16
BLOCK = 2**18


def top_mask(sizes: Tensor, count: int) -> Tensor:
    """True at the `count` largest of `sizes` (fp32, none negative), equal ones by lowest flat index; any shape.

    >>> from torch import tensor
    >>> top_mask(tensor([3.0, 1.0, 3.0, 3.0]), 2)
    tensor([ True, False,  True, False])
    """
    total = sizes.numel()
    if count >= total:
        return torch.ones_like(sizes, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(sizes, dtype=torch.bool)
    bits = sizes.contiguous().reshape(-1).view(torch.int32)
    threshold, still, level = _kth_largest(bits, count)
    if still == level:
        return (bits >= threshold).reshape(sizes.shape)
    mask = bits > threshold
    mask[(bits == threshold).nonzero().reshape(-1)[:still]] = True
    return mask.reshape(sizes.shape)


def _kth_largest(bits: Tensor, count: int) -> tuple[int, int, int]:
    """The `count`-th largest of non-negative integers, how many equal to it are among those, and in all.

    Floats that are not negative are ordered as their bits are, so two histograms of 16 bits replace a sort.
    """
    blocks = torch.split(bits, BLOCK)
    upper = torch.zeros(2 ** (31 - LOW_BITS), dtype=torch.int64, device=bits.device)
    for block in blocks:
        upper += torch.bincount(block >> LOW_BITS, minlength=len(upper))
    bucket, count = _bucket(upper, count)
    lower = torch.zeros(2**LOW_BITS, dtype=torch.int64, device=bits.device)
    chosen = [block[(block >> LOW_BITS) == bucket] for block in blocks]
    for part in torch.split(torch.cat(chosen), BLOCK):
        lower += torch.bincount(part & (2**LOW_BITS - 1), minlength=len(lower))
    place, count = _bucket(lower, count)
    return (bucket << LOW_BITS) | place, count, int(lower[place])


def _bucket(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bucket that holds the `count`-th from the top, and which one in the bucket that is."""
    from_top = histogram.flip(0).cumsum(0)
    steps = int(torch.searchsorted(from_top, count))
    before = int(from_top[steps - 1]) if steps else 0
    return histogram.numel() - 1 - steps, count - before


def keep_top(delta: Tensor, density: float) -> Tensor:
    """The largest ⌊density·n⌋ elements by magnitude, at least one; the others 0.

    >>> from torch import tensor
    >>> keep_top(tensor([1.0, -3.0, 2.0, 0.5]), 0.5)
    tensor([ 0., -3.,  2.,  0.])
    """
    if density >= 1:
        return delta
    return torch.where(top_mask(delta.abs(), max(1, int(density * delta.numel()))), delta, 0.0)


def keep_band(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Without the ⌊gamma·n⌋ largest, the ⌊density·n⌋ next largest, at least one.

    >>> from torch import tensor
    >>> keep_band(tensor([1.0, -3.0, 2.0, 0.5]), 0.5, 0.25)
    tensor([1., 0., 2., 0.])
    """
    total = delta.numel()
    kept, gone = max(1, int(density * total)), int(gamma * total)
    if kept >= total:
        return delta
    below = max(0, total - kept - gone)
    sizes = delta.abs()
    return torch.where(top_mask(sizes, total - below) & ~top_mask(sizes, total - below - kept), delta, 0.0)


def draw(delta: Tensor, keep: Tensor | float, rescale: str, place: Place, salt: int) -> Tensor:
    """Keep each element with probability `keep` and make up for the rest; 0 ≤ keep ≤ 1, a number or one per element.

    Args:
        rescale: "inverse" divides by the probability, so that the mean over seeds is `delta`; "l1" multiplies by
            ‖delta‖₁/‖kept‖₁; "none" does nothing.
        salt: tells the fine-tuned models of one merge apart.
    """
    if isinstance(keep, float) and keep >= 1:
        return delta
    chance = place.uniform(delta.numel(), salt, device=delta.device).reshape(delta.shape)
    kept = torch.where(chance < keep, delta, 0.0)
    if rescale == "inverse":
        return kept / keep
    if rescale == "l1":
        before, after = (float(part.abs().sum(dtype=torch.float64)) for part in (delta, kept))
        return kept * (before / after) if after else kept
    return kept


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
