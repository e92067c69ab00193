"""What a run will take, before it starts: a rough forecast that the run itself corrects as it goes. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.checkpoints.guard import THREADS, estimate_merge, estimate_resident
from backend.checkpoints.space import check_memory, check_space
from backend.evaluation.presets import preset as find_preset
from backend.jobs.named_suites import SAFETY_SUITES
from backend.merging.direct import needs_no_torch
from backend.registry import Plugin, methods
from backend.settings import Settings
from backend.types import Checkpoint, Estimate

CPU_FLOPS_PER_THREAD = 2e10
GPU_FLOPS = 1e14
TOKENS_PER_PROMPT = 80
SECONDS_PER_POINT = 0.8
SECONDS_TO_START = 4.0
BYTES_PER_ANSWER = 500
LIBRARIES = 250 * 2**20

# What methods compute, beyond what the disk hides, on one core: timed on pairs of 92 and 108 million parameters.
PRODUCTS_PER_SECOND = 5e10  # multiply-adds in fp32, in large matrices
SECONDS_PER_ELEMENT = {"elements": 0.0, "rows": 15e-9, "tensor": 40e-9}
SECONDS_TO_ASK, SECONDS_TO_DRAW = 15e-9, 10e-9  # an element: sums and thresholds over all of a tensor, random numbers
LIGHT_SECONDS_TO_ASK = 3e-9  # by a compiled loop


def flops_per_second(settings: Settings) -> float:
    """Multiply-adds that this machine does in a second, roughly."""
    return GPU_FLOPS if settings.device == "cuda" else CPU_FLOPS_PER_THREAD * settings.threads


def estimates(settings: Settings, aligned: Checkpoint, tuned: Checkpoint) -> dict[str, Estimate]:
    """What a merge of the pair to disk, and one point of a quick sweep, would take."""
    asked = (*SAFETY_SUITES, "task")
    prompts = sum(n or 0 for axis, n in find_preset("quick").prompts.items() if axis in asked)
    memory = estimate_resident(aligned, tuned)
    return {
        "merge": forecast_merge(settings, methods.get("linear"), {}, aligned, [tuned]),
        "sweep": forecast(settings, aligned, points=1, prompts=prompts, memory=memory),
    }


def forecast_merge(
    settings: Settings, method: Plugin, parameters: Mapping[str, Any], aligned: Checkpoint, others: Sequence[Checkpoint]
) -> Estimate:
    """Of a merge to disk, from what the method says of itself."""
    whole, grams = method.facts["splits"] == "tensor", method.facts["calibration"]
    light = settings.device != "cuda" and needs_no_torch(method, aligned, others)
    seconds = arithmetic_seconds(settings, method, parameters, aligned, light=light)
    return estimate_merge(aligned, *others, whole=whole, grams=grams, arithmetic=seconds, light=light)


def arithmetic_seconds(
    settings: Settings, method: Plugin, parameters: Mapping[str, Any], aligned: Checkpoint, *, light: bool = False
) -> float:
    """What a method computes beyond what the disk hides, on a CPU; a survey is a pass more, a GPU takes less.

    Args:
        light: whether it is merged without torch.
    """
    facts = method.facts
    element = SECONDS_PER_ELEMENT[facts["splits"]]
    asking = LIGHT_SECONDS_TO_ASK if light else SECONDS_TO_ASK
    element += asking if "whole" in method.takes else 0
    element += SECONDS_TO_DRAW if facts["random"] else 0
    matrices = [tensor for tensor in aligned.tensors.values() if len(tensor.shape) == 2]
    multiplied: float = facts["products"] * sum(tensor.elements * min(tensor.shape) for tensor in matrices)
    passes = 2 if facts["survey"] and parameters[facts["survey"][0]] else 1
    return passes * (aligned.parameters * element + multiplied / PRODUCTS_PER_SECOND) / min(settings.threads, THREADS)


def forecast(settings: Settings, model: Checkpoint, *, points: int, prompts: int, memory: int) -> Estimate:
    """A rough forecast from the number of multiply-adds; the run itself corrects it from measured steps."""
    per_point = SECONDS_PER_POINT + prompts * TOKENS_PER_PROMPT * 2 * model.parameters / flops_per_second(settings)
    return Estimate(SECONDS_TO_START + points * per_point, memory + LIBRARIES, prompts * points * BYTES_PER_ANSWER)


def check_room(settings: Settings, estimate: Estimate) -> None:
    """Refuse a run that this machine has no memory or disk for."""
    if settings.device != "cuda":  # what a GPU has free is known only to the process that holds it
        check_memory(estimate.memory)
    check_space(settings.home, estimate.disk, field="STUDIO_HOME")
