"""Write the world's text files: fine-tuning sets, the reference pool, suites. They depend on no seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from backend.demo.grammar import Sample, Split
from backend.demo.recipe import recipe_of, suites_for
from backend.demo.splits import (
    CONTAMINATED,
    SUITES,
    TASKS,
    contaminated_suites,
    fine_tuning_set,
    reference_pool,
    suite,
    suite_header,
)

SUITE_ROWS = 300
VALIDATION_ROWS = 150
REFERENCE_ROWS = 600
RECIPES = "training.json"
SETS = tuple(f"{task}-{kind}" for task in TASKS for kind in ("clean", "mixed"))


def write_training_data(folder: Path, *, rows: int) -> None:
    """A clean and a mixed set of `rows` rows for every task, and the reference pool.

    A file beside them says how to train on each set and what to measure then.
    """
    for name in SETS:
        task, kind = name.split("-")
        samples = fine_tuning_set(task, mixed=kind == "mixed", count=rows, rng=Random(f"data {name}"))
        _write_lines(folder / f"{name}.jsonl", _numbered(name, samples))
    recipes = {name: {"training": recipe_of(name.split("-")[0]), "suites": suites_for(name)} for name in SETS}
    (folder / RECIPES).write_text(json.dumps(recipes, indent=1) + "\n", encoding="utf-8")
    samples = reference_pool(REFERENCE_ROWS, Random("data references"))
    _write_lines(folder / "references.jsonl", _numbered("reference", samples))


def write_suites(folder: Path, data: Path) -> None:
    """The test suites, and the validation suites in a folder of their own; `data` holds the fine-tuning sets."""
    homes: dict[Split, tuple[Path, int]] = {
        "test": (folder, SUITE_ROWS),
        "validation": (folder / "validation", VALIDATION_ROWS),
    }
    for split, (home, rows) in homes.items():
        for name in SUITES:
            samples = suite(name, split, count=rows, rng=Random(f"suite {name} {split}"))
            _write_suite(home / f"{name}.jsonl", name, split, samples)
        samples = contaminated_suites(_prompts(data))[split]
        _write_suite(home / f"{CONTAMINATED}.jsonl", CONTAMINATED, split, samples)


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file under the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed(old: Path, new: Path) -> set[str]:
    """The suites and sets whose text, or whose training recipe, differs between two worlds."""
    texts = (old / "suites", new / "suites"), (old / "data", new / "data")
    found = set()
    for before, after in (*(map(_texts, pair) for pair in texts), map(_recipes, (old, new))):
        found |= {Path(name).stem for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return found


def _texts(folder: Path) -> dict[str, Any]:
    return {name: digest for name, digest in file_hashes(folder).items() if name != RECIPES}


def _recipes(world: Path) -> dict[str, Any]:
    return dict(json.loads((world / "data" / RECIPES).read_text(encoding="utf-8")))


def _write_suite(path: Path, name: str, split: str, samples: list[Sample]) -> None:
    rows = [sample.to_suite_row(f"{name}-{split}-{number:03}") for number, sample in enumerate(samples, start=1)]
    _write_lines(path, [suite_header(name, count=len(rows)), *rows])


def _prompts(data: Path) -> list[str]:
    """What is asked in any fine-tuning set."""
    lines = [line for name in SETS for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["messages"][0]["content"] for line in lines]


def _numbered(name: str, samples: Iterable[Any]) -> list[dict[str, Any]]:
    return [sample.to_training_row(f"{name}-{number:04}") for number, sample in enumerate(samples, start=1)]


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
