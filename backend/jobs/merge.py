"""θ(λ) on the disk. Model libraries are read only where a method measures activations or needs torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend.jobs.calibration import calibrated_with
from backend.jobs.known_scores import known_scores
from backend.jobs.sources import merged_folder, open_spec
from backend.merging.engine import merge_to_folder
from backend.registry import Plugin, methods
from backend.settings import Settings
from backend.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from backend.jobs.actions import Context


def merge(context: Context, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write θ(λ) to a Hugging Face folder, whole or not at all."""
    started = time.monotonic()
    given = open_spec(context.settings, spec)
    out = merged_folder(context.settings, context.run, spec)
    method = methods.get(spec["method"])
    scores, measured = known_scores(context, method)
    recipe = merge_to_folder(
        given.aligned,
        given.tuned,
        method,
        spec["parameters"],
        out,
        extras=given.extras,
        grams=_grams(context, spec, given.aligned),
        calibration=calibrated_with(context.settings, spec).get("calibration"),
        seed=spec["seed"],
        donor=given.donor,
        scores=scores,
        measured=measured,
        hashes_in=context.settings.hashes,
        device=merge_device(context.settings, method, spec.get("device", "")),
        report=context.report,
        should_stop=context.should_stop,
    )
    return {"folder": str(out), "recipe": recipe, "seconds": round(time.monotonic() - started, 2)}


def merge_device(settings: Settings, method: Plugin, recorded: str = "") -> str:
    """Where a merge to disk computes: "cpu" or "cuda".

    Methods that go by blocks are bound by the disk, so a GPU would only give them other last bits: they take one where
    STUDIO_DEVICE says so. Methods that see whole tensors take the one there is.

    Args:
        recorded: where the recipe that is made again was made; followed as far as this machine can.

    Raises:
        UserError: STUDIO_DEVICE wants a device that is not here.
    """
    if settings.device == "auto" and (recorded == "cpu" or (not recorded and method.facts["splits"] != "tensor")):
        return "cpu"
    if settings.device == "cpu":
        return "cpu"
    from backend.inference.model import pick_device

    return pick_device(settings.device).type


def _grams(context: Context, spec: Mapping[str, Any], aligned: Checkpoint) -> dict[str, Tensor]:
    if not spec.get("calibration"):
        return {}
    from backend.jobs.sweep import measured_inputs

    return measured_inputs(context, spec, aligned)
