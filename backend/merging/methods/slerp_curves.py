"""Walking along the arc, another part of the way at every depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.blocks import Whole
from backend.merging.knobs import Lam
from backend.merging.ops import Blend
from backend.merging.place import Place, curve_at
from backend.merging.sphere import arc, cosine_of
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor

Curve = Annotated[tuple[float, ...], Between(0, 1)]


@merge_method(
    paper="after mergekit 0.1.5",
    needs="an aligned model and one fine-tuned from it",
    gives="blend",
    reaches_tuned=True,
    splits="elements",
)
def slerp_curves(
    aligned: Tensor,
    fine_tuned: Tensor,
    place: Place,
    whole: Whole | None = None,
    *,
    lam: Lam = 0.6,
    attention: Curve = (1.0,),
    mlp: Curve = (1.0,),
    other: Curve = (1.0,),
) -> Blend:
    """Walk along the arc as slerp does, with a curve over the depth for attention, for the MLPs and for the rest.

    θ = slerp(θ0, θ1; λ·v(ℓ)) with v the curve of the module that the tensor lies in, drawn over the layers from first
    to last by straight lines between its numbers: at x = ℓ/(L − 1)·(len − 1), i = ⌊x⌋, v(ℓ) = (1 − x + i)·v_i +
    (x − i)·v_(i+1). Outside the layers v is the first number.

    Args:
        aligned: θ0, fp32, any shape.
        fine_tuned: θ1, fp32, same shape.
        place: which layer and module the tensor belongs to.
        whole: the tensors these are blocks of, None where they are all of it.
        lam: λ, no unit; 0 is the aligned model, 1 with all curves 1 the fine-tuned one.
        attention: the share of λ that attention gets, with the norms inside it, one or more numbers with commas.
        mlp: the share of λ that the MLPs get.
        other: the share of λ that norms get, and by its first number embedding, final norm and head.

    >>> from torch import tensor
    >>> one, other = tensor([1.0, 0.0]), tensor([0.0, 1.0])
    >>> place = Place("layers.1.mlp.w", layers=3)
    >>> slerp_curves(one, other, place, lam=1.0, attention=(0.0,), mlp=(0.0, 1.0)).of(one, other)
    tensor([0.7071, 0.7071])
    """
    curve = {"attention": attention, "mlp": mlp}.get(place.module, other)
    share = lam * curve_at(curve or (1.0,), place.depth)
    if share in (0, 1):
        return Blend(1 - share, share)
    whole = whole or Whole(aligned.numel())
    dots = whole.dots((aligned, aligned), (fine_tuned, fine_tuned), (aligned, fine_tuned))
    return Blend(*arc(cosine_of(*dots), share), (dots[0], dots[1], dots[2]))
