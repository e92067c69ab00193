"""The settings of DualSelect as one value, and how its automatic ones are filled in. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.errors import UserError
from backend.tuning import scores as maths
from backend.tuning.pool import pool_size

if TYPE_CHECKING:
    from backend.tuning.tools import Tools


@dataclass(frozen=True)
class Rules:
    """The settings of `dualselect`, see there; 0 (warm-up: −1) means automatic until `settled`.

    `keep_rows` keeps that share of each window's rows instead of a token budget; `frozen` keeps the direction of the
    chosen references until the next refresh and sums d_task since the last one, and lr constant, as the published code
    does.
    """

    keep_tokens: float
    rho: float
    correction: maths.Rule
    norm_match: bool
    nu: float
    mu_ref: float
    mu_task: float
    standardise: maths.Scale
    tau_ref: float
    tau_task: float
    pool: int
    k_ref: int
    kind_quota: float
    ref_loss: str
    ref_tokens: int
    warmup: int
    refresh_every: int
    turn_cos: float
    d_ref_every: int
    b_ref: int
    scores: str
    precondition: str
    reference_choice: str
    task_choice: str
    keep_rows: float | None = None
    frozen: bool = False

    def check(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            UserError: naming the field.
        """
        if self.ref_loss == "kl" and self.warmup == 0:
            problem = "got 0, but before the first step nothing has drifted from the start model to rank references by"
            raise UserError("warmup", problem=problem, remedy="Take 1 or more, or ref_loss sft_minus_base.")
        if self.scores == "gate" and self.standardise == "off":
            problem = "got 'gate', which knows no lengths of gradients; scores that nothing standardises need them"
            raise UserError("scores", problem=problem, remedy="Take auto, sample or single.")

    def settled(self, tools: Tools) -> Rules:
        """With every automatic value filled in for this model and its data."""
        every = self.refresh_every or min(max(tools.epoch, 25), 100)
        size = self.pool or pool_size(len(tools.references), tools.batch, every, _relative_length(tools))
        size = min(size, len(tools.references))
        # a tenth of all references, as in the paper, though only `size` of them are looked at
        k = self.k_ref or max(4, min(size // 2, math.ceil(0.1 * len(tools.references))))
        return replace(
            self,
            warmup=self.warmup if self.warmup >= 0 else min(10, max(1, round(0.05 * tools.steps))),
            refresh_every=every,
            pool=size,
            k_ref=min(k, len(tools.references)),
            b_ref=self.b_ref or max(1, tools.batch // 2),
        )

    @property
    def selects(self) -> bool:
        """Whether some task samples count more than others."""
        return self.keep_tokens < 1 or self.keep_rows is not None or self.tau_task > 0

    @property
    def pulls(self) -> bool:
        """Whether the task gradient is corrected."""
        return maths.acts(self.correction, self.rho)


def released(rules: Rules) -> Rules:
    """The settings of the published code: raw scores, one frozen direction per epoch, half of each batch.

    Its step size is constant, too, at the lr of the training.
    """
    return replace(
        rules,
        keep_tokens=1.0,
        keep_rows=0.5,
        correction="add",
        norm_match=False,
        nu=1.0,
        mu_ref=1.0,
        mu_task=1.0,
        standardise="off",
        tau_ref=0.0,
        tau_task=0.0,
        pool=10**9,
        k_ref=rules.k_ref or 32,
        kind_quota=-1.0,
        ref_loss="sft",
        ref_tokens=0,
        warmup=rules.warmup if rules.warmup >= 0 else 10,
        refresh_every=10**9,
        turn_cos=-1.0,
        precondition="off",
        reference_choice="scored",
        task_choice="scored",
        frozen=True,
    )


def _relative_length(tools: Tools) -> float:
    lengths = [sum(len(one.tokens) for one in rows) / max(1, len(rows)) for rows in (tools.references, tools.task)]
    return lengths[0] / max(1.0, lengths[1])
