"""What a fine-tuning shows while it runs and after: the same block on the Finetune and the Runs page."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import curves, tuning_cards
from app import tuning_text as words
from app.tree import el, fold, group, note
from app.web import lines, sheet
from backend.errors import StudioError
from backend.types import Run, RunStatus

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}


class TuningView:
    """Numbers, curves, references and dropped rows of one run."""

    def __init__(self, studio: Any, telemetry: Any, name: str) -> None:
        self.studio, self.telemetry = studio, telemetry
        self.sort, self.shown = gr.State("step"), gr.State(20)
        self.run = gr.State(None)
        self.vitals = sheet(elem_id=f"{name}-vitals")
        self.curves = lines(elem_id=f"{name}-curves")
        self.result = sheet(elem_id=f"{name}-result")
        self.references = sheet(elem_id=f"{name}-references")
        self.dropped = sheet(elem_id=f"{name}-dropped")
        self.dropped.act(self.act, [self.run, self.sort, self.shown], [self.sort, self.shown, self.dropped], **HIDDEN)

    @property
    def outputs(self) -> list[Any]:
        return [self.run, self.vitals, self.curves, self.result, self.references, self.dropped]

    def nothing(self) -> list[Any]:
        return [None] * len(self.outputs)

    def view(self, run: Run | None, sort: str = "step", shown: int = 20) -> list[Any]:
        """Everything about a fine-tuning; nothing about a run of another kind."""
        if run is None or run.kind != "tune":
            return self.nothing()
        try:
            found = self.telemetry.read(run)
        except StudioError as error:
            return [run.id, note(str(error), "error"), *[None] * 4]
        figure = curves.curves(found, keep_tokens(run))
        waiting = note(words.NO_STEPS) if run.status.is_live and figure is None else None
        return [
            run.id,
            tuning_cards.vitals(found) or waiting,
            figure,
            self._result(run),
            tuning_cards.references(found.get("references") or [], found["replaced"]),
            tuning_cards.dropped(found.get("dropped") or [], found.get("counts") or {}, sort, shown),
        ]

    def _result(self, run: Run) -> Any:
        if run.status == RunStatus.FAILED:
            log = el("pre", self.studio.log(run.id, lines=40) or "(empty)", tabindex="0")
            return group([fold("Log", log, key=f"tune-log-{run.id}")])
        return tuning_cards.finished(run)

    def act(self, run: int | None, sort: str, shown: int, event: gr.EventData) -> tuple[Any, Any, Any]:
        """A heading sorts, a button shows the rest."""
        name, key = event._data["name"], event._data["key"]
        sort, shown = (str(key), shown) if name == "sort" else (sort, int(key))
        found = self.telemetry.read(self.studio.run(run)) if run is not None else {}
        return sort, shown, tuning_cards.dropped(found.get("dropped") or [], found.get("counts") or {}, sort, shown)


def keep_tokens(run: Run) -> float | None:
    """The share of answer tokens that the run was asked to keep, where its strategy has such a target."""
    given = {**dict(run.recipe.get("parameters") or {}), **dict(run.spec.get("parameters") or {})}
    return given.get("keep_tokens")
