"""Merge: choose a pair, a method and a grid, or a search; see what it will take; start; watch the points arrive."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gradio as gr

from app import cards, plots, run_cards, series, strength, text
from app.pages.merge_form import Fields, Form
from app.pages.merge_layers import Layers
from app.tree import el, note
from app.web import pareto, sheet
from backend.errors import StudioError, UserError
from backend.types import Run, RunStatus

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
OF_ONE_MERGE = ("lam", "out")  # fields that no sweep asks about
MOST_OVERLAID = 3  # more would leave the legend no room


def build(studio: Any, shell: Any) -> Merge:
    """Build the page inside the open tab."""
    return Merge(studio, shell)


class Merge:
    """The form on the left, the run on the right."""

    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio = studio
        self.catalogue = studio.catalogue()
        with gr.Row(elem_classes="studio-row"):
            with gr.Column(scale=5, min_width=300, elem_classes="s-panel studio-column"):
                self.fields = Form(self.catalogue)
                self.estimate = sheet(live=True, elem_id="estimate")
                self.fields.slot("general")
                self.start = gr.Button("Start sweep", variant="primary", elem_id="start")
                with gr.Accordion("Or search for a better front", open=False) as self.searching:
                    sheet(el("p", text.SEARCH_HELP, cls="s-quiet"))
                    self.fields.budget()
                    self.look = gr.Button("Start search", elem_id="search")
                with gr.Accordion("Or write one merge to a folder", open=False) as self.writing:
                    self.fields.one_merge()
                    self.write = gr.Button("Write this merge")
                self.is_writing = gr.State(False)  # a folded form is not planned
            with gr.Column(scale=7, min_width=320):
                with gr.Column(elem_classes="s-panel"):
                    self.live = sheet(live=True, elem_id="live")
                    self.plot = pareto(elem_id="live-plot")
                self.layers = Layers(studio)
        self.errors = self.fields.slots
        self.inspection, self.aligned, self.tuned = self.fields.inspection, self.fields.aligned, self.fields.tuned
        self._wire(shell)

    @property
    def form(self) -> list[Any]:
        return self.fields.inputs

    @property
    def outputs(self) -> list[Any]:
        return [self.live, self.plot]

    def _wire(self, shell: Any) -> None:
        form = self.fields
        checked = [self.inspection, self.estimate, *self.errors.values()]
        shown = [*checked, *self.outputs, shell.watching, shell.memory, shell.timer]
        last = {**HIDDEN, "trigger_mode": "always_last"}
        for field in (form.aligned, form.tuned):
            field.change(
                self.check_pair, [shell.watching, *self.form], [form.task, self.plot, self.live, *checked], **last
            )
        for choice in (form.method, form.more):
            shown_first = choice.change(form.show, [form.method, form.grid, form.more], form.shown, **HIDDEN)
            shown_first.then(self.check, self.form, checked, **HIDDEN)
        shown_first = form.second.change(form.show_second, [form.method, form.second], form.second_grid, **HIDDEN)
        shown_first.then(self.check, self.form, checked, **HIDDEN)
        for field in (form.task, form.preset, form.measured.choice):
            field.input(self.check, self.form, checked, **last)
        looked = [form.search_estimate, self.errors["minutes"]]
        for asked in (self.searching.expand, form.minutes.blur, form.trials.blur):
            asked(self.check_search, self.form, looked, **last)
        chosen = (*form.extras.values(), form.calibration, form.donor, *form.values)
        for field in chosen:
            field.change(self.check, self.form, checked, **last)
        written = [form.merge_estimate, *(self.errors[field] for field in OF_ONE_MERGE)]
        pair = (form.aligned, form.tuned, form.more, form.method)
        changes = [field.change for field in (*pair, *chosen)]
        typed = [form.lam.blur, form.lam.submit, form.out.blur, form.out.submit, form.seed.blur]
        asked = [self.is_writing, *self.form]
        opened = self.writing.expand(lambda: True, None, self.is_writing, **HIDDEN)
        opened.then(self.check_merge, asked, written, **HIDDEN)
        self.writing.collapse(lambda: False, None, self.is_writing, **HIDDEN)
        gr.on([*changes, *typed], self.check_merge, asked, written, **last)
        for field in (form.grid, form.second_grid, form.seed, form.measured.own):
            field.blur(self.check, self.form, checked, **last)
            field.submit(self.check, self.form, checked, **last)
        for button, kind in ((self.start, "sweep"), (self.look, "search"), (self.write, "merge")):
            button.click(self.starter(kind), [shell.watching, *self.form], shown, **HIDDEN)
        self.layers.wire(form.aligned, form.tuned)

    # -- handlers

    def check(self, *form: Any) -> tuple[Any, ...]:
        """Inspection and estimate, and every error at its field; nothing is queued."""
        fields = Fields.of(form)
        found, errors, estimate = None, {}, None
        spec = self.fields.spec("sweep", fields)
        try:
            tuned = fields.tuned or "" if spec["tuned"] else None
            inspected = self.studio.inspect(fields.aligned or "", tuned, donor=fields.donor)
            found = cards.inspection(inspected)
            errors = {self._field(finding.field): finding.sentence for finding in reversed(inspected.errors)}
            if not errors:
                estimate = cards.estimate(self.studio.plan("sweep", spec), self.fields.knob(fields.method))
        except StudioError as error:
            errors = {self._field_of(error): str(error)}
        return found, estimate, *self.slots(errors, kept=OF_ONE_MERGE)

    def check_search(self, *form: Any) -> tuple[Any, Any]:
        """What a search of this pair will take, or why it cannot start."""
        try:
            return cards.estimate(self.studio.plan("search", self.fields.spec("search", Fields.of(form)))), None
        except StudioError as error:
            return None, el("p", str(error), role="alert")

    def check_merge(self, is_open: bool, *form: Any) -> list[Any]:
        """What one merge to a folder will take, or why it cannot start: at its own field, else above its button.

        Nothing is planned while its form is folded: opening it asks again.
        """
        if not is_open:
            return [gr.skip()] * (1 + len(OF_ONE_MERGE))
        said: dict[str, Any] = {}
        try:
            plan = self.studio.plan("merge", self.fields.spec("merge", Fields.of(form)))
            above = cards.estimate(plan)
        except StudioError as error:
            field = self._field_of(error)
            said = {field: el("p", str(error), role="alert")}
            above = None if field in OF_ONE_MERGE else note(str(error), "error")
        return [above, *(said.get(field) for field in OF_ONE_MERGE)]

    def slots(self, errors: dict[str, str], kept: Collection[str] = ()) -> list[Any]:
        """What each field's place says: its error or nothing; those of `kept` without an error stay as they are."""
        clear = {field: gr.skip() if field in kept else None for field in self.errors}
        return [el("p", errors[field], role="alert") if field in errors else clear[field] for field in self.errors]

    def check_pair(self, watching: int | None, *form: Any) -> tuple[Any, ...]:
        """A new pair: its own task where its name is known, and its stored result on the plot."""
        fields = Fields.of(form)
        tuned = next((c for c in self.catalogue["checkpoints"] if c["name"] == fields.tuned), {})
        names = [one["name"] for one in self.catalogue["tasks"]]
        task = tuned.get("task") if tuned.get("task") in names else fields.task
        fields = fields._replace(task=task)
        live, plot = self.view(watching, fields.pair)
        return task, plot, live, *self.check(*fields[:-1], *fields.values)

    def starter(self, kind: str) -> Any:
        """The handler of a start button."""
        return lambda watching, *form: self._submit(kind, watching, *form)

    def _submit(self, kind: str, watching: int | None, *form: Any) -> tuple[Any, ...]:
        fields = Fields.of(form)
        try:
            run = self.studio.submit(kind, self.fields.spec(kind, fields))
        except StudioError as error:
            errors = {self._field_of(error): str(error)}
            return gr.skip(), gr.skip(), *self.slots(errors), *[gr.skip()] * 5
        live, plot = self.view(run.id, fields.pair)
        return gr.skip(), gr.skip(), *self.slots({}), live, plot, run.id, {"run": run.id}, gr.update(active=True)

    # -- the right side

    def view(self, run: int | None, pair: tuple[str, str] | None = None) -> tuple[Any, Any]:
        """The watched run with others on the same prompts, else the stored result of this pair, else a sentence."""
        if run is not None:
            try:
                row = self.studio.run(run)
            except UserError:
                row = None
            if row is not None and row.kind != "tune":
                count = sum(1 for point in self.studio.points([row.id]) if "safety" in point.scores)
                return run_cards.live(row, count), self._figure([row, *self._comparable(row)])
        stored = next(
            (r for r in self.studio.runs() if r.stored and (r.spec.get("aligned"), r.spec.get("tuned")) == pair), None
        )
        if stored is None:
            return note(text.NO_LIVE_RUN), plots.pareto([], {}, None, height=520)
        lines = [el("h3", "Stored result of this pair ", el("span", text.STORED_BADGE, cls="badge stored"))]
        said = el("p", text.NO_LIVE_RUN, cls="s-quiet")
        return el("div", *lines, said), self._figure([stored])

    def _comparable(self, row: Run) -> list[Run]:
        """Finished runs of this pair on the same prompts, the newest of each method: they are drawn beside it."""
        if not row.recipe.get("suites") or (row.kind == "search" and row.status != RunStatus.DONE):
            return []
        found: dict[str, Run] = {}
        for other in self.studio.runs():
            method = other.kind if other.kind == "search" else str(other.spec.get("method"))
            own = row.kind if row.kind == "search" else str(row.spec.get("method"))
            same = all(other.spec.get(key) == row.spec.get(key) for key in ("aligned", "tuned", "task"))
            same = same and other.kind in ("sweep", "search") and other.status == RunStatus.DONE
            if same and method != own and other.id != row.id and self._same_prompts(row, other):
                found.setdefault(method, other)
        return list(found.values())[:MOST_OVERLAID]

    @staticmethod
    def _same_prompts(one: Run, other: Run) -> bool:
        return bool(other.recipe.get("suites")) and cards.same_prompts([one, other])

    def _figure(self, rows: list[Run]) -> dict[str, Any]:
        runs = {row.id: row for row in rows}
        measured = [p for p in self.studio.points(list(runs)) if "task" in p.scores and "safety" in p.scores]
        points = series.settled(measured, runs)
        frontier = self.studio.frontier(points) if points else None
        return plots.pareto(points, runs, frontier, height=520) | strength.other(points, runs, height=520)

    def _field_of(self, error: StudioError) -> str:
        return self._field(getattr(error, "field", "general"))

    def _field(self, name: str) -> str:
        """Where an error is shown: at its field, below the method's knobs, or below the form if it has neither."""
        known = {"lambda": "lam", "fine_tuned": "tuned", "checkpoint": "tuned", "folder": "out", "trials": "minutes"}
        known |= {"suite": "suites"}
        name = known.get(name, name)
        if name in self.fields.named and name not in self.errors:
            return "parameters"
        return name if name in self.errors else ("method" if name.startswith("parameter") else "general")
