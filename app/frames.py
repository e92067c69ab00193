"""What every figure of the page shares: fonts, colours, axes, lines and words on it. Pure: no plotly, no Gradio.

Colours that depend on light or dark are names like "@ink"; the browser fills them in (web/studio.js).
"""

from __future__ import annotations

from typing import Any


def frame(height: int) -> dict[str, Any]:
    """A layout without axes: fonts, background, hover box, legend above."""
    return {
        "height": height,
        "margin": {"l": 62, "r": 16, "t": 64, "b": 54},
        "font": {"family": "@font", "color": "@ink", "size": 12},
        "paper_bgcolor": "@panel",
        "plot_bgcolor": "@panel",
        "uirevision": "steady",
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "@panel",
            "bordercolor": "@ink",
            "align": "left",
            "font": {"color": "@ink", "size": 12},
        },
        "dragmode": "zoom",
        "clickmode": "event",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        "annotations": [],
        "shapes": [],
    }


def axis(**more: Any) -> dict[str, Any]:
    """A quiet axis with ticks outside; `more` is plotly's."""
    return {
        "gridcolor": "@grid",
        "zeroline": False,
        "linecolor": "@muted",
        "ticks": "outside",
        "tickcolor": "@muted",
        "ticklen": 4,
        "tickfont": {"color": "@muted"},
        "fixedrange": False,
        **more,
    }


def title(words: str) -> dict[str, Any]:
    """An axis title."""
    return {"text": words, "font": {"color": "@ink", "size": 13}, "standoff": 8}


def sentence(words: str, y: float = 50) -> dict[str, Any]:
    """Words in the middle, where there is nothing to draw."""
    where = {"xref": "paper", "yref": "y", "x": 0.5, "y": y, "showarrow": False}
    return {**where, "text": words, "font": {"color": "@muted", "size": 14}}


def level(y: float, axis: str = "y", colour: str = "@accent") -> dict[str, Any]:
    """A dashed line across the plot."""
    line = {"color": colour, "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": y, "y1": y, "line": line}


def level_label(y: float, words: str, axis: str = "y", colour: str = "@accent") -> dict[str, Any]:
    """What the dashed line means, at its left end."""
    return {
        "xref": "paper", "x": 0.005, "xanchor": "left", "yref": axis, "y": y, "yanchor": "bottom", "text": words,
        "showarrow": False, "font": {"color": colour, "size": 12},
    }  # fmt: skip
