"""Finetune: choose a model, data and a strategy; see what it will take; start; watch what is chosen and dropped."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import checkpoints, forms, run_cards, text, tuning_cards
from app import tuning_text as words
from app.pages.measured import Measured, how_many
from app.pages.tune_data import TuneData
from app.pages.tuning_view import TuningView
from app.tree import el, note
from app.web import sheet
from backend.errors import StudioError
from backend.types import Run

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
FIELDS = (
    "model", "task_data", "references", "strategy", "parameters", "training", "task", "probe_every", "seed", "out",
    "preset", "suites", "general",
)  # fmt: skip
UP_FRONT = 5  # settings of a strategy that are seen without unfolding


def build(studio: Any, shell: Any) -> Finetune:
    """Build the page inside the open tab."""
    return Finetune(studio, shell)


class Finetune:
    """The form on the left, the run on the right."""

    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio = studio
        self.catalogue = studio.catalogue()
        self.strategies = self.catalogue.get("strategies", [])
        self.settings, self.training = forms.shared(self.strategies), self.catalogue.get("training", [])
        self.errors: dict[str, gr.HTML] = {}
        with gr.Row(elem_classes="studio-row"):
            with gr.Column(scale=5, min_width=300, elem_classes="s-panel studio-column", elem_id="tune-form"):
                self._data()
                self._strategy()
                self._rest()
                self.estimate = sheet(live=True, elem_id="tune-estimate")
                self._slot("general")
                self.start = gr.Button("Start fine-tuning", variant="primary", elem_id="tune-start")
            with gr.Column(scale=7, min_width=320, elem_classes="s-panel studio-column"):
                self.live = sheet(live=True, elem_id="tune-live")
                self.watched = TuningView(studio, shell.telemetry, "tune")
        self._wire(shell)

    # -- the form

    def _data(self) -> None:
        found = checkpoints.trainable(self.catalogue["checkpoints"])
        self.model = self._choice("model", found, allow_custom_value=True)
        self.data = TuneData(self.studio, self.catalogue.get("data", []), self._choice)

    def _strategy(self) -> None:
        first = self.strategies[0]["name"] if self.strategies else None
        names = [one["name"] for one in self.strategies]
        if "dualselect" in names:
            first = "dualselect"
        if not names:
            sheet(note(words.NO_STRATEGIES, "warning"))
        self.strategy = self._choice("strategy", names, value=first, info=self._about(first), filterable=False)
        mine, self.values = self.settings.of(first or ""), []
        ahead = [self._place(number) < UP_FRONT for number in range(len(mine))]
        for number, parameter in enumerate(self.settings.parameters):
            if ahead[number]:
                self.values.append(forms.component(parameter, visible=mine[number]))
        self.folded = sorted(not one for one in ahead)
        more = any(own and not near for own, near in zip(mine, ahead, strict=True))
        with gr.Accordion("More settings of this strategy", open=False, visible=more) as self.more:
            for number, parameter in enumerate(self.settings.parameters):
                if not ahead[number]:
                    self.values.append(forms.component(parameter, visible=mine[number]))
        order = sorted(range(len(mine)), key=lambda number: not ahead[number])
        self.settings = forms.Settings(
            [self.settings.parameters[n] for n in order], [self.settings.owners[n] for n in order]
        )
        self._slot("parameters")

    def _place(self, number: int) -> int:
        """How far ahead the strategy that names a setting first puts it."""
        parameter = self.settings.parameters[number]
        return min(
            strategy["parameters"].index(parameter)
            for strategy in self.strategies
            if parameter in strategy.get("parameters", ())
        )

    def _rest(self) -> None:
        tasks = [(text.task(one["name"]), one["name"]) for one in self.catalogue["tasks"]]
        first = "tool" if "tool" in [name for _, name in tasks] else ""
        self.task = self._choice("task", [("safety only", ""), *tasks], value=first, filterable=False)
        with gr.Row():
            self.probe_every = gr.Number(25, precision=0, minimum=0, **self._labels("probe_every"), min_width=120)
            self.seed = gr.Number(0, precision=0, **self._labels("seed"), min_width=120)
        for field in ("probe_every", "seed"):
            self._slot(field)
        self.preset = how_many(self.catalogue["presets"])
        self._slot("preset")
        self.measured = Measured(self.catalogue["suites"])
        self._slot("suites")
        with gr.Accordion("Advanced: how the training runs", open=False):
            wanted = self.data.training(self.data.sets["task_data"].value)
            self.schedule = [
                forms.component({**parameter, "default": wanted.get(parameter["name"], parameter.get("default"))})
                for parameter in self.training
            ]
            self.out = gr.Textbox("", max_lines=1, **self._labels("out"))
            self._slot("out")
        self._slot("training")

    def _choice(self, field: str, choices: list[Any], **options: Any) -> gr.Dropdown:
        first = choices[0][1] if choices and isinstance(choices[0], tuple) else next(iter(choices), None)
        made = gr.Dropdown(choices, **{"value": first, **self._labels(field), **options})
        self._slot(field)
        return made

    def _labels(self, field: str) -> dict[str, Any]:
        label, info = words.LABELS[field]
        return {"label": label, "info": info or None}

    def _about(self, name: str | None) -> str | None:
        return next((words.strategy(one) for one in self.strategies if one["name"] == name), None)

    def _slot(self, field: str) -> None:
        self.errors[field] = sheet(live=True, elem_classes="field-error", elem_id=f"tune-error-{field}")

    def offered(self, found: checkpoints.Entries) -> dict[Any, list[str]]:
        """What the drop-down of models has to choose from."""
        return {self.model: checkpoints.trainable(found)}

    @property
    def form(self) -> list[Any]:
        return [
            self.model, *self.data.inputs, self.strategy, self.task, self.probe_every, self.seed, self.out, self.preset,
            *self.measured.inputs, *self.schedule, *self.values,
        ]  # fmt: skip

    @property
    def checked(self) -> list[Any]:
        return [self.estimate, *self.data.previews.values(), *self.errors.values()]

    @property
    def outputs(self) -> list[Any]:
        return [self.live, *self.watched.outputs]

    def _wire(self, shell: Any) -> None:
        last = {**HIDDEN, "trigger_mode": "always_last"}
        boxes = (gr.Textbox, gr.Number)
        typed = [field for field in self.form if isinstance(field, boxes)]
        others = [field.change for field in self.form if not isinstance(field, boxes)]
        gr.on([*others, *(field.blur for field in typed)], self.check, self.form, self.checked, **last)
        self.data.sets["task_data"].change(self.recommend, self.data.sets["task_data"], self.schedule, **HIDDEN)
        self.strategy.change(self.show_references, self.strategy, self.data.panes["references"], **HIDDEN)
        seen = [self.strategy, self.more, *self.values]
        for trigger in (self.strategy.change, *(value.input for value in self._presets())):
            trigger(self.show_settings, [self.strategy, *self.values], seen, **HIDDEN)
        started = [*self.checked, *self.outputs, shell.watching, shell.memory, shell.timer, shell.address]
        self.start.click(self.begin, self.form, started, **HIDDEN)

    def _presets(self) -> list[Any]:
        named = zip(self.settings.parameters, self.values, strict=True)
        return [value for parameter, value in named if parameter["name"] == "preset"]

    # -- handlers

    def recommend(self, task_data: str) -> list[Any]:
        """How the chosen set wants to be trained, in the fields; other data leave them as they are."""
        wanted = self.data.training(task_data)
        return [gr.update(value=wanted[p["name"]]) if p["name"] in wanted else gr.skip() for p in self.training]

    def spec(self, *form: Any) -> dict[str, Any]:
        """The request as `Studio.plan("tune", …)` takes it; settings nobody changed are left to the backend."""
        (model, *data), (strategy, task, every, seed, out, preset, suites, own_suites, *rest) = form[:5], form[5:]
        schedule, values = rest[: len(self.schedule)], rest[len(self.schedule) :]
        parameters = self.settings.changed(strategy or "", values)
        if self.preset_of(strategy, values):
            parameters = {name: value for name, value in parameters.items() if name in self._under_presets}
        return {
            "model": model or "", **self.data.request(*data, needs_references=self.needs_references(strategy)),
            "strategy": strategy or "", "parameters": parameters,
            "training": forms.changed(self.training, schedule), "task": task or "", "probe_every": every or 0,
            "seed": seed, "out": out or "", "preset": preset or "", **self.measured.request(model, suites, own_suites),
        }  # fmt: skip

    def needs_references(self, strategy: str | None) -> bool:
        """Whether the strategy reads references."""
        found = next((one for one in self.strategies if one["name"] == strategy), {})
        return "references" in (found.get("needs") or "")

    def show_references(self, strategy: str) -> Any:
        """The pane of references, for strategies that read some."""
        return gr.update(visible=self.needs_references(strategy))

    @property
    def _under_presets(self) -> set[str]:
        """The settings that count whatever the preset."""
        return {p["name"] for p in self.settings.parameters if p["name"] == "preset" or p.get("every_preset")}

    def preset_of(self, strategy: str | None, values: Any) -> str:
        """The chosen preset where it is another than the default: it sets everything else."""
        return str(self.settings.changed(strategy or "", values).get("preset") or "")

    def show_settings(self, strategy: str, *values: Any) -> list[Any]:
        """Only the settings of the chosen strategy; under another preset only the preset."""
        mine, preset = self.settings.of(strategy), self.preset_of(strategy, values)
        about = f"{self._about(strategy)} {words.PRESET_SETS if preset else ''}".strip()
        shown = [
            own and (not preset or parameter["name"] in self._under_presets)
            for own, parameter in zip(mine, self.settings.parameters, strict=True)
        ]
        more = gr.update(visible=any(one and folded for one, folded in zip(shown, self.folded, strict=True)))
        return [gr.update(info=about), more, *(gr.update(visible=one) for one in shown)]

    def check(self, *form: Any) -> list[Any]:
        """The estimate and previews, or every error at its field; nothing is queued."""
        try:
            estimate, errors = tuning_cards.estimate(self.studio.plan("tune", self.spec(*form))), {}
        except StudioError as error:
            estimate, errors = None, {self._field_of(error): str(error)}
        return [estimate, *self.data.shown(*form[1:5]), *self.slots(errors)]

    def slots(self, errors: dict[str, str]) -> list[Any]:
        return [el("p", errors[field], role="alert") if field in errors else None for field in self.errors]

    def _field_of(self, error: StudioError) -> str:
        """Where an error is shown: at its field, its group of settings, or below the form."""
        name = getattr(error, "field", "general")
        name = "suites" if name == "suite" else name
        if name in FIELDS:
            return name
        if name in {parameter["name"] for parameter in self.training}:
            return "training"
        mine = name in {parameter["name"] for parameter in self.settings.parameters}
        return "parameters" if mine or name.startswith("parameter") else "general"

    def begin(self, *form: Any) -> list[Any]:
        try:
            run = self.studio.submit("tune", self.spec(*form))
        except StudioError as error:
            kept = [gr.skip(), *[gr.skip()] * len(self.data.previews), *self.slots({self._field_of(error): str(error)})]
            return kept + [gr.skip()] * (len(self.outputs) + 4)
        link = {"view": "finetune", "run": str(run.id)}
        after = [run.id, {"run": run.id}, gr.update(active=True), link]
        return [*[gr.skip()] * (1 + len(self.data.previews)), *self.slots({}), *self.view(run.id), *after]

    # -- the run

    def chosen(self, watching: int | None) -> Run | None:
        """The watched run if it is a fine-tuning, else the newest that is live, else the newest."""
        tunes = [run for run in self.studio.runs() if run.kind == "tune"]
        found = [run for run in tunes if run.id == watching] or [run for run in tunes if run.status.is_live] or tunes
        return found[0] if found else None

    def view(self, watching: int | None, sort: str = "step", shown: int = 20) -> list[Any]:
        """The right side: state, numbers, curves, references, dropped rows."""
        run = self.chosen(watching)
        if run is None:
            return [tuning_cards.nothing(), *self.watched.nothing()]
        return [run_cards.live(run, 0), *self.watched.view(run, sort, shown)]
