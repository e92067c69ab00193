"""Runs: everything that was or is being computed, with progress, log, cancel and restart."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import run_cards
from app.pages.tuning_view import TuningView
from app.tree import note
from app.web import sheet
from backend.errors import StudioError

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Any, shell: Any) -> Runs:
    """Build the page inside the open tab."""
    return Runs(studio, shell)


class Runs:
    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio = studio
        self.chosen = gr.State(None)
        with gr.Row(elem_classes="studio-row"):
            with gr.Column(scale=6, min_width=320, elem_classes="s-panel"):
                self.table = sheet(elem_id="runs")
            with gr.Column(scale=6, min_width=300, elem_classes="s-panel"):
                self.detail = sheet(elem_id="run")
                self.watched = TuningView(studio, shell.telemetry, "run-tune")
        self.table.act(self.choose, None, [self.chosen, *self.outputs, shell.address], **HIDDEN)

    @property
    def outputs(self) -> list[Any]:
        return [self.table, self.detail, *self.watched.outputs]

    def choose(self, event: gr.EventData) -> tuple[Any, ...]:
        chosen = int(event._data["key"])
        return chosen, *self.view(chosen), {"view": "runs", "run": str(chosen)}

    def view(self, chosen: int | None, sort: str = "step", shown: int = 20) -> tuple[Any, ...]:
        """The table, the chosen run (else the newest live one, else the newest) and what it reports."""
        runs = self.studio.runs()
        if chosen is None and runs:
            chosen = next((run.id for run in runs if run.status.is_live), runs[0].id)
        run = next((run for run in runs if run.id == chosen), None)
        return run_cards.run_table(runs, chosen), self._detail(chosen), *self.watched.view(run, sort, shown)

    def _detail(self, chosen: int | None) -> Any:
        if chosen is None:
            return None
        try:
            run = self.studio.run(chosen)
            return run_cards.run_detail(run, len(self.studio.points([chosen])), self.studio.log(chosen, lines=60))
        except StudioError as error:
            return note(str(error), "error")
