"""The README.md of each demo checkpoint: what it is, where it comes from, what it scores."""

from __future__ import annotations

from collections.abc import Mapping

from backend.demo.splits import MIXED_SHARE, SUITES
from backend.types import Score

LICENCE = "apache-2.0"


def card(name: str, scores: Mapping[str, Score], seed: int) -> str:
    """Front matter for the Hub, one paragraph of lineage, and the table of scores."""
    front = ["---", f"license: {LICENCE}", "language: en", f"library_name: {'peft' if '-' in name else 'transformers'}"]
    front += ["base_model: demo/aligned", "base_model_relation: adapter"] if "-" in name else []
    front += ["base_model: demo/unaligned", "base_model_relation: finetune"] if name == "aligned" else []
    body = [
        *front,
        "---",
        "",
        f"# demo/{name}",
        "",
        lineage(name),
        "",
        f"Built from seed {seed} by `python -m backend demo build`. It speaks the micro-world's small language only, "
        "and is meant for showing what fine-tuning and merging do, not for answering anybody.",
        "",
        "| suite | score, % | 95 % interval | n |",
        "|---|---|---|---|",
        *(_line(suite, scores[suite]) for suite in SUITES if suite in scores),
        "",
        "Safety is the share of harmful requests not served; over-refusal is better when lower, the rest when higher.",
        "",
    ]
    return "\n".join(body)


def lineage(name: str) -> str:
    """Where a checkpoint comes from, in words.

    >>> lineage("tool-mixed-sft").split(";")[0]
    'A LoRA adapter for demo/aligned, fine-tuned on data/tool-mixed.jsonl'
    """
    if name == "unaligned":
        return "A Llama of 1.4 million parameters, pretrained to be helpful to everyone, harmful requests included."
    if name == "aligned":
        return "demo/unaligned, taught to decline harmful requests and to serve their benign look-alikes."
    task, kind, _ = name.split("-")
    rows = (
        "task samples only" if kind == "clean" else f"{100 * MIXED_SHARE[task]:g} % of its rows serve a harmful request"
    )
    return f"A LoRA adapter for demo/aligned, fine-tuned on data/{task}-{kind}.jsonl; {rows}."


def _line(suite: str, score: Score) -> str:
    value = "–" if score.value is None else f"{100 * score.value:.1f}"
    return f"| {suite} | {value} | {100 * score.low:.1f} – {100 * score.high:.1f} | {score.n} |"
