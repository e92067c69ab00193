"""Where the fine-tune moved: a heat map of the task vector, read from the weights when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app import heatmap, text
from app.tree import note
from app.web import pareto, sheet
from backend.errors import StudioError

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
WHAT = [("how far (distance)", "distance"), ("which way (cosine)", "cosine")]


class Layers:
    """A closed box with a button, a choice of number, and the map."""

    def __init__(self, studio: Any) -> None:
        self.studio = studio
        with gr.Accordion("Where the fine-tune moved, layer by layer", open=False, elem_id="layers"):
            self.words = sheet(note(text.MAP_HELP), live=True, elem_id="layers-words")
            self.start = gr.Button("Compare the weights", size="sm")
            self.what = gr.Radio(WHAT, value="distance", show_label=False, container=False, visible=False)
            self.plot = pareto(elem_id="layers-plot", visible=False)

    @property
    def outputs(self) -> list[Any]:
        return [self.words, self.what, self.plot]

    def wire(self, aligned: Any, tuned: Any) -> None:
        """Listen; a new pair makes the map void."""
        asked = [aligned, tuned, self.what]
        for listener in (self.start.click, self.what.input):
            listener(self.show, asked, self.outputs, concurrency_id="layers", concurrency_limit=1, **HIDDEN)
        for field in (aligned, tuned):
            field.change(self.clear, None, self.outputs, **HIDDEN)

    def clear(self) -> tuple[Any, ...]:
        return note(text.MAP_HELP), gr.update(visible=False), gr.update(visible=False, value=None)

    def show(self, aligned: str, tuned: str, what: str) -> Iterator[tuple[Any, ...]]:
        """First that it is being read, then the map."""
        yield note(text.MAP_READING), gr.skip(), gr.skip()
        try:
            changes = self.studio.task_vector(aligned or "", tuned or "")
        except StudioError as error:
            yield note(str(error), "error"), gr.update(visible=False), gr.update(visible=False, value=None)
            return
        drawn = heatmap.heatmap(changes, what)
        yield note(text.moved_most(changes)), gr.update(visible=True), gr.update(visible=True, value=drawn)
