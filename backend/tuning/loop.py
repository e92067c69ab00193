"""The one training loop: full-parameter or LoRA, AdamW, mean loss of the last assistant turn, and a strategy's hooks.

It is handed a model, encoded examples and settings, and changes the model in place. It opens no files but its own
checkpoint, knows no suites, and draws every random number from the seed in the settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from backend.errors import Paused, RunFailed, UserError
from backend.tuning.data import Batch, Example, shuffled_batches
from backend.tuning.losses import sample_losses
from backend.tuning.resume import Saver
from backend.tuning.strategy import Event, Phase, Strategy
from backend.tuning.tools import Tools, quiet_dropout
from backend.tuning.window import Norm, Window

__all__ = [
    "Progress",
    "TrainingSettings",
    "add_lora",
    "batch_loss",
    "learning_rate",
    "sample_losses",
    "save_memory",
    "train",
]

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Order = Literal["", "keep", "pause"]


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
        accumulate: parts that a step's rows go through the model in; the step stays the same.
        autocast: compute in bf16 while the trained weights stay in fp32.
        loss_norm: "sample", every row of a step counts alike, or "token", every token that is learned.
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
    accumulate: int = 1
    autocast: bool = False
    loss_norm: Norm = "sample"


class Progress(NamedTuple):
    """What one step has to tell; `events` and `metrics` are the strategy's."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int = 0
    metrics: dict[str, float] = {}
    events: list[Event] = []
    phase: Phase = "task"


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


def add_lora(model: Any, *, rank: int, alpha: float, seed: int, targets: Sequence[str] | str = LINEAR_LAYERS) -> Any:
    """The model with fresh low-rank adapters; only they will be trained.

    Args:
        targets: names of linear layers, or "all-linear" for all of them but the output head.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # peft draws the A factors from the global generator
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def save_memory(model: Any) -> None:
    """Gradient checkpointing: forget activations and compute them again when the backward pass needs them."""
    model.enable_input_require_grads()  # else the first block of a frozen model has nothing to backpropagate to
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def train(
    model: Any,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    pad: int,
    report: Callable[[Progress], None] = lambda progress: None,
    strategy: Strategy | None = None,
    references: Sequence[Example] = (),
    saver: Saver | None = None,
    control: Callable[[], Order] = lambda: "",
) -> list[float]:
    """Train the parameters that ask for a gradient, in place; the loss of every step comes back.

    Args:
        pad: the token id that fills short rows; it is masked and never learned.
        report: called after every step; an exception it raises ends the training.
        strategy: what is done with a step's gradient; None is plain fine-tuning.
        references: good answers for strategies that need them; their order does not matter, their ids decide.
        saver: writes checkpoints and, if there is one, continues from it as if nothing had happened.
        control: asked after every step; "keep" ends the training with the weights as they are, "pause" after a
            checkpoint with `Paused`.

    Raises:
        UserError: the strategy needs references and there are none, or fewer rows than one batch.
        Paused: see `control`.
        RunFailed: the loss or the gradient is no finite number; the weights of the step before are kept.
    """
    run = _Run(model, examples, settings, pad, strategy or Strategy(), references)
    if saver is not None and (state := saver.load(run.tools.device)) is not None:
        run.load_state_dict(state)
    model.train()
    while run.step < settings.steps and not run.finished:
        report(run.advance())
        order = control() if run.step < settings.steps else ""
        if order == "keep":
            break
        if saver is not None and (order == "pause" or saver.is_due()):
            saver.save(run.state_dict())
        if order == "pause":
            raise Paused(f"Paused after step {run.step} of {settings.steps}; restart it to go on.")
    run.finished = True
    if saver is not None:
        saver.save(run.state_dict())
    model.eval()
    return run.losses


@dataclass
class _Run:
    """A training between two steps: all that a checkpoint has to hold."""

    model: Any
    examples: Sequence[Example]
    settings: TrainingSettings
    pad: int
    strategy: Strategy
    references: Sequence[Example]
    step: int = 0
    tokens: int = 0
    finished: bool = False
    losses: list[float] = field(default_factory=list)
    drawn: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.settings
        if "references" in self.strategy.needs and not self.references:
            raise UserError("references", problem="this strategy needs them", remedy="Name a file of good answers.")
        quiet_dropout(self.model)
        self.tools = Tools(
            self.model,
            list(self.examples),
            sorted(self.references, key=lambda one: one.id),
            self.pad,
            chunk=-(-plan.batch // plan.accumulate),
            steps=plan.steps,
            batch=plan.batch,
            seed=plan.seed,
            autocast=plan.autocast,
        )
        self.optimizer = torch.optim.AdamW(  # foreach: the same numbers, without Python between an adapter's tensors
            self.tools.parameters, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.98), foreach=True
        )
        self.tools.optimizer = self.optimizer
        if "start_model" in self.strategy.needs:
            self.tools.keep_start_model()
        self.strategy.prepare(self.tools)
        self.batches: dict[str, Iterator[list[Example]]] = {}

    def advance(self) -> Progress:
        """One optimiser step."""
        plan, strategy, step = self.settings, self.strategy, self.step
        rate = plan.lr if strategy.constant_rate else learning_rate(plan, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        strategy.refresh(step)
        phase = strategy.phase(step)
        window = Window(self.tools, step, self._rows(phase), plan.loss_norm)
        self.optimizer.zero_grad(set_to_none=True)
        weights = strategy.weights(window)
        loss = window.plain(strategy.losses) if weights is None else window.combine(weights)
        penalty = strategy.penalty(step)
        if penalty is not None:
            penalty.backward()  # type: ignore[no-untyped-call]
        if any(one.grad is None for one in self.tools.parameters):
            self._fill_gradients()
        strategy.correct([one.grad for one in self.tools.parameters if one.grad is not None], window)
        norm = torch.nn.utils.clip_grad_norm_(self.tools.parameters, plan.clip)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            where = f"step {step + 1} of {plan.steps}"
            raise RunFailed(f"The loss is no longer a number at {where}. Lower lr, or start from other data.")
        self.optimizer.step()
        self.step += 1
        self.tokens += sum(window.tokens)
        self.losses.append(loss)
        return Progress(step, loss, rate, float(norm), self.tokens, strategy.metrics(), strategy.events(), phase)

    def _fill_gradients(self) -> None:
        """A strategy that corrects gradients gets one for every parameter; plain training leaves the unused alone."""
        if type(self.strategy).correct is not Strategy.correct:
            for one in self.tools.parameters:
                if one.grad is None:
                    one.grad = torch.zeros_like(one)

    def _rows(self, phase: Phase) -> list[Example]:
        if phase not in self.batches:
            rows = self.tools.task if phase == "task" else self.tools.references
            size = min(self.settings.batch, len(rows)) if phase == "references" else self.settings.batch
            self.batches[phase] = shuffled_batches(rows, size, seed=self.settings.seed, pool=self.settings.pool)
        self.drawn[phase] = self.drawn.get(phase, 0) + 1
        return next(self.batches[phase])

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "finished": self.finished,
            "losses": list(self.losses),
            "drawn": dict(self.drawn),
            "weights": [one.detach() for one in self.tools.parameters],
            "optimizer": self.optimizer.state_dict(),
            "generators": {name: one.get_state() for name, one in self.tools.generators.items()},
            "random": torch.get_rng_state(),
            "strategy": self.strategy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.tokens, self.losses = state["step"], state["tokens"], list(state["losses"])
        self.finished = state["finished"]
        with torch.no_grad():
            for one, saved in zip(self.tools.parameters, state["weights"], strict=True):
                one.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for name, saved in state["generators"].items():
            self.tools.generator(name).set_state(saved.cpu())
        torch.set_rng_state(state["random"].cpu())
        for phase, count in state["drawn"].items():
            for _ in range(count):  # the order of the data is a function of the seed: walk to where it was
                self._rows(phase)
        self.strategy.load_state_dict(state["strategy"])


def batch_loss(model: Any, batch: Batch) -> Tensor:
    """The mean of the rows' losses: every sample counts alike, however long its answer."""
    device = next(model.parameters()).device
    logits = model(input_ids=batch.tokens.to(device), attention_mask=batch.mask.to(device), use_cache=False).logits
    return sample_losses(logits, batch.labels.to(device)).mean()
