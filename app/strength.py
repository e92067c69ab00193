"""The same points against how far they walked, so that methods are compared at equal strength. Pure, plain JSON.

Equal λ is not equal effect: TIES keeps a part of the task vector, DARE rescales it. The strength of a merge is its
projection on the task vector, 0 at the aligned model and 1 at the fine-tuned one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import text
from app.plots import HIDE, frame, percent, whiskers
from app.series import Series, paths_of, series_of
from backend.types import Point, Run

EDGE = {"color": "@ink", "width": 0.8}


def other(points: Sequence[Point], runs: Mapping[int, Run], *, height: int = 600) -> dict[str, Any]:
    """What the plot shows when "at equal strength" is pressed; nothing where no point says its strength."""
    measured = [p for p in points if "task" in p.scores and "safety" in p.scores]
    drawn = [p for p in measured if p.projection is not None]
    if not drawn:
        return {}
    without = len(measured) - len(drawn)
    left_out = text.STRENGTH_LEFT_OUT.format(count=without) if without else ""
    data = [trace for series in series_of(drawn, runs) for trace in _traces(series)]
    layout = frame(height)
    walked = [point.projection or 0.0 for point in drawn]
    axis = layout["xaxis"]
    room = 0.03 * max(1.0, max(walked) - min(0.0, min(walked)))
    layout["xaxis"] = {
        **axis,
        "title": {**axis["title"], "text": text.STRENGTH_AXIS + left_out},
        "range": [min(0.0, *walked) - room, max(1.0, *walked) + room],
        "tickvals": None,
        "nticks": 6,
    }
    for name, words, domain in (("yaxis", text.Y_SHORT, [0.54, 1]), ("yaxis2", text.X_STRIP, [0, 0.46])):
        one = layout[name]
        layout[name] = {**layout["yaxis"], "title": {**one["title"], "text": words}, "domain": domain}
    narrow = {"xaxis": text.STRENGTH_NARROW + left_out, "yaxis": text.NARROW["yaxis"], "yaxis2": text.NARROW_TASK}
    return {"other": {"data": data, "layout": layout}, "other_narrow": narrow}


def _traces(series: Series) -> list[dict[str, Any]]:
    """Safety above and the task below, joined where the points lie on a path."""
    traces = []
    for axis, panel in (("safety", {}), ("task", {"yaxis": "y2"})):
        lines: dict[str, list[float | None]] = {"x": [], "y": []}
        for path in paths_of(series.points):
            lines["x"] += [*(point.projection for point in path), None]
            lines["y"] += [*(percent(point.scores[axis]) for point in path), None]
        line = {"color": series.hue, "width": 1.2, "dash": "dot"}
        group = {"legendgroup": series.name, **panel}
        traces.append({"type": "scatter", "mode": "lines", **lines, "line": line, **HIDE, **group})
        traces.append({
            "type": "scatter",
            "mode": "markers",
            "x": [point.projection for point in series.points],
            "y": [percent(point.scores[axis]) for point in series.points],
            "name": series.name,
            "showlegend": axis == "safety",
            "customdata": [point.id for point in series.points],
            "hovertext": [text.hover(point, series.judge) for point in series.points],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "error_y": whiskers(series.points, axis, f"{series.hue}~"),
            "marker": {"symbol": series.shape, "size": 10, "color": series.hue, "line": EDGE},
            **group,
        })  # fmt: skip
    return traces
