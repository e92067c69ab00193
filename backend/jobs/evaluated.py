"""What a fine-tuning is measured on, and which prompts its data may therefore not hold. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backend.evaluation.suites import Suite, messages_of
from backend.jobs.named_suites import chosen_suites, validation_suites
from backend.settings import Settings
from backend.tuning.rows import prompt_key

PROBE_PROMPTS = 24


def measured_on(settings: Settings, spec: Mapping[str, Any]) -> tuple[list[Suite], list[Suite]]:
    """The suites at the end of a fine-tuning, and those it is probed with on the way."""
    return chosen_suites(settings, spec), validation_suites(settings, spec, PROBE_PROMPTS)


def prompts_of(suites: Iterable[Suite]) -> set[str]:
    """The prompt keys of all rows of these suites."""
    return {prompt_key(turn.content for turn in messages_of(row)) for suite in suites for row in suite.rows}
