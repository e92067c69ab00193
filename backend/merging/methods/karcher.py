"""The mean on the sphere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from backend.lazy import torch
from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.merging.sphere import angles, gram, mixed, per_length
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2603.04972",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    splits="elements",
)
def karcher(
    aligned: Tensor,
    models: list[Tensor],
    whole: Whole | None = None,
    *,
    lam: Lam = 1.0,
    max_iter: Annotated[int, Between(1, 100)] = 10,
    tol: Annotated[float, Between(0, 0.1)] = 1e-5,
) -> Tensor:
    """Take the mean of all models, the aligned one among them, along the arcs of the sphere.

    u_k = θ_k/‖θ_k‖, m = unit(mean u); repeat v = mean of (Ω_k/sin Ω_k)(u_k − (u_k·m)m) with Ω_k = acos(u_k·m), m ←
    cos‖v‖·m + sin‖v‖·v/‖v‖, until ‖v‖ < tol; the mean is (mean ‖θ_k‖)·m and θ = θ0 + λ·(mean − θ0).

    Args:
        aligned: θ0, fp32, any shape.
        models: θ_k, same shape.
        whole: the tensors these are blocks of, None where they are all of it.
        lam: λ, no unit; 0 is the aligned model, 1 the mean.
        max_iter: the most steps of the search for the mean.
        tol: the search ends at a step shorter than this, in radians.

    >>> from torch import tensor
    >>> karcher(tensor([1.0, 0.0]), [tensor([0.0, 1.0])])
    tensor([-0.2929,  0.7071])
    """
    everyone = [aligned, *models]
    cosines, lengths = angles(gram(everyone, whole))
    shares = per_length(_mean(cosines, lengths > 0, max_iter, tol), lengths) * lengths.mean()
    return mixed(everyone, [float(shares[0]) - 1, *shares[1:].tolist()])


def _mean(cosines: Tensor, there: Tensor, most: int, tol: float) -> Tensor:
    """The mean of unit tensors on the sphere, as shares of them; they are known by their cosines alone."""
    count = int(there.sum())
    shares = there.double() / max(1, count)
    size = _length(shares, cosines)
    if size > 1e-12:
        shares /= size
    elif count:
        shares = torch.zeros_like(shares).index_fill_(0, there.nonzero()[0], 1.0)
    for _ in range(most):
        cos = (cosines @ shares).clamp(-1, 1)
        angle = torch.acos(cos)
        curved = there & (torch.sin(angle) > 1e-12)
        pulls = torch.where(curved, angle / torch.where(curved, torch.sin(angle), 1) / max(1, count), 0)
        step = pulls - (pulls @ cos) * shares
        turn = _length(step, cosines)
        if turn <= tol:
            break
        shares = math.cos(turn) * shares + (math.sin(turn) / turn) * step
        shares /= _length(shares, cosines)
    return shares


def _length(shares: Tensor, cosines: Tensor) -> float:
    return math.sqrt(max(0.0, float(shares @ cosines @ shares)))
