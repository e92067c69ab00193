"""Constrained fine-tuning: the first answer tokens may hardly drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from backend.lazy import torch
from backend.params import Between
from backend.registry import strategy
from backend.tuning.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from backend.tuning.data import Example


@strategy(paper="arXiv:2406.05946", needs="the start model", cost="1.5 in the first epoch, then 1")
def constrained_sft(
    *,
    beta_first: Annotated[float, Between(0.01, 10)] = 0.5,
    beta_early: Annotated[float, Between(0.01, 10)] = 2.0,
    beta_rest: Annotated[float, Between(0.01, 10)] = 0.1,
    early: Annotated[int, Between(1, 50, "tokens")] = 5,
) -> Strategy:
    """Learn the task, but let the probabilities of the first answer tokens hardly move from the start model's.

    Each token's loss is −(2/β_t) log σ(β_t log(π/π_start)); a large β_t stops learning soon after the token became
    likelier than it was. Safety is decided in the first tokens, so they get the large ones.

    Args:
        beta_first: β of the first answer token; larger holds it more tightly.
        beta_early: β of the next early tokens.
        beta_rest: β of all later tokens; small values are close to plain fine-tuning.
        early: up to which answer token β_early counts.

    >>> sorted(constrained_sft().needs)
    ['start_model']
    """
    return ConstrainedSft(beta_first, beta_early, beta_rest, early)


class ConstrainedSft(Strategy):
    needs = frozenset({"start_model"})

    def __init__(self, first: float, early: float, rest: float, count: int) -> None:
        self.first, self.early, self.rest, self.count = first, early, rest, count
        self._start: dict[tuple[int, ...], Tensor] = {}  # what the start model gave each row's tokens, kept on the CPU
        self._likelihoods: list[Tensor] = []

    def effort(self, batch: int) -> float:
        return 1.2

    def refresh(self, step: int) -> None:
        self._likelihoods = []

    def losses(self, rows: Sequence[Example]) -> Tensor:
        batch = self.tools.batch_of(rows)
        now = _log_probabilities(self.tools.logits(batch), batch.tokens)
        missing = [row for row in rows if row.tokens not in self._start]
        if missing:
            known = self.tools.batch_of(missing)
            found = _log_probabilities(self.tools.start_logits(known), known.tokens).cpu()
            self._start |= {row.tokens: found[at, : len(row.tokens) - 1] for at, row in enumerate(missing)}
        start = torch.zeros_like(now)
        beta = torch.full_like(now, self.rest)
        learned = torch.zeros_like(now)
        for at, row in enumerate(rows):
            begin, end = row.prompt - 1, len(row.tokens) - 1
            start[at, :end] = self._start[row.tokens].to(start)
            beta[at, begin : begin + self.count] = self.early
            beta[at, begin] = self.first
            learned[at, begin:end] = 1
        self._likelihoods.append((now.detach() * learned).sum(1) / learned.sum(1))
        drift = torch.nn.functional.logsigmoid(beta * (now - start))
        total: Tensor = (-2 / beta * drift * learned).sum(1) / learned.sum(1)
        return total

    def metrics(self) -> dict[str, float]:
        """The negative log-likelihood as the task loss, to be read beside other strategies'; not what is descended."""
        return {"loss_task": -float(torch.cat(self._likelihoods).mean())} if self._likelihoods else {}

    def state_dict(self) -> dict[str, Any]:
        return {"start": [[list(tokens), found] for tokens, found in self._start.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start = {tuple(tokens): found.cpu() for tokens, found in state["start"]}


def _log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π of each token after the first, [rows, length − 1]."""
    negative = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none"
    )
    return -negative
