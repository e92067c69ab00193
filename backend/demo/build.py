"""Build the micro-world from a seed: suites, data, the two full models, the eight adapters, their scores and cards.

Everything is made in a folder beside `out` and moved in when all of it is there, so that `out` never holds half a
world. The same seed on the same machine with the same number of threads gives the same weights; elsewhere the sums are
added in another order, and the scores agree within their intervals.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.demo import cards, files, training
from backend.demo.measure import Scores, measure_path, suites_in
from backend.demo.recipe import FINE_TUNING_ROWS
from backend.demo.splits import SUITES
from backend.errors import UserError, unknown_name
from backend.tuning.data import read_rows

Report = Callable[[float, str], None]

PARTS = ("models", "suites", "data", "build.json")
BASE_NAME = "demo/aligned"
PACKAGES = ("torch", "transformers", "peft", "tokenizers")
# Where each stage ends on the way from 0 to 1, by the time it takes.
PRETRAINED, ALIGNED, TUNED = 0.5, 0.66, 0.95


def build(out: Path, seed: int, threads: int, report: Report) -> dict[str, Any]:
    """Make the world in `out` and return what `build.json` says: seed, versions, seconds, hashes, scores."""
    torch.set_num_threads(threads)
    work = out.with_name(out.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    seconds: dict[str, float] = {}
    with _timed(seconds, "suites and data"):
        report(0.0, "writing suites and data")
        files.write_training_data(work / "data", rows=FINE_TUNING_ROWS)
        files.write_suites(work / "suites", work / "data")
    build_full_models(work / "models", seed, report, seconds)
    build_adapters(work, seed, report, seconds)
    return finish(work, out, seed, threads, report, seconds)


def rebuild(out: Path, names: Sequence[str], threads: int, report: Report) -> dict[str, Any]:
    """Fine-tune these sets again from the world's own aligned model; `build.json` says which were made so.

    Raises:
        UserError: an unknown set, or suites, data or a training recipe of another one that this code writes otherwise.
    """
    for name in names:
        if name not in files.SETS:
            raise unknown_name("only", name, files.SETS)
    torch.set_num_threads(threads)
    work = out.with_name(out.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(out / "models", work / "models")
    summary = json.loads((out / "build.json").read_text(encoding="utf-8"))
    files.write_training_data(work / "data", rows=FINE_TUNING_ROWS)
    files.write_suites(work / "suites", work / "data")
    changed = files.changed(out, work) - set(names)
    if changed:
        problem = f"what this code writes for {', '.join(sorted(changed))} differs from the world"
        raise UserError("only", problem=problem, remedy="Name these too, or build everything.")
    build_adapters(work, summary["seed"], report, summary["seconds"], names)
    scores = _all_scores(work, _part(report, TUNED, 1.0, "scoring"), [f"{name}-sft" for name in names])
    write_cards(work, scores, summary["seed"])
    summary["hashes"] = {part: files.file_hashes(work / part) for part in ("suites", "data")}
    summary["scores"] |= to_json(scores)
    summary["rebuilt"] = sorted({*summary.get("rebuilt", ()), *names})
    _write_summary(work, summary)
    _move_in(work, out)
    return dict(summary)


def build_full_models(models: Path, seed: int, report: Report, seconds: dict[str, float]) -> None:
    """Train `unaligned` and, from it, `aligned`."""
    report(0.01, "training the tokenizer")
    tokenizer = training.make_tokenizer(seed)
    model = training.new_model(tokenizer, seed)
    with _timed(seconds, "unaligned"):
        training.pretrain(model, tokenizer, seed, _part(report, 0.01, PRETRAINED, "pretraining"))
    model.save_pretrained(models / "unaligned")
    tokenizer.save_pretrained(models / "unaligned")
    with _timed(seconds, "aligned"):
        training.align(model, tokenizer, seed, _part(report, PRETRAINED, ALIGNED, "aligning"))
    model.save_pretrained(models / "aligned")
    tokenizer.save_pretrained(models / "aligned")


def build_adapters(
    work: Path, seed: int, report: Report, seconds: dict[str, float], names: Sequence[str] = files.SETS
) -> None:
    """Fine-tune `aligned` on every set."""
    share = (TUNED - ALIGNED) / len(names)
    for number, name in enumerate(names):
        low = ALIGNED + number * share
        with _timed(seconds, f"{name}-sft"):
            said = _part(report, low, low + share, f"fine-tuning on {name}")
            fine_tune_into(work, name, seed, work / "models" / f"{name}-sft", said)


def fine_tune_into(world: Path, name: str, seed: int, folder: Path, report: training.Report) -> None:
    """Fine-tune the world's aligned model on one of its sets and save the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(world / "models" / "aligned")
    model = AutoModelForCausalLM.from_pretrained(world / "models" / "aligned")
    rows = read_rows(world / "data" / f"{name}.jsonl")
    tuned = training.fine_tune(model, tokenizer, name.split("-")[0], rows, seed, report)
    tuned.peft_config["default"].base_model_name_or_path = BASE_NAME
    tuned.save_pretrained(folder, save_embedding_layers=False)  # "auto" would look the base up on the Hub
    tokenizer.save_pretrained(folder)


def finish(work: Path, out: Path, seed: int, threads: int, report: Report, seconds: dict[str, float]) -> dict[str, Any]:
    """Score every checkpoint, write the cards and `build.json`, and move everything into `out`."""
    with _timed(seconds, "scores"):
        scores = _all_scores(work, _part(report, TUNED, 1.0, "scoring"))
    write_cards(work, scores, seed)
    summary = {
        "seed": seed,
        "threads": threads,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "seconds": seconds,
        "hashes": {part: files.file_hashes(work / part) for part in ("suites", "data")},
        "scores": to_json(scores),
    }
    _write_summary(work, summary)
    _move_in(work, out)
    return summary


def write_cards(work: Path, scores: Mapping[str, Scores], seed: int) -> None:
    """The README of every scored checkpoint."""
    for name, measured in scores.items():
        (work / "models" / name / "README.md").write_text(cards.card(name, measured, seed), encoding="utf-8")


def to_json(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Checkpoint -> suite -> score, in percent."""
    return {name: {suite: score.to_json() for suite, score in each.items()} for name, each in scores.items()}


def _write_summary(work: Path, summary: Mapping[str, Any]) -> None:
    (work / "build.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _all_scores(work: Path, report: training.Report, names: Sequence[str] = ()) -> dict[str, Scores]:
    """Of these checkpoints; none means of every one."""
    models, suites = work / "models", suites_in(work / "suites", SUITES)
    names = names or sorted(folder.name for folder in models.iterdir())
    found = {}
    for number, name in enumerate(names):
        tuned = None if name == "aligned" else models / name
        task, is_adapter = name.split("-")[0], "-" in name
        asked = [suite for suite in suites if suite.axis != "task" or not is_adapter or suite.name == task]
        found[name] = measure_path(models, tuned, (1.0,), asked)[0]
        report((number + 1) / len(names))
    return found


def _part(report: Report, low: float, high: float, phrase: str) -> training.Report:
    return lambda fraction: report(low + (high - low) * fraction, phrase)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def _move_in(work: Path, out: Path) -> None:
    """Put each finished part in the place of its predecessor; anything else in `out` is left alone."""
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        old = work / f"{part}.old"
        if (out / part).exists():
            (out / part).rename(old)
        (work / part).rename(out / part)
    shutil.rmtree(work)
