"""Optimal brain surgery for merges: what a change costs on given inputs, and how other weights make up for it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from backend.lazy import torch
from backend.merging.product import by_columns
from backend.threads import one_thread

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 1024
NEVER = 0.15
ROWS = 4096


@one_thread()
def cost_factor(gram: Tensor, damping: float) -> Tensor:
    """U, upper triangular in fp64, with UᵀU = H⁻¹ for H = 2·gram + damping·mean(diag)·1; inputs never seen count as 1.

    >>> from torch import eye
    >>> cost_factor(eye(2), 0.0001).diagonal().round(decimals=3)
    tensor([0.7070, 0.7070], dtype=torch.float64)
    """
    exact = gram.double() * 2
    diagonal = exact.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(exact))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def accept_within(aligned: Tensor, fine_tuned: Tensor, factor: Tensor, strength: float) -> Tensor:
    """Safe Delta: the changes accepted within the bound that `strength` sets, the rest aligned but compensated.

    Args:
        aligned: θ0, fp32, [rows, columns].
        fine_tuned: θ1, the same shape.
        factor: U, [columns, columns], fp64.
        strength: s.
    """
    weights, goal = aligned.double(), fine_tuned.double()
    for begin in range(0, weights.shape[1], COLUMNS):
        end = min(begin + COLUMNS, weights.shape[1])
        accepted = _accepted(goal[:, begin:end] - weights[:, begin:end], factor.diagonal()[begin:end], strength)
        moved = torch.zeros_like(weights[:, begin:end])
        for column in range(begin, end):
            chosen = accepted[:, column - begin]
            change = torch.where(chosen, goal[:, column] - weights[:, column], 0.0)
            moved[:, column - begin] = change / factor[column, column]
            weights[:, column + 1 : end] += moved[:, column - begin, None] * factor[column, column + 1 : end]
            weights[:, column] = torch.where(chosen, goal[:, column], weights[:, column])
        if end < weights.shape[1]:
            weights[:, end:] += by_columns(partial(torch.matmul, moved), factor[begin:end, end:])
    return weights.float()


def _accepted(delta: Tensor, diagonal: Tensor, strength: float) -> Tensor:
    """Which changes of a block of columns are accepted: by rising 1/u², equal ones by column and row, within the bound.

    Inputs that are never seen have equal 1/u², of which fp64 keeps a noise that fp32 does not.
    """
    rows, columns = delta.shape
    weight = 1 / diagonal.square()
    order = torch.argsort(weight.float(), stable=True)
    costs = (delta.square() * weight)[:, order].T.reshape(-1)
    bound = strength / 2 * float(weight.mean()) * rows / ROWS
    within = costs.cumsum(0) <= bound
    within[len(within) - int(NEVER * len(within)) :] = False
    accepted = torch.zeros(columns, rows, dtype=torch.bool, device=delta.device)
    accepted[order] = within.reshape(columns, rows)
    return accepted.T
