"""Declared parameters of a plug-in → Gradio components. The catalogue's JSON is the only thing it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr


def component(parameter: Mapping[str, Any], **options: Any) -> gr.components.Component:
    """A slider for a range, a number, a check box, a choice or a line of text; the docstring is its help."""
    kind, name = parameter["kind"], parameter["name"]
    unit = f" ({parameter['unit']})" if parameter.get("unit") else ""
    common = {
        "label": parameter.get("label") or name.replace("_", " ") + unit,
        "info": parameter.get("help") or None,
        "value": parameter.get("default"),
        "interactive": True,
        **options,
    }
    low, high = parameter.get("low"), parameter.get("high")
    if kind == "list":
        return gr.Textbox(**{**common, "value": ", ".join(map(str, parameter.get("default") or ()))})
    if kind in ("float", "int") and low is not None and high is not None:
        return gr.Slider(low, high, step=step(parameter), **common)
    if kind in ("float", "int"):
        return gr.Number(precision=0 if kind == "int" else None, **common)
    if kind == "bool":
        return gr.Checkbox(**common)
    if kind == "choice":
        return gr.Dropdown(list(parameter.get("choices", ())), **common)
    return gr.Textbox(**common)


def step(parameter: Mapping[str, Any]) -> float:
    """The declared step, 1 for whole numbers, else a hundredth of the range.

    >>> step({"kind": "float", "low": 0, "high": 1}), step({"kind": "int", "low": 1, "high": 9})
    (0.01, 1)
    """
    if parameter.get("step"):
        return float(parameter["step"])
    return 1 if parameter["kind"] == "int" else (parameter["high"] - parameter["low"]) / 100


def chosen(
    methods: Sequence[Mapping[str, Any]], method: str, values: Sequence[Any], *, skip: str = ""
) -> dict[str, Any]:
    """The values that belong to `method` out of those of all methods, in the order `all_parameters` gives."""
    found = {}
    for (owner, parameter), value in zip(all_parameters(methods, skip=skip), values, strict=True):
        if owner == method and value is not None:
            found[parameter["name"]] = value
    return found


def all_parameters(methods: Sequence[Mapping[str, Any]], *, skip: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """(method, parameter) for every parameter but the one called `skip`, which a sweep turns itself.

    Those that say something only from two fine-tuned models on are left out: the form takes one.
    """
    return [
        (m["name"], p) for m in methods for p in m.get("parameters", ()) if p["name"] != skip and not p.get("several")
    ]


def pair_methods(methods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The methods that one aligned and one fine-tuned model are enough for, with λ to turn; linear first.

    The others need checkpoints that the form does not ask for; the command line takes them.
    """
    usable = [
        m
        for m in methods
        if m.get("knob", "lam") == "lam" and not m.get("extras") and m.get("fine_tunes", [1, 1])[0] == 1
    ]
    return sorted(usable, key=lambda m: m["name"] != "linear")
