"""Select, calculate, erase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.lazy import torch
from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2408.07990",
    needs="an aligned model and two or more fine-tuned from it",
    gives="step",
    least=2,
    splits="elements",
    why="with one fine-tuned model no element varies: it gives that model, or the aligned one",
)
def sce(
    deltas: list[Tensor],
    whole: Whole | None = None,
    *,
    lam: Lam = 1.0,
    select_topk: Annotated[float, Between(0.001, 1)] = 1.0,
) -> Tensor:
    """Keep the elements in which the fine-tunings differ most, weigh each by its energy, erase minority signs.

    The ⌊topk·(number that vary)⌋ elements of largest variance over the models stay, at least one; ω_k = mean δ_k²
    relative to the sum over models; m_k = 1 where δ_k has the sign of Σ δ_k; θ = θ0 + λ·Σ ω m δ / Σ ω m.

    Args:
        deltas: δ_k, fp32, any shape.
        whole: the tensors these are blocks of, None where they are all of it.
        select_topk: the share of the varying elements that stays; 1 keeps all.

    >>> from torch import tensor
    >>> sce([tensor([1.0, 2.0]), tensor([1.0, -1.0])])
    tensor([1., 2.])
    """
    whole = whole or Whole(deltas[0].numel())
    if select_topk < 1:
        spread = torch.stack(list(deltas)).var(dim=0, unbiased=False)
        varying = whole.counts(spread != 0)[0]
        (mask,) = whole.largest((spread, max(1, int(select_topk * varying)) if varying else 0))
        deltas = [delta * mask for delta in deltas]
    energies = whole.dots(*((delta, delta) for delta in deltas))
    total = sum(energies)
    plus = torch.stack(list(deltas)).sum(0) >= 0
    above, below = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
    for delta, energy in zip(deltas, energies, strict=True):
        share = energy / total if total else 1 / len(deltas)
        agrees = torch.where(plus, delta > 0, delta < 0)
        above += share * delta * agrees
        below += share * agrees
    return above / torch.where(below == 0, torch.ones_like(below), below)
