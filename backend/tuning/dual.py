"""DualSelect: choose the references that the task step damages most, then the task samples compatible with them.

    s_j = μ_R r_j − ν cos(h_j, d_task)    references: high loss, high conflict first
    c_i = μ_T l_i − ν cos(g_i, d_ref)     task samples: low c = compatible

l, r are losses, g, h gradients of single samples, d_task and d_ref the directions of either side; of a reference only
the first `ref_tokens` tokens of the answer count. From the equations of arXiv:2606.09866; the settings are those of the
strategy `dualselect`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.lazy import torch
from backend.tuning import guard
from backend.tuning import scores as maths
from backend.tuning.pool import Pool, shared_start
from backend.tuning.rules import Rules
from backend.tuning.scores import Moments
from backend.tuning.strategy import Event, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from backend.tuning.data import Example
    from backend.tuning.gradients import Gradient, Scores
    from backend.tuning.tools import Tools
    from backend.tuning.window import Window

SLOWEST_TURN = 5  # a turn of the training is looked for at most this often per interval
EMA = 0.9
PUBLISHED = {"batch": 8, "lr": 2e-5, "targets": "q_proj,v_proj", "lora_rank": 16, "lora_alpha": 32.0}


class DualSelect(Strategy):
    """The hooks; with ρ 0 and everything kept they never act, and the training is plain fine-tuning bit for bit."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.constant_rate = rules.frozen
        needs = {"references"} if rules.selects or rules.pulls else set()
        if needs:
            rules.check()
        self.needs = frozenset(needs | ({"start_model"} if needs and rules.ref_loss == "kl" else set()))
        self.d_task: Gradient | None = None
        self.d_then: Gradient | None = None  # d_task at the last refresh
        self.d_ref: Gradient | None = None
        self.refreshed = self.drawn = -1
        self.base: dict[str, float] = {}
        self.moments = {"loss": Moments(), "cos": Moments()}
        self.tokens = {"seen": 0, "kept": 0}
        self.seen: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.lasting: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._events: list[Event] = []

    @property
    def acts(self) -> bool:
        return bool(self.needs)

    def advice(self, training: Mapping[str, Any]) -> list[str]:
        """Where a run of the published rule is set up otherwise than the published trainer."""
        other = {name: value for name, value in PUBLISHED.items() if training.get(name) != value}
        if not self.rules.frozen or not other or training.get("full"):
            return []
        theirs, ours = (", ".join(f"{name} {of[name]}" for name in other) for of in (PUBLISHED, training))
        return [
            f"preset released: the published trainer has {theirs} and dropout 0.05; here it is {ours} and dropout 0."
        ]

    def effort(self, batch: int) -> float:
        if not self.acts:
            return 1.0
        return 1.25 if self.rules.scores != "single" else 4.0  # benchmarks/tune.py

    def prepare(self, tools: Tools) -> None:
        super().prepare(tools)
        if not self.acts:
            return
        if self.rules.ref_tokens:
            lead = shared_start(tools.references)
            tools.references = [one.cut(lead + self.rules.ref_tokens) for one in tools.references]
        rules = self.rules = self.rules.settled(tools)
        if rules.frozen:
            self.rules = rules = replace(rules, refresh_every=tools.epoch, d_ref_every=tools.epoch, b_ref=rules.k_ref)
        tools.choose_scorer(rules.scores, lengths=rules.standardise == "off")
        self.pool = Pool(
            tools.references, rules.pool, rules.k_ref, rules.tau_ref, rules.kind_quota, tools.generator("references")
        )
        if rules.ref_loss == "sft_minus_base" and not tools.is_adapter:
            self._know_base(range(len(tools.references)))  # later the start model is gone

    # ---------------------------------------------------------------------------------------------- references

    def refresh(self, step: int) -> None:
        self._metrics = {}
        if not self.acts or step < self.rules.warmup:
            return
        cause = self._cause(step)
        if cause:
            self._choose(step, cause)
        if cause or self.d_ref is None or step - self.drawn >= self.rules.d_ref_every:
            self._draw(step)

    def _cause(self, step: int) -> str:
        """Why to choose anew now; empty for not."""
        rules, age = self.rules, step - self.refreshed
        if not self.pool.chosen:
            return "warmup"
        if rules.reference_choice in ("static", "mean"):
            return ""
        if age >= rules.refresh_every:
            return "interval"
        soon = age < max(1, rules.refresh_every // SLOWEST_TURN)
        if soon or rules.turn_cos <= -1 or self.d_task is None or self.d_then is None:
            return ""
        length = maths.norm(self.d_task) * maths.norm(self.d_then)
        turned = length > 0 and maths.dot(self.d_task, self.d_then) / length < rules.turn_cos
        return "turned" if turned else ""

    def _choose(self, step: int, cause: str) -> None:
        started = time.monotonic()
        before = dict(self.pool.chosen)
        scored: list[Event] = []
        count = len(self.tools.references)
        if self.rules.reference_choice == "mean":
            self.pool.choose_all()
        elif self.rules.reference_choice == "random":
            self.pool.choose_at_random()
        else:
            scored, count = self._choose_by_score()
        then, now = ({self.tools.references[one].id for one in each} for each in (before, self.pool.chosen))
        rows = scored or self._unscored()
        for row in rows:
            row["new"] = bool(before) and row["id"] not in then
        self.lasting = {"ref_entropy": maths.entropy(torch.tensor(list(self.pool.chosen.values())), count)}
        if before:
            self.lasting |= {
                "ref_jaccard": round(maths.jaccard(then, now), 6),
                "ref_jaccard_chance": round(maths.chance_jaccard(len(now), count), 6),
            }
        self.refreshed = step
        self.d_then = None if self.d_task is None else [one.clone() for one in self.d_task]
        if self.rules.frozen:
            self.d_task = None
        seconds = round(time.monotonic() - started, 3)
        details = {"cause": cause, "seconds": seconds, "scored": count, "chosen": len(now)}
        details |= {name.removeprefix("ref_"): value for name, value in self.lasting.items()}
        self._events.append({"event": "refresh", "step": step, **details})
        self._events.append({"event": "references", "step": step, "rows": rows, "gone": sorted(then - now)})

    def _choose_by_score(self) -> tuple[list[Event], int]:
        """Choose among the candidates by s_j; what a reader sees of the chosen, and how many were looked at."""
        rules, tools = self.rules, self.tools
        indices = self.pool.candidates()
        rows = [tools.references[one] for one in indices]
        direction = self.d_task if self.d_task is not None else tools.zeros()
        metric = tools.metric() if rules.precondition == "adam" else None
        found = tools.score(rows, direction, self._reference_losses, metric)
        losses = found.losses
        if rules.ref_loss == "sft_minus_base":
            self._know_base(indices)
            losses = losses - torch.tensor([self.base[row.id] for row in rows], dtype=losses.dtype)
        cosines = _cosines(found, direction, metric)
        s = rules.mu_ref * maths.standardise(losses, rules.standardise)
        s = s - rules.nu * maths.standardise(cosines, rules.standardise)
        weights = self.pool.choose(indices, s)
        numbers = zip(rows, losses.tolist(), cosines.tolist(), s.tolist(), weights.tolist(), strict=True)
        chosen = [
            {"id": row.id, "kind": row.kind, "r": loss, "cos": cos, "score": score, "weight": weight}
            for row, loss, cos, score, weight in sorted(numbers, key=lambda one: -one[3])
            if weight > 0
        ]
        return chosen, len(rows)

    def _unscored(self) -> list[Event]:
        rows = self.tools.references
        return [{"id": rows[one].id, "kind": rows[one].kind, "weight": q} for one, q in self.pool.chosen.items()][:200]

    def _draw(self, step: int) -> None:
        """d_ref from the chosen references as the model is now."""
        indices, weights = self.pool.draw(self.rules.b_ref)
        rows = [self.tools.references[one] for one in indices]
        self.d_ref, loss = self.tools.gradient(rows, weights, self._reference_losses)
        self.drawn = step
        self.lasting["loss_ref"] = loss

    def _reference_losses(self, rows: Sequence[Example]) -> Tensor:
        return self.tools.drifts(rows) if self.rules.ref_loss == "kl" else self.tools.losses(rows)

    def _know_base(self, indices: Sequence[int]) -> None:
        rows = [self.tools.references[one] for one in indices if self.tools.references[one].id not in self.base]
        self.base |= dict(zip((row.id for row in rows), self.tools.start_losses(rows), strict=True))

    # ---------------------------------------------------------------------------------------------- task samples

    def weights(self, window: Window) -> Tensor | None:
        rules = self.rules
        if not self.acts or not rules.selects or window.step < rules.warmup:
            return None
        assert self.d_ref is not None
        if rules.task_choice == "random":
            order = torch.randperm(len(window.rows), generator=self.tools.generator("task")).tolist()
            costs, shown = torch.zeros(len(order)), None
        else:
            metric = self.tools.metric() if rules.precondition == "adam" else None
            found = window.score(self.d_ref, metric)
            costs, order, shown = self._costs(found, metric)
        kept = self._kept(order, window.tokens)
        self._tell(window, set(kept), costs, shown)
        return maths.soft_weights(costs, kept, rules.tau_task)

    def _costs(self, found: Scores, metric: Gradient | None) -> tuple[Tensor, list[int], dict[str, Tensor]]:
        """c_i, the samples in rising order of it (ties by the unclipped values), and its two parts."""
        assert self.d_ref is not None
        rules = self.rules
        cosines = _cosines(found, self.d_ref, metric)
        self.moments = {
            "loss": self.moments["loss"].seen(found.losses),
            "cos": self.moments["cos"].seen(cosines),
        }

        def parts(clip: float) -> tuple[Tensor, Tensor]:
            by_loss = self.moments["loss"].standardise(found.losses, rules.standardise, clip=clip)
            by_direction = self.moments["cos"].standardise(cosines, rules.standardise, clip=clip)
            return rules.mu_task * by_loss, -rules.nu * by_direction

        loss_part, direction_part = parts(maths.CLIP)
        costs, unclipped = loss_part + direction_part, sum(parts(float("inf")))
        keys = list(zip(costs.tolist(), unclipped.tolist(), strict=True))  # type: ignore[union-attr]
        order = sorted(range(len(keys)), key=lambda one: (*keys[one], one))
        return costs, order, {"cosine": cosines, "loss_part": loss_part, "direction_part": direction_part}

    def _kept(self, order: Sequence[int], tokens: Sequence[int]) -> list[int]:
        rules = self.rules
        self.tokens["seen"] += sum(tokens)
        if rules.keep_rows is not None:
            kept = list(order[: max(1, round(rules.keep_rows * len(order)))])
        elif rules.keep_tokens >= 1:
            kept = list(order)
        else:
            kept = maths.keep_within_budget(
                order, tokens, rules.keep_tokens * self.tokens["seen"] - self.tokens["kept"]
            )
        count = sum(tokens[one] for one in kept)
        self.tokens["kept"] += count
        self._metrics["kept_tokens"] = round(count / max(1, sum(tokens)), 6)
        self._metrics["kept_tokens_total"] = round(self.tokens["kept"] / max(1, self.tokens["seen"]), 6)
        return kept

    def _tell(self, window: Window, kept: set[int], costs: Tensor, parts: dict[str, Tensor] | None) -> None:
        for at, row in enumerate(window.rows):
            labels = [
                row.kind or row.group or "unlabelled",
                *([f"{row.kind}/{row.group}"] if row.kind and row.group else []),
            ]
            self.seen.update(labels)
            if at in kept:
                continue
            self.dropped.update(labels)
            event: Event = {"event": "dropped", "step": window.step, "id": row.id, "kind": row.kind, "group": row.group}
            if parts is None or window.scores is None:
                self._events.append(event | {"reason": "budget"})
                continue
            by_loss, by_direction = float(parts["loss_part"][at]), float(parts["direction_part"][at])
            reason = (
                "budget" if max(by_loss, by_direction) <= 0 else "high_loss" if by_loss > by_direction else "conflict"
            )
            numbers = {"loss": float(window.scores.losses[at]), "cos": float(parts["cosine"][at])}
            self._events.append(event | numbers | {"score": float(costs[at]), "reason": reason})

    # ---------------------------------------------------------------------------------------------- the step

    def correct(self, gradient: list[Tensor], window: Window) -> None:
        rules = self.rules
        if not self.acts:
            return
        if rules.reference_choice == "scored" or (rules.reference_choice == "static" and not self.pool.chosen):
            self._remember(gradient)
        if window.step < rules.warmup or self.d_ref is None:
            return
        rule = rules.correction if rules.pulls else "none"
        told = guard.correct(gradient, self.d_ref, rule, rho=rules.rho, norm_match=rules.norm_match)
        self._metrics |= told if rules.pulls else {"cos_task_ref": told["cos_task_ref"]}

    def _remember(self, gradient: Sequence[Tensor]) -> None:
        """d_task: a running mean of the chosen, uncorrected task gradients; their sum since the refresh if frozen."""
        if self.d_task is None:
            self.d_task = [maths.wide(one.detach()).clone() for one in gradient]
        elif self.rules.frozen:
            torch._foreach_add_(self.d_task, [maths.wide(one) for one in gradient])
        else:
            torch._foreach_lerp_(self.d_task, [maths.wide(one) for one in gradient], 1 - EMA)

    def settled(self) -> dict[str, Any]:
        names = ("warmup", "pool", "k_ref", "refresh_every", "d_ref_every", "b_ref")
        return {name: getattr(self.rules, name) for name in names} | {"scores": self.tools.scorer} if self.acts else {}

    def metrics(self) -> dict[str, float]:
        return self._metrics | self.lasting if self.acts else {}

    def events(self) -> list[Event]:
        found, self._events = self._events, []
        if any(event["event"] == "dropped" for event in found):
            found.append(
                {
                    "event": "counts",
                    "step": max(event["step"] for event in found),
                    "dropped": dict(self.dropped),
                    "seen": dict(self.seen),
                }
            )
        return found

    # ---------------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        if not self.acts:
            return {}
        names = ("d_task", "d_then", "d_ref", "refreshed", "drawn", "base", "tokens", "lasting")
        return {name: getattr(self, name) for name in names} | {
            "scorer": self.tools.scorer,
            "moments": {name: list(one) for name, one in self.moments.items()},
            "seen": dict(self.seen),
            "dropped": dict(self.dropped),
            "pool": self.pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        for name in ("d_task", "d_then", "d_ref", "refreshed", "drawn", "base", "tokens", "lasting"):
            setattr(self, name, state[name])
        self.tools.choose_scorer(state["scorer"])  # not what fits now: another one ranks otherwise
        self.moments = {name: Moments(*one) for name, one in state["moments"].items()}
        self.seen, self.dropped = Counter(state["seen"]), Counter(state["dropped"])
        self.pool.load_state_dict(state["pool"])


def _cosines(found: Scores, direction: Gradient, metric: Gradient | None) -> Tensor:
    """cos(g_i, d) where the lengths are known, else <g_i, d>."""
    if found.norms is None:
        return found.dots
    if metric is None:
        return maths.cosine(found.dots, found.norms, maths.norm(direction))
    scaled = [d * m for d, m in zip(direction, metric, strict=True)]
    return maths.cosine(found.dots, found.norms, max(0.0, maths.dot(direction, scaled)) ** 0.5)
