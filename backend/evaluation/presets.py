"""How much a run measures: prompts per axis and the length cap of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.errors import unknown_name
from backend.types import AXES, Axis


@dataclass(frozen=True)
class Preset:
    """`prompts` per axis (None: every row of the suite) and at most `new_tokens` tokens per answer."""

    name: str
    summary: str
    prompts: dict[Axis, int | None]
    new_tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "summary": self.summary,
            "prompts": dict(self.prompts),
            "new_tokens": self.new_tokens,
        }


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "quick",
            "60 prompts per safety suite and 100 of the task: a smoke test, its intervals show why",
            {"safety": 60, "contaminated": 60, "over_refusal": 60, "helpfulness": 60, "task": 100},
            64,
        ),
        Preset(
            "standard",
            "200 prompts per suite: enough to see differences of 5 points when the prompts are paired",
            {"safety": 200, "contaminated": 200, "over_refusal": 200, "helpfulness": 200, "task": 200},
            128,
        ),
        Preset(
            "report",
            "every prompt of every suite",
            dict.fromkeys(AXES),
            256,
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        UserError: there is none.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
