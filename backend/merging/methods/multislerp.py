"""A mean on the sphere, in one step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backend.errors import UserError
from backend.lazy import torch
from backend.merging.blocks import Whole
from backend.merging.knobs import Lam, Shares, weights_of
from backend.merging.place import Place
from backend.merging.sphere import angles, gram, mixed, per_length
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-8


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and two or more fine-tuned from it",
    gives="step",
    least=2,
    why="with one fine-tuned model it gives that model",
    splits="elements",
)
def multislerp(
    deltas: list[Tensor], place: Place, whole: Whole | None = None, *, lam: Lam = 1.0, weights: Shares = ()
) -> Tensor:
    """Average the directions of several fine-tunings on the sphere, and their lengths apart.

    θ = θ0 + λ·(Σ w‖δ_k‖)·unit(Σ w u_k) with u_k = δ_k/‖δ_k‖, the w summing to 1. (mergekit walks on along the mean of
    what the u_k have across that direction, which is zero.) Where Σ w u vanishes, two changes are averaged plainly;
    more are refused.

    Args:
        deltas: δ_k, fp32, any shape.
        place: names the tensor where it has to be refused.
        whole: the tensors these are blocks of, None where they are all of it.

    >>> from torch import tensor
    >>> multislerp([tensor([1.0, 0.0]), tensor([0.0, 1.0])], Place("w"))
    tensor([0.7071, 0.7071])
    """
    given = weights_of(weights, len(deltas))
    shares = torch.tensor([weight / (sum(given) or 1) for weight in given], dtype=torch.float64)
    cosines, lengths = angles(gram(deltas, whole))
    size = math.sqrt(max(0.0, float(shares @ cosines @ shares)))
    if size < TINY:
        if len(deltas) > 2 and bool(lengths.any()):
            problem = f"the changes of `{place.name}` cancel, so they have no mean direction"
            raise UserError("weights", problem=problem, remedy="Give other weights, or use task_arithmetic.")
        return mixed(deltas, shares.tolist())
    length = float(shares @ lengths)
    return mixed(deltas, (per_length(shares, lengths) * (length / size)).tolist())
