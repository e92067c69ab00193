"""Score the micro-world's checkpoints with the studio's own loader, merge engine and suites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backend.checkpoints.folder import read_folder
from backend.checkpoints.reader import open_source
from backend.evaluation.runner import Runner
from backend.evaluation.suites import Suite, load_suite
from backend.inference.model import load, pick_device
from backend.merging.resident import ResidentPair
from backend.registry import methods
from backend.types import Score

NEW_TOKENS = 64
BATCH = 64

Scores = dict[str, Score]


def suites_in(folder: Path, names: Iterable[str]) -> list[Suite]:
    """The suites, renamed to their file's name so that each keeps a score of its own."""
    return [load_suite(folder / f"{name}.jsonl") for name in names]


def measure_path(
    models: Path, tuned: Path | None, lams: Sequence[float], suites: Sequence[Suite], *, device: str = "cpu"
) -> list[Scores]:
    """Suite name -> score for every λ of the line from `models/aligned` to `tuned` (None: the aligned model alone)."""
    aligned = read_folder("demo/aligned", models / "aligned", roots=(models,), field="aligned")
    responder = load(aligned, device=pick_device(device))
    pair = None
    if tuned is not None:
        checkpoint = read_folder(f"demo/{tuned.name}", tuned, roots=(tuned,), field="tuned")
        pair = ResidentPair(open_source(aligned), open_source(checkpoint, aligned))
    runner = Runner(suites, responder)
    decoding = responder.decoding(NEW_TOKENS, BATCH)
    found = []
    for lam in lams:
        if pair is not None:
            pair.write_into(responder.parameters(), methods.get("linear"), {"lam": lam})
        measured = runner.measure(
            lambda prompts, drafts, check: responder.answer(prompts, decoding, drafts=drafts, check=check)
        )
        found.append(_by_suite(measured.outcomes))
    return found


def _by_suite(outcomes: Sequence[Any]) -> Scores:
    from backend.evaluation.outcomes import score_suite

    names = dict.fromkeys(outcome.suite for outcome in outcomes)
    return {name: score_suite([outcome for outcome in outcomes if outcome.suite == name]) for name in names}
