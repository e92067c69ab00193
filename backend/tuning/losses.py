"""What a model is trained on: one number per row. Pure functions of logits and labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from backend.tuning.data import IGNORED
from backend.tuning.scores import wide


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's target tokens, in nats.

    Args:
        logits: [rows, length, vocabulary]; position t predicts token t + 1.
        labels: [rows, length]; `IGNORED` where nothing is learned.

    Returns:
        [rows]

    >>> sample_losses(torch.zeros(1, 3, 4), torch.tensor([[IGNORED, 2, 1]]))
    tensor([1.3863])
    """
    targets = labels[:, 1:]
    losses = functional.cross_entropy(
        wide(logits[:, :-1].transpose(1, 2)), targets, ignore_index=IGNORED, reduction="none"
    )
    learned = (targets != IGNORED).sum(1)
    total: Tensor = losses.sum(1)
    return total / learned.clamp(min=1)


def divergences(logits: Tensor, start: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean KL(π_0 || π) over each row's target tokens, in nats.

    Args:
        logits: of π, [rows, length, vocabulary].
        start: of π_0, the same shape, without a graph.
        labels: [rows, length]; `IGNORED` on prompt and padding.

    >>> divergences(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.tensor([[IGNORED, 2, 1]]))
    tensor([0.])
    """
    targets = labels[:, 1:]
    rows, places = (targets != IGNORED).nonzero(as_tuple=True)
    new = functional.log_softmax(wide(logits[rows, places]) / temperature, -1)
    old = functional.log_softmax(wide(start[rows, places]) / temperature, -1)
    each = (old.exp() * (old - new)).sum(-1)
    total = torch.zeros(len(targets), device=each.device, dtype=each.dtype).index_add(0, rows, each)
    return total / (targets != IGNORED).sum(1).clamp(min=1)
