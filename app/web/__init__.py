"""The page's own components: the linked plot, trees of safe text, the λ slider and the address bar.

Each is a `gr.HTML` with a constant template: Gradio compiles templates, so data must never reach one. Values travel as
JSON and `studio.js` builds the DOM with `textContent`. A listener's event name must stand in quotes in `js_on_load`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gradio as gr
import plotly

FOLDER = Path(__file__).parent
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def head() -> str:
    """Styles and scripts for the page's head: one local file for plotly, the rest inline; nothing from another host."""
    gr.set_static_paths([PLOTLY])
    style, script = (FOLDER / "studio.css").read_text("utf-8"), (FOLDER / "studio.js").read_text("utf-8")
    return f'<script src="gradio_api/file={PLOTLY}"></script>\n<style>{style}</style>\n<script>{script}</script>'


def own(kind: str, value: Any, events: tuple[str, ...], **options: Any) -> gr.HTML:
    """A `gr.HTML` that `studio.<kind>` of web/studio.js draws; a subclass would make gradio write a stub file here."""
    server = "server: typeof server === 'undefined' ? null : server"
    return gr.HTML(
        value,
        html_template=f'<div class="studio-{kind}"></div>',
        js_on_load=f"studio.{kind}({{element, props, trigger, watch, {server}}}, {list(events)!r});",
        apply_default_css=False,
        **options,
    )


def pareto(export: Callable[[str, list[int]], str] | None = None, **options: Any) -> gr.HTML:
    """The plot of `plots.pareto(...)`; sends `pick` {key} and `area` {keys}; tables to save come from `export`."""

    def export_points(wanted: dict[str, Any]) -> str:  # the browser sends one argument
        return export(str(wanted["form"]), list(wanted["points"])) if export else ""

    return own("plot", None, ("pick", "area"), server_functions=[export_points] if export else None, **options)


def lines(**options: Any) -> gr.HTML:
    """The stacked charts of `curves.curves(...)`; nothing is drawn, and no room taken, while the value is None."""
    return own("curves", None, (), **options)


def sheet(value: Any = None, *, live: bool = False, **options: Any) -> gr.HTML:
    """A `tree.Tree` on the page; its buttons and rows send `act` {name, key}. `live` announces every change."""
    return own("live" if live else "tree", value, ("act",), **options)


def knob(walk: Callable[..., Any], walk_on: Callable[..., Any], value: dict[str, Any], **options: Any) -> gr.HTML:
    """λ as a slider with ticks at measured values, and what its movements draw.

    The browser asks `walk` for the first words at a new λ and `walk_on` for what follows, one call at a time, and draws
    the trees itself: an event would have the whole page rendered again.
    """

    def first(asked: dict[str, Any]) -> dict[str, Any]:
        return cast("dict[str, Any]", walk(asked))

    def more(asked: dict[str, Any]) -> dict[str, Any]:
        return cast("dict[str, Any]", walk_on(asked))

    return own("knob", value, (), server_functions=[first, more], **options)


def address(label: str, **options: Any) -> gr.HTML:
    """A Copy link button; a value like {"view": "runs"} is merged into the query of the address bar."""
    return own("address", {"label": label}, (), **options)
