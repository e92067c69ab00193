"""What a tuning strategy is: the hooks of the one loop. A plug-in overrides those it needs; none of them is plain SFT.

The loop owns the order of the data, accumulation, clipping, optimiser, seeds, checkpoints and logging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from backend.tuning.data import Example
    from backend.tuning.tools import Tools
    from backend.tuning.window import Window

Phase = Literal["task", "references"]
Event = dict[str, Any]


class Strategy:
    """Plain supervised fine-tuning, and the hooks that make it something else.

    Attributes:
        needs: "references" (a pool of good answers), "start_model" (the weights before training, to compare with).
        constant_rate: whether the step size stays at lr instead of climbing first and falling towards the end.
        tools: what the loop lends: the model, its data, gradients, generators. Set by `prepare`.
    """

    needs: frozenset[str] = frozenset()
    constant_rate: bool = False
    tools: Tools

    def prepare(self, tools: Tools) -> None:
        """Before the first step, at the start weights, also when a run is resumed. It may change `tools.task` and
        `tools.references`."""
        self.tools = tools

    def advice(self, training: Mapping[str, Any]) -> list[str]:
        """Sentences about how a training is set up that a person should read before it starts."""
        return []

    def effort(self, batch: int) -> float:
        """What a step costs in steps of plain fine-tuning, roughly, before anything is loaded; for the forecast."""
        return 1.0

    def phase(self, step: int) -> Phase:
        """Which data the step's rows are drawn from."""
        return "task"

    def refresh(self, step: int) -> None:
        """Before the step's rows are looked at: choose references anew, if it is time."""

    def losses(self, rows: Sequence[Example]) -> Tensor:
        """The loss of each row, [rows], with its graph."""
        return self.tools.losses(rows)

    def weights(self, window: Window) -> Tensor | None:
        """p over the rows of the step, [rows], summing to 1; None for the ordinary mean, in which nothing is scored."""
        return None

    def penalty(self, step: int) -> Tensor | None:
        """A scalar to add to the loss, whatever the rows."""
        return None

    def correct(self, gradient: list[Tensor], window: Window) -> None:
        """Change the accumulated gradient in place, once per optimiser step and before clipping."""

    def settled(self) -> dict[str, Any]:
        """What it chose by itself in `prepare`, for the record: automatic settings as they are, plain values only."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Scalars of the last step; what does not apply is absent."""
        return {}

    def events(self) -> list[Event]:
        """What happened since the last call: references chosen, samples dropped."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; tensors, numbers, strings, lists and dicts only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
