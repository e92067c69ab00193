"""What a fine-tuning is measured on, and which prompts its data may therefore not hold. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from backend.evaluation.presets import preset as find_preset
from backend.evaluation.suites import Suite, load_suite, messages_of
from backend.jobs.named_suites import chosen_suites, find_suite, suite_names, validation_suites
from backend.settings import Settings
from backend.tuning.rows import request_key

PROBE_PROMPTS = 24
MOST_PROBED = 4  # one in so many prompts of a suite without validation prompts


def measured_on(settings: Settings, spec: Mapping[str, Any]) -> tuple[list[Suite], list[Suite]]:
    """The suites at the end of a fine-tuning, and those it is probed with on the way.

    A suite without validation prompts gives up to a quarter of its own for the probes, which are then not measured at
    the end: who stops a training by its probes has chosen by them.
    """
    measured, probes = chosen_suites(settings, spec), validation_suites(settings, spec, PROBE_PROMPTS)
    if not spec.get("probe_every"):
        return measured, probes
    for place, whole in enumerate(chosen_suites(settings, {**spec, "preset": "report"})):
        if whole.axis == "helpfulness" or whole.name in {suite.name for suite in probes}:
            continue
        count = min(PROBE_PROMPTS, len(whole.rows) // MOST_PROBED)
        rest = whole.rows[: len(whole.rows) - count]
        measured[place] = replace(whole, rows=rest[: find_preset(spec["preset"]).prompts[whole.axis]])
        if count:
            probes.append(replace(whole, rows=whole.rows[len(rest) :]))
    return measured, probes


def held_out(settings: Settings, spec: Mapping[str, Any]) -> set[str]:
    """The prompts that a fine-tuning's data may not hold: all of every suite, not only those drawn for this run.

    Another seed or preset draws others, and must not find them trained on.
    """
    twins = [load_suite(path) for path in sorted((settings.demo / "suites" / "validation").glob("*.jsonl"))]
    names = dict.fromkeys([*suite_names(settings), *spec["suites"]])
    return prompts_of([*twins, *(find_suite(settings, name) for name in names)])


def prompts_of(suites: Iterable[Suite]) -> set[str]:
    """The request keys of all rows of these suites."""
    return {request_key(messages_of(row)) for suite in suites for row in suite.rows}
