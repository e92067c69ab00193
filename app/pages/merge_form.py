"""The form of the Merge page: checkpoints, method with its knobs, grid, what to measure. Fields appear when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr

from app import checkpoints, forms, text
from app.pages.measured import Measured, how_many
from app.web import sheet

NOTHING = ""


class Fields(NamedTuple):
    """What stands in the form; `values` are the knobs of all methods in the order of `forms.all_parameters`."""

    aligned: str | None
    tuned: str | None
    method: str
    grid: str
    task: str | None
    preset: str
    seed: float
    lam: float
    out: str
    more: list[str]
    unaligned: str | None
    raw: str | None
    safe: str | None
    calibration: str | None
    second: str
    second_grid: str
    minutes: float
    trials: float
    suites: str
    own_suites: str
    donor: str
    values: tuple[Any, ...]

    @classmethod
    def of(cls, form: Sequence[Any]) -> Fields:
        """The flat list that a handler gets."""
        count = len(cls._fields) - 1
        return cls(*form[:count], values=tuple(form[count:]))

    @property
    def pair(self) -> tuple[str, str]:
        """Aligned and fine-tuned, as a stored run names them."""
        return self.aligned or "", self.tuned or ""


class Form:
    """The components; `slots` are the places of errors, by field."""

    def __init__(self, catalogue: Mapping[str, Any]) -> None:
        self.catalogue = catalogue
        self.methods = forms.sweepable(catalogue["methods"])
        self.by_name = {method["name"]: method for method in self.methods}
        self.slots: dict[str, gr.HTML] = {}
        first = self.methods[0]["name"] if self.methods else ""
        self._pair()
        with gr.Row():
            self.method = gr.Dropdown(
                [(forms.method_label(m), m["name"]) for m in self.methods], value=first, label="Merge method",
                info=self.summary(first), filterable=False,
            )  # fmt: skip
        self.slot("method")
        self._others(first)
        self._parameters(first)
        self._grid(first)
        self._measuring()
        self._donor()

    def slot(self, field: str) -> None:
        """A place for this field's error."""
        self.slots[field] = sheet(live=True, elem_classes="field-error", elem_id=f"error-{field}")

    def _pair(self) -> None:
        found = self.catalogue["checkpoints"]
        aligned, tunes = checkpoints.starts(found), checkpoints.tunes(found)
        self.aligned = gr.Dropdown(
            aligned, value=next(iter(aligned), None), label="Aligned model (λ = 0)",
            info="a demo name, a folder, or a Hub id", allow_custom_value=True,
        )  # fmt: skip
        self.slot("aligned")
        self.tuned = gr.Dropdown(
            tunes, value=checkpoints.favourite(tunes), label="Fine-tuned model (λ = 1)",
            info="a full model or a LoRA adapter of it", allow_custom_value=True,
        )  # fmt: skip
        self.slot("tuned")
        self.inspection = sheet(live=True, elem_id="inspection")

    def _others(self, first: str) -> None:
        """Checkpoints that only some methods take."""
        found = self.catalogue["checkpoints"]
        names = checkpoints.names(found)
        method = self.by_name.get(first, {})
        self.more = gr.Dropdown(
            checkpoints.tunes(found), value=[], multiselect=True, allow_custom_value=True,
            visible=forms.takes_several(method), label="More fine-tuned models",
            info="merged together with the one above",
        )  # fmt: skip
        self.extras = {}
        for role, info in text.EXTRAS.items():
            likely = next((name for name in names if name.endswith("unaligned")), None) if role != "safe" else None
            self.extras[role] = gr.Dropdown(
                names, value=likely, allow_custom_value=True, visible=role in method.get("extras", ()),
                label=text.EXTRA_LABELS[role], info=info,
            )  # fmt: skip
            self.slot(role)
        chats = [one["name"] for one in self.catalogue.get("data", []) if one.get("role") == "references"]
        self.calibration = gr.Dropdown(
            chats, value=next(iter(chats), None), allow_custom_value=True, visible=bool(method.get("calibration")),
            label=text.CALIBRATION_LABEL, info=text.CALIBRATION_HELP,
        )  # fmt: skip
        self.slot("calibration")

    def _parameters(self, first: str) -> None:
        """One group of components a method; only the chosen method's is seen, and of it what says something."""
        self.groups: dict[str, gr.Group] = {}
        self.several: dict[str, gr.Group] = {}
        self.values: list[Any] = []
        for method in self.methods:
            for groups, several in ((self.groups, False), (self.several, True)):
                own = [p for _, p in forms.all_parameters([method], skip="lam") if bool(p.get("several")) == several]
                knob = self.knob(method["name"])
                with gr.Group(visible=bool(own) and not several and method["name"] == first) as group:
                    for parameter in own:
                        once = {"info": text.ONE_MERGE_ONLY} if parameter["name"] == knob else {}
                        self.values.append(forms.component(parameter, **once))
                if own:
                    groups[method["name"]] = group
        self.slot("parameters")

    def _grid(self, first: str) -> None:
        method = self.by_name.get(first, {})
        self.grid = gr.Textbox(forms.first_grid(method), **self._steps(first), max_lines=1)
        with gr.Row():
            self.second = gr.Dropdown(
                forms.second_numbers(method), value=NOTHING, label="Second number (grid)", min_width=140,
                info="measures every pair of values", filterable=False,
            )  # fmt: skip
            self.second_grid = gr.Textbox(
                "", label="Its values", info="start:stop:count, or values", visible=False, min_width=140, max_lines=1
            )
        self.slot("grid")

    def _measuring(self) -> None:
        tasks = [task["name"] for task in self.catalogue["tasks"]]
        with gr.Row():
            self.task = gr.Dropdown(
                [(text.task(task), task) for task in tasks],
                value="tool" if "tool" in tasks else next(iter(tasks), None), label="Task to score",
                info="what the horizontal axis measures", filterable=False, min_width=160, scale=2,
            )  # fmt: skip
            self.seed = gr.Number(0, label="Seed", info="of all draws", precision=0, min_width=90, scale=1)
        self.preset = how_many(self.catalogue["presets"])
        self.slot("task")
        self.slot("preset")
        self.slot("seed")
        self.measured = Measured(self.catalogue["suites"])
        self.slot("suites")

    def _donor(self) -> None:
        with gr.Accordion(text.DONOR_TITLE, open=False):
            self.donor = gr.Dropdown(
                [(words, name) for name, words in text.DONORS.items()], value="aligned", label=text.DONOR_LABEL,
                info=text.DONOR_HELP, filterable=False,
            )  # fmt: skip
            self.slot("donor")

    def budget(self) -> None:
        """What a search may cost."""
        with gr.Row():
            self.minutes = gr.Number(10, label="Minutes at most", minimum=0.05, min_width=100)
            self.trials = gr.Number(60, label="Settings at most", precision=0, minimum=0, min_width=100)
        self.slot("minutes")
        self.search_estimate = sheet(live=True, elem_id="search-estimate")

    def one_merge(self) -> None:
        """The λ and the folder of a merge to disk."""
        lam = next(
            (p for m in self.methods for p in m.get("parameters", ()) if p["name"] == "lam"),
            {"name": "lam", "kind": "float", "default": 0.5, "low": 0, "high": 1},
        )
        typed = {"label": text.ONE_LAMBDA, "help": text.ONE_LAMBDA_HELP, "fine": True}  # a slider ends at 0 and 1
        self.lam = forms.component({**lam, **typed}, step=0.05)
        self.slot("lam")
        self.out = gr.Textbox("", label="Folder", info="leave empty to keep it with the studio's own runs", max_lines=1)
        self.slot("out")
        self.merge_estimate = sheet(live=True, elem_id="merge-estimate")

    @property
    def named(self) -> set[str]:
        """The parameters that have a component in a method's group."""
        return {parameter["name"] for _, parameter in forms.all_parameters(self.methods, skip="lam")}

    @property
    def inputs(self) -> list[Any]:
        """In the order of `Fields`."""
        return [
            self.aligned, self.tuned, self.method, self.grid, self.task, self.preset, self.seed, self.lam, self.out,
            self.more, *self.extras.values(), self.calibration, self.second,
            self.second_grid, self.minutes, self.trials, *self.measured.inputs, self.donor, *self.values,
        ]  # fmt: skip

    def summary(self, method: str) -> str | None:
        """The method in a sentence, and its paper."""
        found = self.by_name.get(method, {})
        return " ".join(filter(None, [found.get("summary"), text.source(found.get("paper") or "")])) or None

    def _steps(self, method: str) -> dict[str, str]:
        """How the grid's field is called, and what it says of the number that the grid turns."""
        knob = self.knob(method)
        parameters = self.by_name.get(method, {}).get("parameters", ())
        found = next((one for one in parameters if one["name"] == knob), {})
        return {"label": text.steps_of(knob), "info": text.steps_help(found)}

    def offered(self, found: checkpoints.Entries) -> dict[Any, list[str]]:
        """What each drop-down of checkpoints has to choose from."""
        tunes, names = checkpoints.tunes(found), checkpoints.names(found)
        several = {self.tuned: tunes, self.more: tunes, **dict.fromkeys(self.extras.values(), names)}
        return {self.aligned: checkpoints.starts(found), **several}

    def knob(self, method: str) -> str:
        """The number that a sweep of this method turns."""
        return str(self.by_name.get(method, {}).get("knob", "lam"))

    # -- which fields are seen

    @property
    def shown(self) -> list[Any]:
        """What `show` updates, in its order."""
        return [
            self.method, self.tuned, self.more, *self.extras.values(), self.calibration, self.grid,
            self.second, self.second_grid, self.lam, *self.groups.values(), *self.several.values(),
        ]  # fmt: skip

    def show(self, name: str, grid: str, more: list[str]) -> list[Any]:
        """The fields that this method needs, and no others."""
        method = self.by_name.get(name, {})
        several = forms.takes_several(method)
        knob = self.knob(name)
        kept = grid if grid in ("", *map(forms.first_grid, self.methods)) else None
        return [
            gr.update(info=self.summary(name)),
            gr.update(visible=method.get("fine_tunes", [1, 1])[1] != 0),
            gr.update(visible=several),
            *(gr.update(visible=role in method.get("extras", ())) for role in self.extras),
            gr.update(visible=bool(method.get("calibration"))),
            gr.update(**self._steps(name), **({} if kept is None else {"value": forms.first_grid(method)})),
            gr.update(choices=forms.second_numbers(method), value=NOTHING),
            gr.update(visible=False, value=""),
            gr.update(visible=knob == "lam" and forms.has(method, "lam")),
            *(gr.update(visible=own == name) for own in self.groups),
            *(gr.update(visible=own == name and several and bool(more)) for own in self.several),
        ]  # fmt: skip

    def show_second(self, name: str, second: str) -> Any:
        """The values of the second number, suggested over its range."""
        if second == NOTHING:
            return gr.update(visible=False, value="")
        values = self.by_name[name]["grids"][second]
        return gr.update(visible=True, value=values, label=f"Values of {second.replace('_', ' ')}")

    # -- what is asked for

    def spec(self, kind: str, fields: Fields) -> dict[str, Any]:
        """The form as a request of `kind`: of the fields that the method does not take nothing is said."""
        suites = self.measured.request(fields.aligned, fields.suites, fields.own_suites)
        if kind == "search":
            plain = self.knob(fields.method) == "lam" and "=" not in fields.grid
            names = ("task", "preset", "seed", "minutes", "trials")
            asked = {name: getattr(fields, name) for name in names} | ({"grid": fields.grid} if plain else {})
            return {"aligned": fields.aligned or "", "tuned": fields.tuned or "", **asked, **suites}
        method = self.by_name.get(fields.method, {})
        several = forms.takes_several(method) and bool(fields.more)
        tuned: Any = [fields.tuned or "", *fields.more] if several else fields.tuned or ""
        if method.get("fine_tunes", [1, 1])[1] == 0:
            tuned = []
        parameters = forms.chosen(self.methods, fields.method, fields.values, skip="lam", several=several)
        request = {"aligned": fields.aligned or "", "tuned": tuned, "method": fields.method}
        request |= {role: getattr(fields, role) or "" for role in method.get("extras", ())}
        request |= {"donor": fields.donor} if tuned else {}
        request |= {"calibration": fields.calibration or ""} if method.get("calibration") else {}
        if kind == "merge":
            lam = {"lam": fields.lam} if forms.has(method, "lam") else {}
            return {**request, "parameters": parameters | lam, "out": fields.out or "", "seed": fields.seed}
        if fields.second:
            grid = fields.grid if "=" in fields.grid else f"{self.knob(fields.method)}={fields.grid}"
            grid = f"{grid}, {fields.second}={fields.second_grid}"
        else:
            grid = fields.grid
        measured = {name: getattr(fields, name) for name in ("task", "preset", "seed")}
        return {**request, "parameters": parameters, "grid": grid, **measured, **suites}
