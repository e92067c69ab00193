"""Adding back the direction of safety."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.place import Place
from backend.merging.sparse import draw
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2402.11746",
    needs="an aligned model, one fine-tuned from it, an unaligned twin of the aligned one",
    random=True,
    knob="gamma",
    gives="step",
    splits="elements",
)
def resta(
    aligned: Tensor,
    fine_tuned: Tensor,
    delta: Tensor,
    unaligned: Tensor,
    place: Place,
    *,
    gamma: Annotated[float, Between(0, 2)] = 0.5,
    drop: Annotated[float, Between(0, 0.9)] = 0.0,
) -> tuple[Tensor, Tensor]:
    """Add to the fine-tuned model what alignment once added, measured against an unaligned twin.

    θ = θ1 + γ·(θ0 − θ_u). With drop rate p (the paper's RESTA_d), θ1 is θ0 + δ kept with probability 1 − p and divided
    by it.

    Args:
        aligned: θ0, fp32, any shape.
        fine_tuned: θ1.
        delta: δ = θ1 − θ0.
        unaligned: θ_u.
        place: the tensor's name and the seed.
        gamma: γ, no unit; 0 is the fine-tuned model, 1 adds the whole safety vector.
        drop: the probability of a change of the fine-tuning to be dropped.

    >>> from torch import tensor
    >>> resta(tensor([1.0]), tensor([3.0]), tensor([2.0]), tensor([0.5]), Place("w"))
    (tensor([3.]), tensor([0.5000]))
    """
    start = fine_tuned if drop == 0 else aligned + draw(delta, 1 - drop, "inverse", place, 0)
    return start, aligned - unaligned
