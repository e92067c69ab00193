"""Declared parameters of a plug-in → Gradio components. The catalogue's JSON is the only thing it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr

LIST_EXAMPLE = "for example 1, 0.5"


def component(parameter: Mapping[str, Any], **options: Any) -> gr.components.Component:
    """A slider for a range, a number, a check box, a choice or a line of text; the docstring is its help."""
    kind, name = parameter["kind"], parameter["name"]
    unit = f" ({parameter['unit']})" if parameter.get("unit") and parameter["unit"] != name else ""
    common = {
        "label": parameter.get("label") or name.replace("_", " ") + unit,
        "info": parameter.get("help") or None,
        "value": parameter.get("default"),
        "interactive": True,
        **options,
    }
    low, high = parameter.get("low"), parameter.get("high")
    if kind == "list":
        return gr.Textbox(**{**common, "value": _shown(parameter)}, placeholder=LIST_EXAMPLE, max_lines=1)
    if kind in ("float", "int") and low is not None and high is not None and slides(parameter):
        return gr.Slider(low, high, step=step(parameter), **common)
    if kind in ("float", "int"):
        return gr.Number(precision=0 if kind == "int" else None, **common)
    if kind == "bool":
        return gr.Checkbox(**common)
    if kind == "choice":
        return gr.Dropdown(list(parameter.get("choices", ())), **common)
    return gr.Textbox(**common)


def slides(parameter: Mapping[str, Any]) -> bool:
    """Whether a slider can reach the values people use, the default among them; else there is a number to type.

    >>> slides({"kind": "float", "default": 2e-5, "low": 1e-7, "high": 0.1})
    False
    >>> slides({"kind": "int", "default": 4, "low": 1, "high": 9}), slides({"name": "lr", "fine": True})
    (True, False)
    """
    if parameter.get("step") or parameter.get("fine"):
        return not parameter.get("fine")
    default, size = parameter.get("default"), step(parameter)
    places = (default - parameter["low"]) / size if isinstance(default, (int, float)) else 0.0
    return abs(places - round(places)) < 1e-6 and (parameter["high"] - parameter["low"]) / size <= 1000


def step(parameter: Mapping[str, Any]) -> float:
    """The declared step, 1 for whole numbers, else a hundredth of the range.

    >>> step({"kind": "float", "low": 0, "high": 1}), step({"kind": "int", "low": 1, "high": 9})
    (0.01, 1)
    """
    if parameter.get("step"):
        return float(parameter["step"])
    return 1 if parameter["kind"] == "int" else (parameter["high"] - parameter["low"]) / 100


def chosen(
    methods: Sequence[Mapping[str, Any]], method: str, values: Sequence[Any], *, skip: str = "", several: bool = False
) -> dict[str, Any]:
    """The values that belong to `method` out of those of all methods, in the order `all_parameters` gives.

    Those that say something only from two fine-tuned models on are left out unless `several`.
    """
    found = {}
    for (owner, parameter), value in zip(all_parameters(methods, skip=skip), values, strict=True):
        if owner == method and value is not None and (several or not parameter.get("several")):
            found[parameter["name"]] = value
    return found


def all_parameters(methods: Sequence[Mapping[str, Any]], *, skip: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """(method, parameter) for every parameter but the one called `skip`; those for several models come last."""
    return [
        (m["name"], p)
        for m in methods
        for p in sorted(m.get("parameters", ()), key=lambda p: bool(p.get("several")))
        if p["name"] != skip
    ]


class Settings(NamedTuple):
    """The settings of several plug-ins as one list: what siblings declare alike is one component."""

    parameters: list[Mapping[str, Any]]
    owners: list[set[str]]

    def of(self, plugin: str) -> list[bool]:
        """Which of the parameters belong to a plug-in."""
        return [plugin in owners for owners in self.owners]

    def changed(self, plugin: str, values: Sequence[Any]) -> dict[str, Any]:
        """What a person changed: values of this plug-in that differ from the declared default."""
        return changed([p for p, mine in zip(self.parameters, self.of(plugin), strict=True) if mine],
                       [v for v, mine in zip(values, self.of(plugin), strict=True) if mine])  # fmt: skip


def shared(plugins: Sequence[Mapping[str, Any]]) -> Settings:
    """Every different parameter of `plugins` once, in the order of declaration.

    >>> rho = {"name": "rho", "kind": "float", "default": 0.2}
    >>> found = shared([{"name": "a", "parameters": [rho]}, {"name": "b", "parameters": [rho]}])
    >>> len(found.parameters), found.of("b"), found.changed("b", [0.5])
    (1, [True], {'rho': 0.5})
    """
    parameters: list[Mapping[str, Any]] = []
    owners: list[set[str]] = []
    for plugin in plugins:
        for parameter in plugin.get("parameters", ()):
            if parameter not in parameters:
                parameters.append(parameter)
                owners.append(set())
            owners[parameters.index(parameter)].add(plugin["name"])
    return Settings(parameters, owners)


def changed(parameters: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> dict[str, Any]:
    """The values that differ from their declared defaults; the others are the backend's to fill in."""
    pairs = zip(parameters, values, strict=True)
    return {p["name"]: value for p, value in pairs if value is not None and value != _shown(p)}


def _shown(parameter: Mapping[str, Any]) -> Any:
    default = parameter.get("default")
    return ", ".join(map(str, default or ())) if parameter["kind"] == "list" else default


def sweepable(methods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The methods with a number to sweep: linear first, then those that a pair is enough for, then the others."""
    usable = [m for m in methods if has(m, m.get("knob", "lam"))]
    return sorted(usable, key=lambda m: (m["name"] != "linear", bool(_wants(m)), m["name"]))


def has(method: Mapping[str, Any], parameter: str) -> bool:
    """Whether the method has this parameter."""
    return any(one["name"] == parameter for one in method.get("parameters", ()))


def takes_several(method: Mapping[str, Any]) -> bool:
    """Whether it merges any number of fine-tuned models."""
    return method.get("fine_tunes", [1, 1])[1] is None


def method_label(method: Mapping[str, Any]) -> str:
    """The name, and what it needs beside the pair.

    >>> method_label({"name": "safemerge", "extras": ["raw", "safe"]})
    'safemerge · with raw and safe model'
    >>> method_label({"name": "sce", "fine_tunes": [2, None]}), method_label({"name": "lox", "fine_tunes": [0, 0]})
    ('sce · two or more fine-tunes', 'lox · no fine-tune')
    """
    wants = _wants(method)
    return f"{method['name']} · {wants}" if wants else str(method["name"])


def _wants(method: Mapping[str, Any]) -> str:
    least, most = method.get("fine_tunes", [1, 1])
    words = ["two or more fine-tunes"] if least > 1 else ["no fine-tune"] if most == 0 else []
    extras = " and ".join(method.get("extras", ()))
    words += [f"with {extras} model"] if extras else []
    return ", ".join([*words, *(["with chats"] if method.get("calibration") else [])])


def first_grid(method: Mapping[str, Any]) -> str:
    """What the grid field starts with."""
    return str(method.get("grids", {}).get(method.get("knob", "lam"), ""))


def second_numbers(method: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The other numbers of a method that a grid may turn as well."""
    knob = method.get("knob", "lam")
    names = [
        p["name"]
        for p in method.get("parameters", ())
        if p["kind"] in ("float", "int") and p["name"] != knob and not p.get("several")
    ]
    return [("none", ""), *((name.replace("_", " "), name) for name in names)]
