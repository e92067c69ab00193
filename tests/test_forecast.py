"""What a merge is expected to take, by what its method says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.api import Studio
from backend.checkpoints.guard import BYTES_PER_SECOND, LIGHT_SECONDS_TO_START, estimate_merge
from backend.checkpoints.resolve import resolve
from backend.jobs.forecast import arithmetic_seconds, forecast_merge
from backend.registry import methods
from backend.types import Checkpoint, TensorInfo
from tests.worlds import tiny_world

HOUR = 3600


def llama(hidden: int, inner: int, layers: int, words: int, narrow: int) -> Checkpoint:
    """A model of these shapes in bf16, known from its headers alone."""
    layer = [(hidden, hidden)] * 2 + [(narrow, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner), (hidden,)]
    tensors = {}
    for number, shape in enumerate([*[(words, hidden)] * 2, *layer * layers]):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[str(number)] = TensorInfo(str(number), "BF16", shape, Path("x.safetensors"), 0, size)
    return Checkpoint("x", Path("x"), "full", {}, tensors)


LARGE = llama(4096, 14336, 32, 128256, 1024)
SMALL = llama(1024, 2048, 10, 8000, 512)


def seconds(settings: Any, method: str, model: Checkpoint = LARGE, **knobs: Any) -> float:
    plugin = methods.get(method)
    defaults = {parameter.name: parameter.default for parameter in plugin.parameters}
    others = [model] * (max(1, plugin.facts["fine_tunes"][0]) + len(plugin.facts["extras"]))
    return forecast_merge(settings, plugin, defaults | knobs, model, others[: plugin.facts["fine_tunes"][1]]).seconds


def test_a_merge_that_the_disk_hides_takes_what_its_bytes_take(settings: Any) -> None:
    for model in (LARGE, SMALL):
        assert seconds(settings, "linear", model) == LIGHT_SECONDS_TO_START + 3 * model.bytes / BYTES_PER_SECOND
        assert seconds(settings, "linear", model) == estimate_merge(model, model, light=True).seconds


def test_decomposing_the_matrices_of_a_large_model_is_forecast_in_hours(settings: Any) -> None:
    assert seconds(settings, "linear") < HOUR / 5
    assert HOUR < seconds(settings, "lox") < 6 * HOUR
    assert seconds(settings, "safe_delta") > seconds(settings, "lox") > seconds(settings, "safe_lora")


@pytest.mark.parametrize(
    ("method", "measured"),
    [("linear", 2.2), ("slerp", 2.4), ("arcee_fusion", 12.0), ("safe_lora", 11.0), ("lox", 36.5)],
)
def test_a_small_pair_on_one_thread_takes_about_what_was_measured(settings: Any, method: str, measured: float) -> None:
    assert measured / 1.6 < seconds(replace(settings, threads=1), method, SMALL) < 1.6 * measured


def test_asking_drawing_whole_tensors_surveys_and_threads_count(settings: Any) -> None:
    one = replace(settings, threads=1)
    rising = [seconds(one, name) for name in ("linear", "ties", "dare_ties", "della", "safe_lora")]
    assert rising == sorted(rising)
    assert len({*rising[:4]}) == 4
    method, knobs = methods.get("safe_lora"), {"lam": 1.0, "threshold": 0.5}
    once, twice = (arithmetic_seconds(one, method, knobs | {"matrices": n}, LARGE) for n in (0, 8))
    assert twice == 2 * once
    many = [
        arithmetic_seconds(replace(settings, threads=n), method, knobs | {"matrices": 0}, LARGE) for n in (2, 4, 64)
    ]
    assert many == [once / 2, once / 4, once / 4]  # a merge has no more than four threads


def test_a_sweep_computes_a_step_once_for_all_values_of_its_knob(settings: Any) -> None:
    world = tiny_world(settings)
    studio = Studio(settings)

    def told(method: str, grid: str) -> float:
        return studio.plan("sweep", world | {"method": method, "grid": grid}).estimate.seconds

    step = arithmetic_seconds(settings, methods.get("ties"), {}, resolve("aligned", settings))
    assert told("ties", "0:1:11") - told("linear", "0:1:11") == pytest.approx(step, rel=1e-3)
    densities = told("ties", "lam=0:1:11, density=0.2:0.8:4") - told("linear", "0:1:44")
    assert densities == pytest.approx(4 * step, rel=1e-3)
    studio.close()
