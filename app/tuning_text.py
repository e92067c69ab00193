"""Every sentence of the Finetune page. Plain words first, the paper's term in brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.text import percent, source
from backend.types import Run, RunStatus, Score, time_words

NO_RUN = "No fine-tuning yet. Choose a model and data, then start: the curves appear here, and stay after a reload."
COMING = (
    "the loss on your task and on the safety references, step by step",
    "whether a step towards the task is a step away from safety (the cosine of their directions)",
    "probes of safety and of the task, with intervals",
    "which references protect now, and which rows were not learnt from, with the reason",
)
NO_STEPS = "The first step appears here in a moment. Closing this page changes nothing: the run goes on."
NO_STRATEGIES = "This installation lists no fine-tuning strategy; see the log for what could not be imported."
SCHEDULE = "{steps} steps of {batch} rows each. Change it under Advanced; an emptied field takes the usual number."
PRESET_SETS = "This preset sets everything that is not shown."
OWN_DATA = (
    "Chat rows in any shape that is published: messages, conversations, prompt with response or completion, question "
    "with answer, instruction with output or response, chosen, the safer of response_0 and response_1; as JSONL, CSV, "
    "Parquet or packed JSONL (.gz), up to 50 MiB. Larger files, Hub data sets (owner/name@revision:file) and mixes "
    "(.mix.yaml) are typed into the field above, as a path or a name."
)
UNANSWERED = "(no answer: the start model gives one before training)"
FIGHTS, HELPS, APART = "the task fights safety", "the task step helps safety", "the task hardly touches safety"
SMALL_COSINE = 0.05

PANELS = {
    "loss": "Loss per token (nats)",
    "cosine": "Task against reference direction (cosine)",
    "kept": "Answer text still learnt from, %",
    "stable": "Same references as before (Jaccard), %",
    "probes": "Probes on a few validation prompts, % with 95 % intervals",
}
LINES = {"loss_task": "task loss", "loss_ref": "reference loss", "cos_task_ref": "agree", "against": FIGHTS}
REFRESH = "references chosen again"
TARGET = "target {share:.0f} %"
CAUSES = {"interval": "on schedule", "turned": "training turned", "warmup": "after warm-up"}

KINDS = {"benign": "helpful", "refusal": "refusal", "unsafe": "unsafe"}
REASONS = {
    "conflict": "points away from safety",
    "high_loss": "high loss",
    "budget": "over the token budget",
}
COLUMNS = {
    "step": "Step", "text": "Row", "loss": "Loss", "cos": "Cosine", "score": "Score", "reason": "Why",
}  # fmt: skip
SORTED_BY = ("step", "loss", "cos", "score", "reason")

PAUSED = "Paused; the device is free. Resume goes on from the same step."
ENDINGS = {
    RunStatus.CANCELLED: "Cancelled. Resume goes on from the last saved step, if one was saved.",
    RunStatus.INTERRUPTED: "The program ended while this run was going. Resume goes on from the last saved step.",
    RunStatus.PAUSED: PAUSED,
}


def ending(run: Run) -> str:
    """What is to be said of a fine-tuning that stands still.

    >>> from backend.types import Run, RunStatus
    >>> done = {"steps": 40, "seconds": 95, "checkpoint": "runs/7", "folder": "/home/you/runs/7"}
    >>> ending(Run(7, "tune", "", "", RunStatus.DONE, {}, {}, "", 0.0, result=done))
    'Finished: 40 steps in 1 min 35 s, written to /home/you/runs/7.'
    """
    result = run.result or {}
    if run.status == RunStatus.DONE:
        steps = f"{result['steps']} steps in {time_words(result['seconds'])}" if "steps" in result else "trained"
        return f"Finished: {steps}, written to {result.get('folder', 'the folder of the run')}."
    return ENDINGS.get(run.status) or run.error or "The run failed; its log says why."


def dropped(counts: Mapping[str, Sequence[int]]) -> str:
    """ "Dropped a of b unsafe, c of d benign": the most telling line.

    >>> dropped({"unsafe": [41, 60], "benign": [12, 540]})
    'Dropped 41 of 60 unsafe (68 %), 12 of 540 benign (2 %).'
    """
    kinds = {kind: pair for kind, pair in counts.items() if "/" not in kind}  # the others are groups of a kind
    parts = [f"{out:,} of {seen:,} {kind} ({100 * out / seen:.0f} %)" for kind, (out, seen) in kinds.items() if seen]
    return f"Dropped {', '.join(parts)}." if parts else ""


def unfair(counts: Mapping[str, Sequence[int]]) -> str:
    """A warning where a group of benign rows is dropped at more than three times the overall rate, else nothing.

    >>> unfair({"unsafe": [1, 90], "benign": [9, 110], "benign/tool": [1, 100], "benign/guide": [8, 10]})
    'Benign rows of the group guide are dropped 16.0 times as often as rows overall: lower "nu", or look at them below.'
    """
    kinds = [pair for kind, pair in counts.items() if "/" not in kind]
    out, seen = sum(pair[0] for pair in kinds), sum(pair[1] for pair in kinds)
    groups = {kind: pair for kind, pair in counts.items() if kind.split("/")[0] == "benign" and pair[1]}
    rates = {kind: lost / mine for kind, (lost, mine) in groups.items()}
    worst = max(rates, key=lambda kind: rates[kind], default="")
    if not worst or not out or rates[worst] <= 3 * out / seen:
        return ""
    which = f"Benign rows of the group {worst.split('/')[1]}" if "/" in worst else "Benign rows"
    times = rates[worst] / (out / seen)
    return f'{which} are dropped {times:.1f} times as often as rows overall: lower "nu", or look at them below.'


def probe(scores: Mapping[str, Score]) -> str:
    """The last probe in words, for those who hear the chart."""
    return ", ".join(f"{axis.replace('_', ' ')} {percent(score)}" for axis, score in scores.items())


def direction(cosine: float) -> str:
    """What a cosine between the task's and the references' direction means.

    >>> direction(-0.2), direction(0.4), direction(0.01)
    ('the task fights safety', 'the task step helps safety', 'the task hardly touches safety')
    """
    return APART if abs(cosine) < SMALL_COSINE else FIGHTS if cosine < 0 else HELPS


def strategy(plugin: Mapping[str, Any]) -> str:
    """What a strategy does, what it needs and where it is from.

    >>> strategy({"summary": "Learn from every row.", "needs": "", "paper": "arXiv:2606.09866"})
    'Learn from every row. Paper: [arXiv:2606.09866](https://arxiv.org/abs/2606.09866).'
    """
    needs = plugin.get("needs") or ""
    words = needs if isinstance(needs, str) else ", ".join(needs)
    parts = [plugin.get("summary") or "", f"Needs: {words.rstrip('.')}." if words else ""]
    return " ".join(filter(None, [*parts, source(plugin.get("paper") or "")]))


LABELS = {
    "model": ("Model to fine-tune", "a demo name, a folder, or a Hub id"),
    "task_data": ("Task data", "what it is to learn"),
    "references": ("Reference data", "safe behaviour that must not be forgotten"),
    "strategy": ("Strategy", ""),
    "task": ("Probe on the way", "a task to score besides safety"),
    "probe_every": ("Probe every (steps)", "0: only at the end"),
    "seed": ("Seed", ""),
    "out": ("Folder", "leave empty to keep it with the studio's own runs"),
}  # fmt: skip
