"""What a fine-tuning is measured on, and which prompts its data may therefore not hold. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backend.evaluation.suites import Suite, load_suite, messages_of
from backend.jobs.named_suites import chosen_suites, find_suite, suite_names, validation_suites
from backend.settings import Settings
from backend.tuning.rows import request_key

PROBE_PROMPTS = 24


def measured_on(settings: Settings, spec: Mapping[str, Any]) -> tuple[list[Suite], list[Suite]]:
    """The suites at the end of a fine-tuning, and those it is probed with on the way."""
    return chosen_suites(settings, spec), validation_suites(settings, spec, PROBE_PROMPTS)


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
