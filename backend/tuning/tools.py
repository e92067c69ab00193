"""What the loop lends to a strategy: losses, gradients and scores of any rows, the start model, seeded generators."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from backend.checkpoints import space
from backend.errors import UserError
from backend.tuning.data import Batch, Example, collate
from backend.tuning.gradients import (
    Collector,
    Gradient,
    Keeper,
    Scores,
    can_gate,
    can_sample,
    gates,
    per_sample,
    trained_layers,
    trained_parameters,
)
from backend.tuning.losses import divergences, sample_losses
from backend.tuning.scores import wide

Losses = Callable[[Sequence[Example]], Tensor]
SHARE_OF_FREE_MEMORY = 0.25
KEPT_AT_ONCE = 2**28  # bytes of single gradients of references that are looked at together instead of layer by layer


@dataclass
class Tools:
    """The model in training with its data, and what can be computed from them.

    Attributes:
        task, references: encoded rows; references are in the order of their ids.
        chunk: rows that go through the model at once.
        scorer: "sample", "gate" or "single"; see `backend.tuning.gradients`.
        steps, batch, epoch: optimiser steps of the run, rows of each, steps per pass over the task rows.
    """

    model: Any
    task: list[Example]
    references: list[Example]
    pad: int
    chunk: int
    steps: int
    batch: int
    seed: int = 0
    autocast: bool = False
    scorer: str = "sample"
    optimizer: Any = None
    generators: dict[str, torch.Generator] = field(default_factory=dict)
    _start: Any = None

    def __post_init__(self) -> None:
        self.parameters = trained_parameters(self.model)
        self.layers = trained_layers(self.model)  # found once: a model of adapters has hundreds of modules
        self.device = next(self.model.parameters()).device

    @property
    def epoch(self) -> int:
        return max(1, len(self.task) // self.batch)

    @property
    def is_adapter(self) -> bool:
        """Whether the start model is this one with its adapter off."""
        return hasattr(self.model, "disable_adapter")

    def choose_scorer(self, wanted: str, *, lengths: bool = False) -> None:
        """Take `wanted`, or for auto the cheapest exact scorer that this model allows.

        Args:
            lengths: whether dots will not do, since nothing else brings them to one scale.

        Raises:
            UserError: the model's trained layers do not allow it.
        """
        fits = can_sample(self.model) and self._sample_bytes() <= SHARE_OF_FREE_MEMORY * free_memory(self.device)
        if wanted == "auto":
            wanted = "sample" if fits else "gate" if can_gate(self.model) and not lengths else "single"
        allowed = {"sample": can_sample(self.model), "gate": can_gate(self.model), "single": True}
        if not allowed.get(wanted, False):
            problem = f"{wanted} does not work with what is trained here"
            raise UserError("scores", problem=problem, remedy="Use auto; sample is for LoRA, gate for plain layers.")
        self.scorer = wanted

    def _sample_bytes(self) -> int:
        return self.batch * sum(4 * one.numel() for one in self.parameters)

    def generator(self, name: str) -> torch.Generator:
        """A generator of its own for each purpose, from the run's seed; its state is part of a checkpoint."""
        if name not in self.generators:
            digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
            self.generators[name] = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return self.generators[name]

    # ---------------------------------------------------------------------------------------------- losses

    def batch_of(self, rows: Sequence[Example]) -> Batch:
        """The rows as padded tensors on the model's device."""
        return Batch(*(tensor.to(self.device) for tensor in collate(rows, self.pad)))

    def logits(self, batch: Batch, begin: int = 0) -> Tensor:
        """[rows, length − begin, vocabulary], in half precision where the run computes so.

        Those before `begin` are not computed where the model allows it: a large vocabulary makes them most of a batch.
        """
        cut = {"logits_to_keep": batch.tokens.shape[1] - begin} if begin and self._cuts_logits else {}
        context = torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        with context:
            given: Tensor = self.model(input_ids=batch.tokens, attention_mask=batch.mask, use_cache=False, **cut).logits
        return given[:, begin - batch.tokens.shape[1] :]  # all of what was asked for, or the end of more

    @cached_property
    def _cuts_logits(self) -> bool:
        whole = self.model.get_base_model() if self.is_adapter else self.model
        return "logits_to_keep" in inspect.signature(whole.forward).parameters

    def losses(self, rows: Sequence[Example]) -> Tensor:
        """Mean negative log-likelihood of each row's answer, [rows], with its graph."""
        batch, begin = self.batch_of(rows), _before_answers(rows)
        return sample_losses(self.logits(batch, begin), batch.labels[:, begin:])

    def drifts(self, rows: Sequence[Example], temperature: float = 1.0) -> Tensor:
        """Mean KL(π_start || π) over each row's answer, [rows], with its graph."""
        batch, begin = self.batch_of(rows), _before_answers(rows)
        start = self.start_logits(batch, begin)
        return divergences(self.logits(batch, begin), start, batch.labels[:, begin:], temperature)

    def start_logits(self, batch: Batch, begin: int = 0) -> Tensor:
        """The logits that the model had before training."""
        with torch.no_grad(), self._start_model():
            return self.logits(batch, begin)

    @torch.no_grad()
    def start_losses(self, rows: Sequence[Example]) -> list[float]:
        """The losses before training; a model without an adapter must be asked before its first step."""
        found: list[float] = []
        with self._start_model(), self.evaluating():
            for part in self.chunks(rows):
                found += self.losses(part).tolist()
        return found

    def keep_start_model(self) -> None:
        """Put a frozen copy aside where no adapter can be switched off. Call it before the first step."""
        if not self.is_adapter and self._start is None:
            self._start = copy.deepcopy(self.model).requires_grad_(False).eval()

    @contextmanager
    def _start_model(self) -> Iterator[None]:
        if self.is_adapter:
            with self.model.disable_adapter():
                yield
        elif self._start is None:
            yield
        else:
            trained, self.model = self.model, self._start
            try:
                yield
            finally:
                self.model = trained

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off, for scores that mean something."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def chunks(self, rows: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """`rows` in parts of at most `chunk`."""
        for start in range(0, len(rows), self.chunk):
            yield rows[start : start + self.chunk]

    def _as_long_as_a_batch(self, rows: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """`rows`, the shorter ones first, in parts that take no more memory than a chunk of task rows does.

        A part has a chunk's rows at least, and goes on while it has no more tokens and no more logits than a chunk of
        the longest task rows with the longest answers.
        """
        tokens = self.chunk * max((len(one.tokens) for one in self.task), default=0)
        logits = self.chunk * max((one.targets for one in self.task), default=0)
        start = 0
        while start < len(rows):
            end, prompt = start, rows[start].prompt
            while end < len(rows):
                count, length, prompt = end + 1 - start, len(rows[end].tokens), min(prompt, rows[end].prompt)
                if count > self.chunk and (count * length > tokens or count * (length - prompt) > logits):
                    break
                end += 1
            yield rows[start:end]
            start = end

    # ---------------------------------------------------------------------------------------------- gradients

    def zeros(self) -> Gradient:
        """A gradient of nothing, at least fp32."""
        return [torch.zeros_like(wide(one.detach())) for one in self.parameters]

    def gradient(
        self, rows: Sequence[Example], weights: Sequence[float], losses: Losses | None = None
    ) -> tuple[Gradient, float]:
        """∇ Σ w_j l_j in fp32 and the value of the sum. The parameters' own `.grad` is left alone."""
        total, value, done = self.zeros(), 0.0, 0
        for part in self.chunks(rows):
            share = torch.tensor(
                weights[done : done + len(part)], device=self.device, dtype=wide(self.parameters[0]).dtype
            )
            loss = ((losses or self.losses)(part) * share).sum()
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            for sums, one in zip(total, found, strict=True):
                if one is not None:
                    sums.add_(one)
            value, done = value + float(loss.detach()), done + len(part)
        return total, value

    def score(
        self,
        rows: Sequence[Example],
        direction: Gradient,
        losses: Losses | None = None,
        metric: Gradient | None = None,
    ) -> Scores:
        """Loss, <g_i, direction> and |g_i| of every row; chunk by chunk, nothing is kept, whatever their number.

        Rows of like length go through together, since every row of a chunk costs as much as its longest, and short ones
        many at a time.
        """
        order = sorted(range(len(rows)), key=lambda one: len(rows[one].tokens))
        back = torch.tensor(order).argsort()
        chunks = self._as_long_as_a_batch([rows[one] for one in order])
        parts = [self._score_chunk(part, direction, losses or self.losses, metric) for part in chunks]
        norms = None if parts[0].norms is None else torch.cat([part.norms for part in parts if part.norms is not None])
        found = torch.cat([p.losses for p in parts]), torch.cat([p.dots for p in parts])
        return Scores(found[0][back], found[1][back], None if norms is None else norms[back])

    def _score_chunk(
        self, rows: Sequence[Example], direction: Gradient, losses: Losses, metric: Gradient | None
    ) -> Scores:
        if self.scorer == "sample":
            small = len(rows) * self._sample_bytes() // self.batch <= KEPT_AT_ONCE
            collector = (Keeper if small else Collector)(direction, metric=metric)
            with per_sample(self.layers, collector):
                values = losses(rows)
                values.sum().backward()  # type: ignore[no-untyped-call]
            return collector.scores(values)
        if self.scorer == "gate":
            alpha = self.gate_values(len(rows))
            with gates(self.layers, weighted(direction, metric), alpha):
                values = losses(rows)
                (dots,) = torch.autograd.grad(values.sum(), [alpha])
            return Scores(wide(values.detach()).cpu(), wide(dots).cpu(), None)
        return self.score_singly(rows, direction, losses, metric)

    def score_singly(
        self, rows: Sequence[Example], direction: Gradient, losses: Losses, metric: Gradient | None
    ) -> Scores:
        values, collector = [], Collector(direction, metric=metric)
        each: list[Scores] = []
        for row in rows:
            value = losses([row])
            collector = Collector(direction, metric=metric)
            for place, one in enumerate(torch.autograd.grad(value.sum(), self.parameters, allow_unused=True)):
                if one is not None:
                    collector.add(place, one[None])
            values.append(value.detach())
            each.append(collector.scores(value))
        norms = torch.cat([one.norms for one in each if one.norms is not None])
        return Scores(wide(torch.cat(values)).cpu(), torch.cat([one.dots for one in each]), norms)

    def gate_values(self, count: int) -> Tensor:
        """α = 0 for every row, asking for its gradient."""
        dtype = torch.promote_types(self.parameters[0].dtype, torch.float32)
        return torch.zeros(count, device=self.device, dtype=dtype, requires_grad=True)

    def metric(self) -> Gradient | None:
        """1/(√v + ε) of AdamW for every parameter, or None before its first step."""
        state = self.optimizer.state if self.optimizer is not None else {}
        if not all("exp_avg_sq" in state.get(one, {}) for one in self.parameters):
            return None
        return [1 / (state[one]["exp_avg_sq"].float().sqrt() + 1e-8) for one in self.parameters]


def _before_answers(rows: Sequence[Example]) -> int:
    """The first position whose logits predict a token that one of the rows learns."""
    return max(0, min(row.prompt for row in rows) - 1)


def weighted(direction: Gradient, metric: Gradient | None) -> Gradient:
    """The direction in a diagonal metric; itself without one."""
    return direction if metric is None else [d * m for d, m in zip(direction, metric, strict=True)]


def free_memory(device: torch.device) -> int:
    """Bytes that a scorer may count on."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return space.free_memory()


def quiet_dropout(model: nn.Module) -> None:
    """Set every dropout to 0: scores and gradients then belong to the same model, for every strategy alike."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
