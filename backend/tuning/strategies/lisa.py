"""Lazy safety alignment: alternate between alignment and task data, held close to the other phase's end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from backend.params import Between
from backend.registry import strategy
from backend.tuning.strategy import Phase, Strategy

if TYPE_CHECKING:
    from torch import Tensor


@strategy(paper="arXiv:2405.18641", needs="references", cost="1 + k1/k2 at equal task steps")
def lisa(
    *,
    k1: Annotated[int, Between(1, 5000, "steps")] = 10,
    k2: Annotated[int, Between(1, 5000, "steps")] = 90,
    prox: Annotated[float, Between(0, 10)] = 1.0,
    free: Annotated[float, Between(0, 1, "of the steps")] = 0.1,
) -> Strategy:
    """Alternate k1 steps on references and k2 steps on the task, each tied to where the other phase ended.

    Each step adds (prox/2)·|w − w_switch|², w_switch the weights at the last switch, off in the first steps. The
    paper's script alternates 100 and 900 steps; the default keeps their proportion. Both kinds of step
    count.

    Args:
        k1: steps on references before the task data takes over again.
        k2: steps on the task data before the references take over again.
        prox: how strongly the weights are held where the other phase left them.
        free: the share of the run, at its start, in which nothing is held.

    >>> hooks = lisa(k1=1, k2=2)
    >>> [hooks.phase(step) for step in range(4)]
    ['references', 'task', 'task', 'references']
    """
    return Lisa(k1, k2, prox, free)


class Lisa(Strategy):
    needs = frozenset({"references"})

    def __init__(self, k1: int, k2: int, prox: float, free: float) -> None:
        self.k1, self.k2, self.prox, self.free = k1, k2, prox, free
        self.switch: list[Tensor] = []
        self.last: Phase = "references"

    def phase(self, step: int) -> Phase:
        return "references" if step % (self.k1 + self.k2) < self.k1 else "task"

    def refresh(self, step: int) -> None:
        if self.phase(step) != self.last:
            self.last = self.phase(step)
            self.switch = [one.detach().clone() for one in self.tools.parameters]

    def penalty(self, step: int) -> Tensor | None:
        if not self.switch or step < self.free * self.tools.steps or self.prox == 0:
            return None
        pairs = zip(self.tools.parameters, self.switch, strict=True)
        total: Tensor = self.prox / 2 * sum(((one - there).pow(2).sum() for one, there in pairs), start=0.0)  # type: ignore[assignment]
        return total

    def state_dict(self) -> dict[str, Any]:
        return {"switch": self.switch, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.switch, self.last = list(state["switch"]), state["last"]
