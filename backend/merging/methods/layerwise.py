"""Another λ at every depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.consensus import combine
from backend.merging.knobs import Lam, Weights, weights_of
from backend.merging.place import Place
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


Share = Annotated[float, Between(0, 2)]


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and one or more fine-tuned from it",
    gives="step",
    splits="elements",
)
def layerwise(
    deltas: list[Tensor],
    place: Place,
    *,
    lam: Lam = 0.6,
    weights: Weights = (),
    curve: Annotated[tuple[float, ...], Between(0, 2)] = (1.0,),
    attention: Share = 1.0,
    mlp: Share = 1.0,
    norm: Share = 1.0,
    embedding: Share = 1.0,
    head: Share = 1.0,
) -> Tensor:
    """Walk a straight line whose λ follows a curve over the depth and differs by kind of module.

    θ = θ0 + λ·v(ℓ)·s(kind)·Σ w_k δ_k, divided by nothing. The curve v is drawn over the layers from first to last by
    straight lines between its numbers: at x = ℓ/(L − 1)·(len − 1), i = ⌊x⌋, v(ℓ) = (1 − x + i)·v_i + (x − i)·v_(i+1).
    Outside the layers v is 1.

    Args:
        deltas: δ_k = θk − θ0, fp32, any shape.
        place: which layer and kind of module the tensor belongs to.
        lam: λ, no unit; 0 is the aligned model, 1 with a flat curve of 1 the fine-tuned one.
        curve: the share of λ from the first layer to the last, one or more numbers with commas.
        attention: the share of λ that attention gets.
        mlp: the share of λ that the MLPs get.
        norm: the share of λ that norms get.
        embedding: the share of λ that the embedding gets, and with it a tied head.
        head: the share of λ that the output head gets.

    >>> from torch import tensor
    >>> place = Place("layers.1.mlp.w", layers=3)
    >>> layerwise([tensor([1.0])], place, curve=(0.0, 1.0), mlp=0.5)
    tensor([0.2500])
    >>> layerwise([tensor([1.0]), tensor([2.0])], place, weights=(1, 0.5))
    tensor([2.])
    """
    shares = {"attention": attention, "mlp": mlp, "norm": norm, "embedding": embedding, "head": head}
    share = shares.get(place.kind, 1.0) * (1.0 if place.layer is None else _at(curve or (1.0,), place))
    step = combine(deltas, weights_of(weights, len(deltas)), normalize="off")
    return step if share == 1 else step * share


def _at(curve: tuple[float, ...], place: Place) -> float:
    """The curve at the tensor's layer.

    >>> [_at((0.0, 1.0, 0.0), Place(f"layers.{layer}.w", layers=5)) for layer in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    x = (place.layer or 0) / max(1, place.layers - 1) * (len(curve) - 1)
    left = min(int(x), len(curve) - 1)
    right = min(left + 1, len(curve) - 1)
    return (1 - x + left) * curve[left] + (x - left) * curve[right]
