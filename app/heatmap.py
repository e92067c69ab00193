"""Where the fine-tune moved, as a heat map for plotly.js: layers down, modules across. Pure, plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app import text
from app.frames import frame
from backend.types import LayerChange

ORDER = ("q", "k", "v", "o", "gate", "up", "down", "norms", "embed", "head")
ROW, FRAME = 26, 120  # pixels of a layer, and of what is around all of them
MOST_WORDS = 14  # rows up to which a cell says its number
FAR = [[0, "@panel"], [1, "@accent"]]
WAYS = [[0, "@vermilion"], [0.5, "@panel"], [1, "@blue"]]


def heatmap(changes: Sequence[LayerChange], what: str = "distance") -> dict[str, Any]:
    """The plot component's value; `what` is "distance" (‖δ‖/‖θ0‖ in percent) or "cosine" (of δ with θ0).

    A module that did not move has distance 0 and no cosine; one that a layer does not have is left out.
    """
    cells = {(one.tower, one.layer, one.module): one for one in changes}
    modules = sorted(dict.fromkeys(one.module for one in changes), key=_place)
    layers = sorted({(one.tower, one.layer) for one in changes}, key=_depth)
    rows = [[cells.get((*layer, module)) for module in modules] for layer in layers]
    values = [[_value(one, what) for one in row] for row in rows]
    largest = max((abs(value) for row in values for value in row if value is not None), default=0) or 1
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": modules,
        "y": [_layer(*layer) for layer in layers],
        "z": values,
        "zmin": 0 if what == "distance" else -largest,
        "zmax": largest,
        "colorscale": FAR if what == "distance" else WAYS,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertext": [[text.moved(one) for one in row] for row in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "ticks": "", "tickfont": {"color": "@muted"}, "len": 1},
    }
    if len(layers) <= MOST_WORDS:
        words = [[_words(value, what) for value in row] for row in values]
        trace |= {"text": words, "texttemplate": "%{text}", "showscale": False}
    height = FRAME + ROW * len(layers)
    return {
        "figure": {"data": [trace], "layout": _layout(height, text.MAP_TITLES[what])},
        "height": height,
        "summary": text.moved_most(changes),
        "fixed": True,
    }


def _value(one: LayerChange | None, what: str) -> float | None:
    if one is None:
        return None
    value = one.distance if what == "distance" else one.cosine
    return None if value is None else round(100 * value, 3) if what == "distance" else round(value, 4)


def _words(value: float | None, what: str) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if what == "distance" else f"{value:+.2f}"


def _place(module: str) -> tuple[int, str]:
    return (ORDER.index(module), "") if module in ORDER else (ORDER.index("norms"), module)


def _depth(row: tuple[str, int | None]) -> tuple[str, int]:
    """Outside the layers first, towers that see or hear last."""
    tower, layer = row
    return tower, -1 if layer is None else layer


def _layer(tower: str, layer: int | None) -> str:
    return tower or ("outside" if layer is None else f"layer {layer}")


def _layout(height: int, title: str) -> dict[str, Any]:
    axis = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", "tickfont": {"color": "@ink"}}
    axis |= {"fixedrange": True, "title": {"text": ""}}
    return frame(height) | {
        "margin": {"l": 62, "r": 8, "t": 58, "b": 20},
        "dragmode": False,
        "showlegend": False,
        "title": {"text": title, "font": {"size": 13, "color": "@ink"}, "x": 0.01, "y": 0.98, "yanchor": "top"},
        "xaxis": {**axis, "side": "top"},
        "yaxis": {**axis, "autorange": "reversed"},
        "annotations": [],
    }
