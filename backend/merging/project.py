"""What a change has in common with alignment: projections and leading directions of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.product import by_columns
from backend.merging.sphere import cosine, norm
from backend.threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor


def onto_alignment(alignment: Tensor, delta: Tensor) -> tuple[Tensor, float]:
    """C·δ with C = V·Vᵀ/‖V‖, and cos(C·δ, δ), which is never negative.

    C is the Safe LoRA paper's matrix; it is never formed. It is no projection: its eigenvalues are σ²/‖V‖, so it
    rescales. Where V or δ is zero, or for a tensor that is no matrix, δ is given back with cosine 1: it is left alone.

    Args:
        alignment: V, what alignment changed.
        delta: δ, what fine-tuning changed.

    >>> from torch import tensor
    >>> onto_alignment(tensor([[2.0], [0.0]]), tensor([[3.0], [4.0]]))
    (tensor([[6.],
            [0.]]), 0.6)
    """
    with one_thread():
        length = norm(alignment) if delta.dim() == 2 else 0.0
        if not length or not norm(delta):
            return delta, 1.0
    projected = by_columns(lambda columns: alignment @ (alignment.T @ columns), delta) / length
    with one_thread():
        return projected, max(0.0, cosine(projected, delta, empty=0.0))


def leaning(aligned: Tensor, delta: Tensor, raw: Tensor) -> float | None:
    """cos(C·δ, δ) of a matrix that alignment and fine-tuning both changed, None for every other tensor.

    >>> from torch import tensor
    >>> leaning(tensor([[2.0], [0.0]]), tensor([[3.0], [4.0]]), tensor([[0.0], [0.0]]))
    0.6
    """
    alignment = aligned - raw
    touched = delta.dim() == 2 and bool(alignment.any()) and bool(delta.any())
    return onto_alignment(alignment, delta)[1] if touched else None


def leading_directions(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of `matrix` by its `rank` largest singular triples; 0 or more than it has gives it back.

    Axes after the first are one. In fp64, from the eigenvectors of the smaller Gram matrix.

    >>> from torch import tensor
    >>> leading_directions(tensor([[0.0, 2.0], [1.0, 0.0]]), 1).round()
    tensor([[0., 2.],
            [0., 0.]])
    """
    flat = matrix.reshape(matrix.shape[0], -1)
    if rank == 0 or rank >= min(flat.shape):
        return matrix
    exact = flat.double()
    tall = exact.shape[0] > exact.shape[1]
    rows, columns = (exact, exact.T) if tall else (exact.T, exact)  # [long, short] and [short, long]
    gram = by_columns(lambda block: columns @ block, rows)
    with one_thread():
        directions = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
        best = (exact @ directions) @ directions.T if tall else directions @ (directions.T @ exact)
    found: Tensor = best.float().reshape(matrix.shape)
    return found
