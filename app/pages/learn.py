"""Learn: a guided tour of ten minutes, with stored results to predict and links into the other pages."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import lesson
from app.web import sheet
from backend.types import Point, Run

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Any, shell: Any) -> Learn:
    """Build the page inside the open tab."""
    return Learn(studio, shell)


class Learn:
    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio = studio
        with gr.Column(elem_classes="s-panel studio-column", elem_id="learn"):
            sheet(lesson.opening())
            self.guess = gr.Slider(0, 100, 50, step=1, label=lesson.QUESTION)
            self.reveal = gr.Button("Show what was measured", variant="primary", elem_id="reveal")
            self.answer = sheet(live=True, elem_id="measured")
            self.tour = sheet(elem_id="tour")
        self.reveal.click(self.measure, self.guess, self.answer, **HIDDEN)

    @property
    def outputs(self) -> list[Any]:
        return [self.tour]

    def example(self) -> Run | None:
        """The stored sweep the tour talks about: tool use, fine-tuned on mixed data, else another finished one."""
        sweeps = [run for run in self.studio.runs() if run.kind == "sweep" and not run.status.is_live]
        sweeps.sort(key=lambda run: (not run.stored, not str(run.spec.get("tuned")).endswith("tool-mixed-sft"), run.id))
        return sweeps[0] if sweeps else None

    def points(self) -> list[Point]:
        run = self.example()
        return self.studio.points([run.id]) if run else []

    def halfway(self) -> Point | None:
        return lesson.halfway(self.points())

    def measure(self, guess: float) -> Any:
        return lesson.measured(self.points(), guess)

    def view(self) -> Any:
        return lesson.tour(self.points(), self.example())
