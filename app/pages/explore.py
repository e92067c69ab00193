"""Explore: the linked Pareto plot, its table, and the answers behind a point. Opens first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app import answers, cards, comparison, exports, plots, series, strength, text
from app import side_by_side as beside
from app.tree import Tree, group, note
from app.web import pareto, sheet
from backend.errors import UserError
from backend.types import Point, Run

ANY = "all"
HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Any, shell: Any) -> Explore:
    """Build the page inside the open tab."""
    return Explore(studio, shell)


class Explore:
    """The page's components and its handlers; handlers take and return plain values, so tests call them directly."""

    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio = studio
        self._compared: dict[int, tuple[int, Tree]] = {}
        self.selected = gr.State(None)
        self.only = gr.State([])
        self.shown = gr.State(20)
        with gr.Row(elem_classes="studio-row"):
            self.task = gr.Dropdown([], label="Task", scale=1, filterable=False)
            self.runs = gr.Dropdown([], label="Runs on the plot", multiselect=True, scale=3)
            self.minimum = gr.Slider(0, 100, 0, step=1, label="Minimum safety (%)", scale=2)
        self.summary = sheet(live=True, elem_id="summary")
        with gr.Row(elem_classes="studio-row"):
            with gr.Column(scale=7, min_width=320):
                with gr.Column(elem_classes="s-panel"):
                    self.plot = pareto(self.export_points, elem_id="pareto")
                with gr.Column(elem_classes="s-panel"):
                    self.table = sheet(elem_id="points")
            with gr.Column(scale=5, min_width=300, elem_classes="s-panel"):
                self.card = sheet(elem_id="detail")
                with gr.Row():
                    self.suite = gr.Dropdown([(ANY, ANY)], value=ANY, label="Prompts", filterable=False, min_width=120)
                    self.outcome = gr.Dropdown(
                        [(ANY, ANY)], value=ANY, label="Outcome here", filterable=False, min_width=120
                    )
                self.answers = sheet(elem_id="answers")
                self.recipe = sheet(elem_id="recipe")
        self._wire(shell)

    @property
    def drawing(self) -> list[Any]:
        return [self.plot, self.summary, self.table]

    @property
    def detail(self) -> list[Any]:
        return [self.card, self.suite, self.outcome, self.answers, self.recipe]

    @property
    def outputs(self) -> list[Any]:
        return [self.task, self.runs, self.selected, self.only, self.shown, *self.drawing, *self.detail]

    def _wire(self, shell: Any) -> None:
        view = [self.task, self.runs, self.minimum, self.selected, self.only]
        last = {**HIDDEN, "trigger_mode": "always_last"}
        self.task.input(self.choose_task, [self.task, self.minimum], [*self.outputs, shell.address], **HIDDEN)
        self.runs.input(
            self.choose_runs, [self.runs, self.minimum, self.selected], [*self.outputs, shell.address], **HIDDEN
        )
        self.minimum.input(lambda *v: self.draw(*v[1:]), view, self.drawing, **last)
        opened = [self.selected, *self.drawing, self.shown, *self.detail, shell.address]
        self.plot.pick(self.pick, [*view, self.suite, self.outcome], opened, **HIDDEN)
        self.plot.area(self.pick_area, view, [self.only, self.table], **HIDDEN)
        self.table.act(self.act_on_row, [*view, self.suite, self.outcome], [self.only, *opened], **HIDDEN)
        for filter_ in (self.suite, self.outcome):
            filter_.input(
                self.filter_answers, [self.selected, self.suite, self.outcome], [self.shown, self.answers], **HIDDEN
            )
        self.answers.act(
            self.more_answers, [self.selected, self.suite, self.outcome], [self.shown, self.answers], **HIDDEN
        )

    # -- what there is

    def by_task(self) -> dict[str, list[Run]]:
        """Runs that have or will have points, by task; stored ones first."""
        found: dict[str, list[Run]] = {}
        for run in sorted(self.studio.runs(), key=lambda run: (not run.stored, -run.id if not run.stored else run.id)):
            if run.kind not in ("merge", "tune") and (run.status.is_live or self.studio.points([run.id])):
                found.setdefault(str(run.spec.get("task") or ""), []).append(run)
        return found

    @staticmethod
    def run_choices(runs: Sequence[Run]) -> list[tuple[str, int]]:
        def label(run: Run) -> str:
            where = text.STORED_BADGE if run.stored else f"run {run.id}"
            if run.kind == "compare":
                return f"{text.compared(run.spec)} ({where})"
            method = run.kind if run.kind == "search" else run.spec.get("method", run.kind)
            return f"{method} · {cards.tuned_name(run)} ({where})"

        return [(label(run), run.id) for run in runs]

    def arrive(self, runs: Sequence[int] = (), point: int | None = None, minimum: float = 0) -> dict[Any, Any]:
        """Everything on the page, for a first visit or a link; unknown ids fall back to the stored demo."""
        tasks = self.by_task()
        wanted = [run for mine in tasks.values() for run in mine if run.id in set(runs)]
        task = str(wanted[0].spec.get("task") or "") if wanted else _preferred(tasks)
        mine = tasks.get(task, [])
        chosen = [run.id for run in wanted if run in mine]
        chosen = chosen or _first_shown(mine)
        points = self.points(chosen)
        if point not in {one.id for one in points}:
            point = self._opening(points)
        names = [(text.task(name), name) for name in tasks]
        values = [
            gr.update(choices=names, value=task if tasks else None),
            gr.update(choices=self.run_choices(mine), value=chosen),
            point,
            [],
            20,
            *self.draw(chosen, minimum, point, []),
            *self.open(point, ANY, ANY, 20),
        ]
        return dict(zip(self.outputs, values, strict=True))

    def points(self, runs: Sequence[int]) -> list[Point]:
        found = series.settled(self.studio.points(list(runs)), self._known(runs)) if runs else []
        return [point for point in found if "task" in point.scores and "safety" in point.scores]

    def _opening(self, points: Sequence[Point]) -> int | None:
        if not points:
            return None
        frontier = self.studio.frontier(points)
        return points[frontier.knee if frontier.knee is not None else (frontier.front or (0,))[-1]].id

    # -- handlers

    def choose_task(self, task: str, minimum: float) -> tuple[Any, ...]:
        runs = _first_shown(self.by_task().get(task, []))
        values = self.arrive(runs, None, minimum)
        return *(values[one] for one in self.outputs), {"runs": ",".join(map(str, runs)), "point": ""}

    def choose_runs(self, runs: list[int], minimum: float, selected: int | None) -> tuple[Any, ...]:
        points = self.points(runs)
        if selected not in {point.id for point in points}:
            selected = self._opening(points)
        link = {"runs": ",".join(map(str, runs)), "point": str(selected or "")}
        detail = self.open(selected, ANY, ANY, 20)
        return gr.skip(), gr.skip(), selected, [], 20, *self.draw(runs, minimum, selected, []), *detail, link

    def draw(
        self, runs: Sequence[int], minimum: float, selected: int | None, only: Sequence[int]
    ) -> tuple[Any, Any, Any]:
        points, known = self.points(runs), self._known(runs)
        frontier = self.studio.frontier(points) if points else None
        plot = plots.pareto(points, known, frontier, minimum=minimum or 0, selected=selected)
        plot |= strength.other(points, known)
        rows = cards.point_table(points, known, frontier, minimum=minimum or 0, selected=selected, only=only)
        means = [self._means(run) for run in known.values() if run.kind == "compare"]
        return plot, cards.summary(points, frontier, known, minimum or 0), group([*means, rows]) if means else rows

    def _means(self, run: Run) -> Tree:
        """What a comparison says over all its seeds; kept while nothing is added, since intervals are resampled."""
        count = len(self.studio.points([run.id]))
        known, card = self._compared.get(run.id, (-1, None))
        if known != count:
            card = comparison.card(self.studio.comparison_json(run.id))
            self._compared[run.id] = count, card
        return card

    def _known(self, runs: Sequence[int]) -> dict[int, Run]:
        return {run: self.studio.run(run) for run in runs}

    def pick(
        self, task: str, runs: list[int], minimum: float, selected: int | None, only: list[int], suite: str,
        outcome: str, event: gr.EventData,
    ) -> tuple[Any, ...]:  # fmt: skip
        return self.opened(runs, minimum, int(event._data["key"]), only, suite, outcome)

    def opened(
        self, runs: list[int], minimum: float, point: int, only: list[int], suite: str, outcome: str
    ) -> tuple[Any, ...]:
        drawn = self.draw(runs, minimum, point, only)
        link = {"view": "explore", "runs": ",".join(map(str, runs)), "point": str(point)}
        return point, *drawn, 20, *self.open(point, suite, outcome, 20), link

    def act_on_row(
        self, task: str, runs: list[int], minimum: float, selected: int | None, only: list[int], suite: str,
        outcome: str, event: gr.EventData,
    ) -> tuple[Any, ...]:  # fmt: skip
        if event._data["name"] == "compare":
            return only, *self.side_by_side(only, suite, outcome)
        if event._data["name"] == "all":
            drawn = self.draw(runs, minimum, selected, [])
            return [], selected, *drawn, *[gr.skip()] * (1 + len(self.detail) + 1)
        return only, *self.opened(runs, minimum, int(event._data["key"]), only, suite, outcome)

    def side_by_side(self, only: Sequence[int], suite: str, outcome: str) -> tuple[Any, ...]:
        """The first four of the selected points in the detail pane, on the same prompts."""
        points = [one for one in map(self._point, only[: beside.MOST]) if one is not None]
        if not points:
            return *[gr.skip()] * (5 + len(self.detail)), gr.skip()
        runs = self._known(sorted({point.run for point in points}))
        answered = [self.studio.outcomes(point.id, suite=None if suite == ANY else suite) for point in points]
        shown = beside.columns(points, answered, runs, "" if outcome == ANY else outcome)
        detail = [beside.card(points, answered, runs), gr.skip(), gr.skip(), shown, None]
        return *[gr.skip()] * 4, beside.PROMPTS, *detail, {"view": "explore", "point": str(points[0].id)}

    def pick_area(
        self, task: str, runs: list[int], minimum: float, selected: int | None, only: list[int], event: gr.EventData
    ) -> tuple[Any, Any]:
        keys = [int(key) for key in event._data["keys"]]
        return keys, self.draw(runs, minimum, selected, keys)[2]

    # -- the detail pane

    def open(self, point: int | None, suite: str, outcome: str, shown: int) -> tuple[Any, ...]:
        """Card, the two filters, answers and recipe of one point."""
        found = self._point(point)
        if found is None:
            return note(text.PICK_A_POINT), gr.skip(), gr.skip(), None, None
        run = self.studio.run(found.run)
        suites = [ANY, *found.outcomes]
        kinds = [kind for kind in text.OUTCOMES if any(counts.get(kind) for counts in found.outcomes.values())]
        suite = suite if suite in suites else ANY
        outcome = outcome if outcome in kinds else ANY
        return (
            cards.point_card(found, run, [text.ANCHORS.get(found.anchor, found.anchor)] if found.anchor else []),
            gr.update(choices=[(_suite_name(name), name) for name in suites], value=suite),
            gr.update(choices=[(ANY, ANY), *((text.OUTCOMES[kind], kind) for kind in kinds)], value=outcome),
            self._answers(found, suite, outcome, shown),
            cards.recipe(found, run),
        )

    def _point(self, point: int | None) -> Point | None:
        try:
            return None if point is None else self.studio.point(point)
        except UserError:
            return None

    def _answers(self, point: Point, suite: str, outcome: str, shown: int) -> Tree:
        return answers.pane(self.studio, point, "" if suite == ANY else suite, "" if outcome == ANY else outcome, shown)

    def filter_answers(self, point: int | None, suite: str, outcome: str) -> tuple[int, Any]:
        found = self._point(point)
        return 20, self._answers(found, suite, outcome, 20) if found else None

    def more_answers(self, point: int | None, suite: str, outcome: str, event: gr.EventData) -> tuple[int, Any]:
        shown, found = int(event._data["key"]), self._point(point)
        return shown, self._answers(found, suite, outcome, shown) if found else None

    # -- export

    def export_points(self, form: str, points: list[int]) -> str:
        """The drawn points as CSV or JSON text, with the recipe of every run."""
        wanted = {int(point) for point in points[:10_000]}
        points = [found for found in map(self._point, sorted(wanted)) if found is not None]
        found = [(self.studio.run(point.run), point) for point in points]
        return exports.as_csv(found) if form == "csv" else exports.as_json(found)


def _preferred(tasks: dict[str, list[Run]]) -> str:
    """The task with the most stored runs; the tool task where several have as many."""
    return max(tasks, key=lambda task: (sum(run.stored for run in tasks[task]), task), default="")


def _first_shown(runs: Sequence[Run]) -> list[int]:
    """The stored sweeps; where there are none the newest finished run, else the newest."""
    sweeps = [run.id for run in runs if run.stored and run.kind == "sweep"]
    if sweeps:
        return sweeps
    done = [run.id for run in runs if not run.status.is_live]
    return done[:1] or [run.id for run in runs[:1]]


def _suite_name(suite: str) -> str:
    return ANY if suite == ANY else suite.replace("_", " ")
