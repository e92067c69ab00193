"""Merge: choose a pair, a method and a grid; see what it will take; start; watch the points arrive."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import cards, forms, plots, text
from app.tree import el, note
from app.web import pareto, sheet
from backend.errors import StudioError, UserError
from backend.types import Run

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
FIELDS = ("aligned", "tuned", "method", "grid", "task", "preset", "seed", "lam", "out", "general")


def build(studio: Any, shell: Any) -> Merge:
    """Build the page inside the open tab."""
    return Merge(studio, shell)


class Merge:
    """The form on the left, the run on the right."""

    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio = studio
        self.catalogue = studio.catalogue()
        self.methods = forms.pair_methods(self.catalogue["methods"])
        self.errors: dict[str, gr.HTML] = {}
        first = self.methods[0]["name"] if self.methods else ""
        with gr.Row(elem_classes="studio-row"):
            with gr.Column(scale=5, min_width=300, elem_classes="s-panel studio-column"):
                self._pair()
                self.method = gr.Dropdown(
                    [m["name"] for m in self.methods], value=first, label="Merge method", info=self._summary(first),
                    filterable=False,
                )  # fmt: skip
                self._slot("method")
                self._parameters(first)
                with gr.Row():
                    self.grid = gr.Textbox(
                        "0:1:11", label="Steps of λ", info="start:stop:count, or values with commas", min_width=140
                    )
                    self.task = gr.Dropdown(
                        [(text.task(task["name"]), task["name"]) for task in self.catalogue["tasks"]],
                        value=self._task(), label="Task to score", info="what the right axis measures",
                        filterable=False, min_width=140,
                    )  # fmt: skip
                self._slot("grid")
                self._slot("task")
                with gr.Row():
                    presets = self.catalogue["presets"]
                    self.preset = gr.Dropdown(
                        [(_preset(preset), preset["name"]) for preset in presets],
                        value=presets[0]["name"] if presets else None, label="How many prompts (preset)",
                        filterable=False, min_width=200, scale=3,
                    )  # fmt: skip
                    self.seed = gr.Number(0, label="Seed", precision=0, min_width=80, scale=1)
                self._slot("preset")
                self._slot("seed")
                self.estimate = sheet(live=True, elem_id="estimate")
                self._slot("general")
                self.start = gr.Button("Start sweep", variant="primary", elem_id="start")
                with gr.Accordion("Or write one merge to a folder", open=False):
                    lam = next(
                        (p for m in self.methods for p in m.get("parameters", ()) if p["name"] == "lam"),
                        {"name": "lam", "kind": "float", "default": 0.5, "low": 0, "high": 1},
                    )
                    self.lam = forms.component({**lam, "label": "λ: 0 is the aligned model, 1 the fine-tuned one"})
                    self._slot("lam")
                    self.out = gr.Textbox(
                        "", label="Folder", info="leave empty to keep it with the studio's own runs", max_lines=1
                    )
                    self._slot("out")
                    self.write = gr.Button("Write this merge")
            with gr.Column(scale=7, min_width=320, elem_classes="s-panel"):
                self.live = sheet(live=True, elem_id="live")
                self.plot = pareto(elem_id="live-plot")
        self._wire(shell)

    def _pair(self) -> None:
        found = self.catalogue["checkpoints"]
        aligned = [c["name"] for c in found if c.get("role") in ("aligned", "unaligned", "merged")]
        tuned = [c["name"] for c in found if c["name"].split("/")[-1] not in ("aligned", "unaligned")]
        aligned.sort(key=lambda name: "unaligned" in name)
        self.aligned = gr.Dropdown(
            aligned, value=aligned[0] if aligned else None, label="Aligned model (λ = 0)",
            info="a demo name, a folder, or a Hub id", allow_custom_value=True,
        )  # fmt: skip
        self._slot("aligned")
        favourite = next((name for name in tuned if name.endswith("tool-mixed-sft")), tuned[0] if tuned else None)
        self.tuned = gr.Dropdown(
            tuned, value=favourite, label="Fine-tuned model (λ = 1)", info="a full model or a LoRA adapter of it",
            allow_custom_value=True,
        )  # fmt: skip
        self._slot("tuned")
        self.inspection = sheet(live=True, elem_id="inspection")

    def _task(self) -> str | None:
        names = [task["name"] for task in self.catalogue["tasks"]]
        return "tool" if "tool" in names else (names[0] if names else None)

    def _summary(self, method: str) -> str | None:
        return next((m.get("summary") for m in self.methods if m["name"] == method), None)

    def _parameters(self, first: str) -> None:
        """One group of components a method; only the chosen method's is seen."""
        self.groups: dict[str, gr.Group] = {}
        self.values: list[Any] = []
        for method in self.methods:
            own = [p for owner, p in forms.all_parameters([method], skip="lam")]
            with gr.Group(visible=bool(own) and method["name"] == first) as group:
                self.values += [forms.component(parameter) for parameter in own]
            if own:
                self.groups[method["name"]] = group

    def _slot(self, field: str) -> None:
        self.errors[field] = sheet(live=True, elem_classes="field-error", elem_id=f"error-{field}")

    @property
    def form(self) -> list[Any]:
        return [
            self.aligned, self.tuned, self.method, self.grid, self.task, self.preset, self.seed, self.lam, self.out,
            *self.values,
        ]  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        return [self.live, self.plot]

    def _wire(self, shell: Any) -> None:
        checked = [self.inspection, self.estimate, *self.errors.values()]
        shown = [*checked, *self.outputs, shell.watching, shell.memory, shell.timer]
        last = {**HIDDEN, "trigger_mode": "always_last"}
        for field in (self.aligned, self.tuned):
            field.change(
                self.check_pair, [shell.watching, *self.form], [self.task, self.plot, self.live, *checked], **last
            )
        for field in (self.method, self.task, self.preset):
            field.input(self.check, self.form, checked, **last)
        for field in (self.grid, self.seed, self.out):
            field.blur(self.check, self.form, checked, **last)
            field.submit(self.check, self.form, checked, **last)
        for value in self.values:
            value.change(self.check, self.form, checked, **last)
        self.method.change(lambda method: gr.update(info=self._summary(method)), self.method, self.method, **HIDDEN)
        if self.groups:
            self.method.change(self.show_parameters, self.method, list(self.groups.values()), **HIDDEN)
        self.start.click(self.start_sweep, [shell.watching, *self.form], shown, **HIDDEN)
        self.write.click(self.start_merge, [shell.watching, *self.form], shown, **HIDDEN)

    # -- handlers

    def spec(self, kind: str, *form: Any) -> dict[str, Any]:
        aligned, tuned, method, grid, task, preset, seed, lam, out, *values = form
        parameters = forms.chosen(self.methods, method, values, skip="lam")
        pair = {"aligned": aligned or "", "tuned": tuned or "", "method": method}
        if kind == "merge":
            return {**pair, "parameters": {**parameters, "lam": lam}, "out": out or ""}
        return {**pair, "parameters": parameters, "grid": grid, "task": task, "preset": preset, "seed": seed}

    def show_parameters(self, method: str) -> Any:
        updates = [gr.update(visible=name == method) for name in self.groups]
        return updates if len(updates) > 1 else updates[0]

    def check(self, *form: Any) -> tuple[Any, ...]:
        """Inspection and estimate, and every error at its field; nothing is queued."""
        aligned, tuned = form[0] or "", form[1] or ""
        found, errors = None, {}
        try:
            inspected = self.studio.inspect(aligned, tuned)
            found = cards.inspection(inspected)
            errors = {_field(finding.field): finding.sentence for finding in reversed(inspected.errors)}
        except StudioError as error:
            errors = {_field_of(error): str(error)}
        return self._checked(found, errors, *form)

    def _checked(self, inspection: Any, errors: dict[str, str], *form: Any) -> tuple[Any, ...]:
        estimate = None
        if not errors:
            try:
                estimate = cards.estimate(self.studio.plan("sweep", self.spec("sweep", *form)))
            except StudioError as error:
                errors = {_field_of(error): str(error)}
        return inspection, estimate, *self.slots(errors)

    def slots(self, errors: dict[str, str]) -> list[Any]:
        return [el("p", errors[field], role="alert") if field in errors else None for field in self.errors]

    def check_pair(self, watching: int | None, *form: Any) -> tuple[Any, ...]:
        """A new pair: its own task where its name is known, and its stored result on the plot."""
        tuned = next((c for c in self.catalogue["checkpoints"] if c["name"] == form[1]), {})
        task = tuned.get("task") or form[4]
        names = [one["name"] for one in self.catalogue["tasks"]]
        task = task if task in names else form[4]
        live, plot = self.view(watching, (form[0], form[1]))
        return task, plot, live, *self.check(*form[:4], task, *form[5:])

    def start_sweep(self, watching: int | None, *form: Any) -> tuple[Any, ...]:
        return self._submit("sweep", watching, *form)

    def start_merge(self, watching: int | None, *form: Any) -> tuple[Any, ...]:
        return self._submit("merge", watching, *form)

    def _submit(self, kind: str, watching: int | None, *form: Any) -> tuple[Any, ...]:
        try:
            run = self.studio.submit(kind, self.spec(kind, *form))
        except StudioError as error:
            errors = {_field_of(error): str(error)}
            return gr.skip(), gr.skip(), *self.slots(errors), *[gr.skip()] * 5
        live, plot = self.view(run.id, (form[0], form[1]))
        return gr.skip(), gr.skip(), *self.slots({}), live, plot, run.id, {"run": run.id}, gr.update(active=True)

    def view(self, run: int | None, pair: tuple[str, str] | None = None) -> tuple[Any, Any]:
        """The right side: the watched run, else the stored result of this pair, else a sentence."""
        if run is not None:
            try:
                row = self.studio.run(run)
            except UserError:
                row = None
            if row is not None:
                points = self._points(row)
                return cards.live(row, len(points)), self._figure(points, row)
        stored = next(
            (r for r in self.studio.runs() if r.stored and (r.spec.get("aligned"), r.spec.get("tuned")) == pair), None
        )
        if stored is None:
            return note(text.NO_LIVE_RUN), plots.pareto([], {}, None, height=520)
        lines = [el("h3", "Stored result of this pair ", el("span", text.STORED_BADGE, cls="badge stored"))]
        said = el("p", text.NO_LIVE_RUN, cls="s-quiet")
        return el("div", *lines, said), self._figure(self._points(stored), stored)

    def _points(self, run: Run) -> list[Any]:
        return [p for p in self.studio.points([run.id]) if "task" in p.scores and "safety" in p.scores]

    def _figure(self, points: list[Any], run: Run) -> dict[str, Any]:
        frontier = self.studio.frontier(points) if points else None
        return plots.pareto(points, {run.id: run}, frontier, height=520)


def _field_of(error: StudioError) -> str:
    return _field(getattr(error, "field", "general"))


def _field(name: str) -> str:
    """Where an error is shown: at its field, or below the form if the form has no such field."""
    known = {"lambda": "lam", "fine_tuned": "tuned", "checkpoint": "tuned", "folder": "out"}
    name = known.get(name, name)
    return name if name in FIELDS else ("method" if name.startswith("parameter") else "general")


def _preset(preset: dict[str, Any]) -> str:
    """The name and how many prompts a suite gets; None in the catalogue means all of them."""
    counts = sorted({count for count in preset.get("prompts", {}).values() if count})
    if not counts:
        return f"{preset['name']}: every prompt"
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{preset['name']}: {many} prompts a suite"
