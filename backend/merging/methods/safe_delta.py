"""Accepting changes up to a safety cost, and compensating for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from backend.merging.compensate import accept_within, cost_factor
from backend.params import Between
from backend.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    paper="arXiv:2505.12038",
    needs="an aligned model, one fine-tuned from it, chats that show safe behaviour",
    knob="strength",
    products=60,
)
def safe_delta(
    aligned: Tensor,
    fine_tuned: Tensor,
    gram: Tensor | None,
    *,
    strength: Annotated[float, Between(0, 10000)] = 0.11,
    damping: Annotated[float, Between(0.0001, 1)] = 0.01,
) -> Tensor:
    """Accept the changes that disturb the layer's outputs on safe chats least, and compensate in the other weights.

    H = 2·XᵀX of a Linear layer's inputs plus damping, U the upper Cholesky factor of H⁻¹, u its diagonal. In blocks of
    1024 columns changes δ are accepted by rising 1/u², never the last 15 %, while Σ δ²/u² ≤ (s/2)·mean(1/u²)·rows/4096.
    An accepted change in column i moves the later columns j by δ·U_ij/u_i, which restores the outputs on safe chats as
    far as they can. Tensors of no Linear layer, and the output head, stay aligned.

    Args:
        aligned: θ0, fp32, [out, in] where `gram` is given.
        fine_tuned: θ1.
        gram: XᵀX, [in, in], the mean over chats; None where the tensor is no Linear layer's.
        strength: s, no unit; 0 accepts no change. The paper's 0.11 is for layers of thousands of rows; the bound grows
            with the rows, so small models need more.
        damping: what is added to H's diagonal, as a share of its mean.

    >>> from torch import eye, tensor
    >>> safe_delta(tensor([[0.0, 0.0]]), tensor([[1.0, 2.0]]), eye(2), strength=1000.0)
    tensor([[0., 0.]])
    >>> safe_delta(tensor([[0.0, 0.0]]), tensor([[0.1, 2.0]]), eye(2), strength=1000.0)
    tensor([[0.1000, 0.0000]])
    """
    if gram is None or aligned.dim() != 2:
        return aligned
    return accept_within(aligned, fine_tuned, cost_factor(gram, damping), strength)
