"""The numbers of every method on a frozen pair; refreshed by `python -m tests.golden` where a change is meant."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from backend.checkpoints.guard import check_pair
from backend.evaluation.runner import plugin_hash
from backend.registry import Plugin, methods
from backend.types import Checkpoint
from tests import golden

STORED = json.loads(golden.STORED.read_text())
CASES = golden.cases()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("golden")
    return {role: golden.write(root / role, number) for number, role in enumerate(golden.ROLES)}


@pytest.mark.parametrize(("label", "method", "count"), CASES, ids=[case[0] for case in CASES])
def test_a_method_makes_what_it_made(
    label: str, method: Plugin, count: int, models: dict[str, Checkpoint], tmp_path: Path
) -> None:
    found = golden.outcome(method, count, models, tmp_path / "out")
    if method.name not in golden.BY_VALUE:
        assert found == STORED[label]
        return
    assert found.keys() == STORED[label].keys()
    for name, values in found.items():  # one number of bf16 more or less is no other method
        assert values == pytest.approx(STORED[label][name], rel=5e-3, abs=5e-3), name


def test_every_stored_output_is_of_a_method_and_those_of_several_models_differ() -> None:
    assert STORED.keys() == {label for label, _, _ in CASES}
    several = [value for label, value in STORED.items() if isinstance(value, str) and "2 fine-tuned" in label]
    assert len(set(several)) == len(several) > 8  # with one there is nothing to elect, so some agree


def test_the_methods_of_the_stored_demo_sweeps_are_unchanged_so_that_the_sweeps_are_recognised() -> None:
    stored = sorted((Path(__file__).resolve().parent.parent / "assets/demo/results").glob("*.json.gz"))
    runs = [run for path in stored for run in json.loads(gzip.decompress(path.read_bytes()))["runs"]]
    used = {
        (run["recipe"]["method"]["name"], run["recipe"]["method"]["source"]) for run in runs if run["kind"] == "sweep"
    }
    assert used
    assert used == {(name, plugin_hash(methods.get(name))) for name, _ in used}


def test_the_frozen_pair_is_what_it_should_be(models: dict[str, Checkpoint]) -> None:
    sentences = " ".join(finding.sentence for finding in check_pair(models["aligned"], models["tuned"]))
    assert "the fine-tuned tokenizer adds tokens: 2, from 11 'w11'" in sentences
    assert not any(finding.level == "error" for finding in check_pair(models["aligned"], models["tuned"]))
    assert "lm_head.weight" not in models["aligned"].tensors
    assert models["aligned"].tensors["model.scale"].elements == 1
