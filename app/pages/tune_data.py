"""Which rows a fine-tuning learns from and which protect it: the demo's sets, files of a person's own, and previews."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from app import tuning_cards, uploads
from app import tuning_text as words
from app.tree import Tree, el
from app.web import sheet
from backend.errors import StudioError

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
ROLES = {"task_data": "task", "references": "references"}


class TuneData:
    """A drop-down, a file and a preview for task data and for references; `choose` makes a labelled drop-down."""

    def __init__(self, studio: Any, sets: Sequence[Mapping[str, Any]], choose: Callable[..., gr.Dropdown]) -> None:
        self.studio = studio
        self.known = {one["name"]: one for one in sets}
        self.files: dict[str, gr.File] = {}
        self.sets: dict[str, gr.Dropdown] = {}
        self.previews: dict[str, gr.HTML] = {}
        self.panes: dict[str, gr.Column] = {}
        for field in ROLES:
            with gr.Column(elem_classes="studio-column") as self.panes[field]:
                self._pane(field, choose)
        task, own = self.sets["task_data"], self.files["task_data"]
        for changed in (task, own):
            changed.change(self.suggest, [task, own, self.sets["references"]], self.sets["references"], **HIDDEN)

    def _pane(self, field: str, choose: Callable[..., gr.Dropdown]) -> None:
        found = self.names(field)
        self.sets[field] = choose(field, found, allow_custom_value=True)
        self.previews[field] = sheet(live=True, elem_id=f"preview-{field}")
        with gr.Accordion(f"Use my own {words.LABELS[field][0].lower()}", open=False):
            self.files[field] = gr.File(
                label="JSONL, CSV or Parquet", file_types=uploads.CHOOSABLE, type="filepath", height=110,
                elem_id=f"file-{field}",
            )  # fmt: skip
            sheet(el("p", words.OWN_DATA, cls="s-quiet"))

    def names(self, field: str) -> list[str]:
        """The sets of the catalogue for this field, the one to show first in front."""
        found = [name for name, one in self.known.items() if one.get("role") == ROLES[field]]
        return sorted(found, key=lambda name: not name.endswith("tool-mixed"))

    @property
    def inputs(self) -> list[Any]:
        return [*self.sets.values(), *self.files.values()]

    def suggest(self, task_data: str, own_task: str | None, references: str | None) -> Any:
        """The demo's references beside the demo's task data; they say nothing of what a person's own data teach."""
        ours = next(iter(self.names("references")), None)
        demo = task_data in self.known and not own_task
        if demo and not references:
            return gr.update(value=ours)
        return gr.update(value=None) if references and references == ours and not demo else gr.skip()

    def request(self, task_data: str, references: str, own_task: str | None, own_references: str | None,
                *, needs_references: bool) -> dict[str, Any]:  # fmt: skip
        """Both fields, an uploaded file before a chosen set; references only where the strategy reads them."""
        named = {"task_data": (task_data, own_task), "references": (references, own_references)}
        if not needs_references:
            del named["references"]
        return {
            field: uploads.handed_on(path, field) if path else chosen or "" for field, (chosen, path) in named.items()
        }

    def shown(self, *form: Any) -> list[Tree | None]:
        """Five rows of an uploaded file, else a sentence about the chosen set."""
        trees = []
        for field, chosen, path in zip(self.sets, form[:2], form[2:], strict=True):
            try:
                found = self.studio.preview_data(uploads.handed_on(path, field), field=field) if path else None
            except StudioError:
                found = None  # the plan says why, at the field
            own = tuning_cards.preview(uploads.title(path), found) if found else None
            trees.append(own if path else tuning_cards.data_set(self.known.get(chosen)))
        return trees

    def training(self, task_data: str | None) -> dict[str, Any]:
        """How a set wants to be trained; nothing of data that the catalogue does not know."""
        return dict(self.known.get(task_data or "", {}).get("training") or {})
