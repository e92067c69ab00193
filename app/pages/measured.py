"""What a run is measured on: the micro-world's suites, the plain ones for any model, or others that a person names, and
how many prompts of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from app import text

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
FITTING, MICRO_WORLD, PLAIN, OWN = "", "micro-world", "plain", "own"


def how_many(presets: Sequence[Mapping[str, Any]]) -> gr.Dropdown:
    """How many prompts of each suite are asked."""
    choices = [(_preset(preset), preset["name"]) for preset in presets]
    first = choices[0][1] if choices else None
    return gr.Dropdown(choices, value=first, label="How many prompts", filterable=False)


def _preset(preset: Mapping[str, Any]) -> str:
    """The name and how many prompts a suite gets; None in the catalogue means all of them."""
    counts = sorted({count for count in preset.get("prompts", {}).values() if count})
    if not counts:
        return f"{preset['name']}: every prompt"
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{preset['name']}: {many} prompts a suite"


class Measured:
    """A choice, and a line for other suites that is hidden until it is chosen."""

    def __init__(self, suites: Sequence[Mapping[str, Any]]) -> None:
        plain = [one for one in suites if one.get("plain") and one["axis"] != "task"]
        plain.sort(key=lambda one: list(text.AXES).index(one["axis"]))
        self.plain = ", ".join(one["name"] for one in plain)
        choices = [(text.SUITES[name], name) for name in (FITTING, MICRO_WORLD, PLAIN, OWN)]
        self.choice = gr.Dropdown(
            choices, value=FITTING, label=text.SUITES_LABEL, info=text.SUITES_HELP, filterable=False,
        )  # fmt: skip
        self.own = gr.Textbox(
            self.plain, label=text.OWN_SUITES_LABEL, info=text.OWN_SUITES_HELP, visible=False, max_lines=3
        )
        self.choice.change(self.show, self.choice, self.own, **HIDDEN)

    @property
    def inputs(self) -> list[Any]:
        """What `request` wants to know beside the model."""
        return [self.choice, self.own]

    def show(self, choice: str) -> Any:
        """The line for other suites, where it says something."""
        return gr.update(visible=choice == OWN)

    def request(self, model: str | None, choice: str, own: str) -> dict[str, str]:
        """The field `suites`; nothing for the micro-world's, which the backend chooses by what was trained on."""
        named = (own or "").strip()
        if choice == OWN and named:
            return {"suites": named}
        demo = (model or "").startswith("demo/")
        micro_world = choice == MICRO_WORLD or (choice != PLAIN and demo)
        return {} if micro_world else {"suites": self.plain}
