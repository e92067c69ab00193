"""The one training loop: full-parameter or LoRA, AdamW, mean loss of the last assistant turn.

It is handed a model, encoded examples and settings, and changes the model in place. It opens no files, knows no
suites, and draws every random number from the seed in the settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from backend.tuning.data import IGNORED, Batch, Example, collate, shuffled_batches

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps: optimiser steps.
        batch: rows per step.
        lr: peak learning rate of AdamW.
        warmup: share of the steps in which the rate climbs from 0.
        final: the rate's last value as a share of `lr`; between them it follows a cosine.
        clip: the largest gradient norm.
        pool: batches cut from one pool sorted by length, see `shuffled_batches`.
    """

    steps: int
    batch: int
    lr: float
    warmup: float = 0.05
    final: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    pool: int = 1
    seed: int = 0


class Progress(NamedTuple):
    """What one step has to tell."""

    step: int
    loss: float
    lr: float
    grad_norm: float


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
        logits[:, :-1].transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    learned = (targets != IGNORED).sum(1)
    total: Tensor = losses.sum(1)
    return total / learned.clamp(min=1)


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The rate at `step` (0 is the first): a short climb, then half a cosine.

    >>> plan = TrainingSettings(steps=100, batch=1, lr=1.0, warmup=0.1, final=0.0)
    >>> [round(learning_rate(plan, step), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    climb = round(settings.warmup * settings.steps)
    if step < climb:
        return settings.lr * (step + 1) / climb
    walked = (step - climb) / max(1, settings.steps - climb)
    return settings.lr * (settings.final + (1 - settings.final) * (1 + math.cos(math.pi * walked)) / 2)


def add_lora(model: Any, *, rank: int, alpha: float, seed: int) -> Any:
    """The model with fresh low-rank adapters on all its linear layers; only they will be trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # peft draws the A factors from the global generator
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def train(
    model: Any,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    pad: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[float]:
    """Train the parameters that ask for a gradient, in place; the loss of every step comes back.

    Args:
        pad: the token id that fills short rows; it is masked and never learned.
        report: called after every step; an exception it raises ends the training.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.98))
    batches = shuffled_batches(examples, settings.batch, seed=settings.seed, pool=settings.pool)
    model.train()
    losses: list[float] = []
    for step in range(settings.steps):
        rate = learning_rate(settings, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = batch_loss(model, collate(next(batches), pad))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        losses.append(loss.item())
        report(Progress(step, losses[-1], rate, float(norm)))
    model.eval()
    return losses


def batch_loss(model: Any, batch: Batch) -> Tensor:
    """The mean of the rows' losses: every sample counts alike, however long its answer."""
    device = next(model.parameters()).device
    logits = model(input_ids=batch.tokens.to(device), attention_mask=batch.mask.to(device), use_cache=False).logits
    return sample_losses(logits, batch.labels.to(device)).mean()
