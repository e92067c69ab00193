"""Points → figures, as plain JSON for plotly.js. Pure: no plotly, no Gradio, no statistics of our own.

Colours that depend on light or dark are names like "@ink"; the browser fills them in. x is the task score, y the
safety, both in percent; over-refusal lies in a strip below on the same x. Every marker carries its point's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import shading, text
from app.frames import axis, level, level_label, sentence, title
from app.frames import frame as canvas
from app.series import Series, paths_of, series_of
from backend.types import Frontier, Point, Run, Score

HIDE: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}


def pareto(
    points: Sequence[Point],
    runs: Mapping[int, Run],
    frontier: Frontier | None,
    *,
    minimum: float = 0.0,
    selected: int | None = None,
    height: int = 600,
) -> dict[str, Any]:
    """The plot component's value. `minimum` is the smallest safety in percent that is acceptable; 0 turns it off."""
    drawn = [point for point in points if "task" in point.scores and "safety" in point.scores]
    front = {points[i].id for i in frontier.front} if frontier else set()
    data: list[dict[str, Any]] = []
    if frontier and front:
        data.append(_staircase([points[i] for i in frontier.front], frontier.reference))
    for series in series_of(drawn, runs):
        data += _series(series, front, minimum)
    data += _anchors(drawn, runs)
    chosen = next((point for point in drawn if point.id == selected), None)
    if chosen:
        data.append(_ring(chosen))
    layout = frame(height, drawn)
    layout["annotations"] += _flags(drawn, points, runs, frontier)
    if minimum > 0:
        layout["shapes"] = [level(minimum)]
        layout["annotations"].append(level_label(minimum, text.MINIMUM_LINE.format(minimum=minimum)))
    summary = text.summary(points, frontier, runs, minimum)
    shades = shading.over_refusal(data, drawn)
    figure = {"data": data, "layout": layout}
    return {"figure": figure, "height": height, "summary": summary, "narrow": text.NARROW, "shades": shades}


def percent(score: Score) -> float:
    """A share as the plot shows it."""
    return 100 * (score.value or 0.0)


def feasibility(point: Point, minimum: float) -> str:
    """Where the point's safety interval lies against `minimum` percent: "above", "across" or "below"."""
    score = point.scores.get("safety")
    if minimum <= 0 or score is None:
        return "above"
    if 100 * score.high < minimum:
        return "below"
    return "above" if 100 * score.low >= minimum else "across"


def _xy(points: Sequence[Point], axis: str = "safety") -> dict[str, Any]:
    return {
        "x": [percent(point.scores["task"]) for point in points],
        "y": [percent(point.scores[axis]) for point in points],
    }


def _joined(points: Sequence[Point], axis: str = "safety") -> dict[str, Any]:
    """The coordinates of all paths, a gap between two of them."""
    found: dict[str, Any] = {"x": [], "y": []}
    for path in paths_of(points):
        for side, values in _xy(path, axis).items():
            found[side] += [*([None] if found[side] else []), *values]
    return found


def whiskers(points: Sequence[Point], axis: str, colour: str) -> dict[str, Any]:
    """The 95 % intervals of one axis as plotly's error bars."""
    scores = [point.scores[axis] for point in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, 100 * score.high - percent(score)) for score in scores],
        "arrayminus": [max(0.0, percent(score) - 100 * score.low) for score in scores],
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def _series(series: Series, front: set[int], minimum: float) -> list[dict[str, Any]]:
    """One series: its paths, its markers with whiskers, and the same points on the over-refusal strip."""
    name, points, hue, shape, judge = series
    path: dict[str, Any] = {"type": "scatter", "mode": "lines", **_joined(points)}
    line = {"color": hue, "width": 1.2, "dash": "dot"}
    inner = [point for point in points if not point.anchor]
    traces = [{**path, "line": line, "opacity": 0.75, "legendgroup": name, **HIDE}]
    if inner:
        traces.append({
            "type": "scatter",
            "mode": "markers",
            **_xy(inner),
            "name": name,
            "legendgroup": name,
            "customdata": [point.id for point in inner],
            "hovertext": [text.hover(point, judge) for point in inner],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "error_x": whiskers(inner, "task", f"{hue}~"),
            "error_y": whiskers(inner, "safety", f"{hue}~"),
            "marker": _markers(inner, hue, shape, front, minimum),
            "selected": {"marker": {"opacity": 1}},
            "unselected": {"marker": {"opacity": 0.25}},
        })  # fmt: skip
    strip = [point for point in points if "over_refusal" in point.scores]
    if strip:
        joined = {**_joined(strip, "over_refusal"), "mode": "lines", "line": {"color": hue, "width": 1}}
        traces.append({"type": "scatter", **joined, "yaxis": "y2", "legendgroup": name, **HIDE})
        traces.append({
            "type": "scatter",
            "mode": "markers",
            **_xy(strip, "over_refusal"),
            "yaxis": "y2",
            "legendgroup": name,
            "showlegend": False,
            "customdata": [point.id for point in strip],
            "hovertext": [text.hover(point, judge) for point in strip],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "error_y": whiskers(strip, "over_refusal", f"{hue}~"),
            "marker": {"color": hue, "symbol": shape, "size": 7, "line": {"color": "@ink", "width": 0.8}},
        })  # fmt: skip
    return traces


def _markers(points: Sequence[Point], hue: str, shape: str, front: set[int], minimum: float) -> dict[str, Any]:
    """Filled on the front, hollow when dominated, grey below the minimum safety and half so across it."""
    fill, edge, opacity, width = [], [], [], []
    for point in points:
        state, on_front = feasibility(point, minimum), point.id in front
        colour = "@off" if state == "below" else hue
        fill.append(colour if on_front else "@panel")
        edge.append("@ink" if on_front and state != "below" else colour)
        width.append(1.2 if on_front else 2)
        opacity.append({"above": 1.0, "across": 0.5, "below": 0.6}[state])
    return {"symbol": shape, "size": 12, "color": fill, "opacity": opacity, "line": {"color": edge, "width": width}}


def _anchors(points: Sequence[Point], runs: Mapping[int, Run]) -> list[dict[str, Any]]:
    """The ends of the paths as labelled diamonds; the aligned model that several runs share is drawn once."""
    seen: dict[tuple[Any, ...], Point] = {}
    for point in points:
        if point.anchor:
            run = runs.get(point.run)
            which = str(run.spec.get("aligned" if point.anchor == "aligned" else "tuned", "")) if run else ""
            xy = (round(percent(point.scores["task"]), 3), round(percent(point.scores["safety"]), 3))
            seen.setdefault((point.anchor, which, *xy), point)
    if not seen:
        return []
    anchors = list(seen.values())
    names = [text.ANCHORS[kind] if kind == "aligned" else which.split("/")[-1] for kind, which, *_ in seen]
    judges = {point.run: text.judge(runs.get(point.run)) for point in anchors}
    labels, places = _labels(anchors, [text.plain(name) for name in names])
    return [
        {
            "type": "scatter",
            "mode": "markers+text",
            **_xy(anchors),
            "name": text.ANCHOR_LEGEND,
            "text": labels,
            "textposition": places,
            "textfont": {"color": "@ink", "size": 12},
            "cliponaxis": False,
            "customdata": [point.id for point in anchors],
            "hovertext": [text.hover(point, judges.get(point.run, "")) for point in anchors],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "error_x": whiskers(anchors, "task", "@muted"),
            "error_y": whiskers(anchors, "safety", "@muted"),
            "marker": {"symbol": "diamond", "size": 15, "color": "@ink", "line": {"color": "@panel", "width": 1.5}},
        }
    ]


def _labels(anchors: Sequence[Point], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """One label for anchors that lie on each other, and the side of the marker with most room."""
    labels, places = list(names), []
    for i, point in enumerate(anchors):
        x, y = percent(point.scores["task"]), percent(point.scores["safety"])
        for j in range(i):
            other = anchors[j].scores
            if labels[j] and abs(percent(other["task"]) - x) < 14 and abs(percent(other["safety"]) - y) < 6:
                labels[j], labels[i] = f"{labels[j]}, {labels[i]}", ""
                break
        places.append("top center" if y > 50 else "top left" if x > 60 else "top right")
    return labels, places


def _ring(point: Point) -> dict[str, Any]:
    marker = {"symbol": "circle-open", "size": 27, "color": "@accent", "line": {"width": 3, "color": "@accent"}}
    return {"type": "scatter", "mode": "markers", **_xy([point]), "marker": marker, "cliponaxis": False, **HIDE}


def _staircase(front: Sequence[Point], reference: tuple[float, float]) -> dict[str, Any]:
    """The edge of what the measured checkpoints dominate; a straight line would claim checkpoints nobody measured."""
    ordered = sorted(front, key=lambda point: percent(point.scores["task"]))
    x = [100 * reference[0], *(percent(point.scores["task"]) for point in ordered)]
    y = [percent(ordered[0].scores["safety"]), *(percent(point.scores["safety"]) for point in ordered)]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, x[-1]],
        "y": [*y, 100 * reference[1]],
        "name": text.FRONT_LEGEND,
        "line": {"shape": "vh", "color": "@ink", "width": 1.6},
        "fill": "tozeroy",
        "fillcolor": "@shade",
        "hoverinfo": "skip",
        "cliponaxis": True,
    }


def _flags(
    drawn: Sequence[Point], points: Sequence[Point], runs: Mapping[int, Run], frontier: Frontier | None
) -> list[dict[str, Any]]:
    if not drawn:
        return [sentence(text.NO_POINTS_YET if runs else text.NOTHING_HERE)]
    if frontier is None or frontier.knee is None:
        return []
    knee = points[frontier.knee]
    x, y = percent(knee.scores["task"]), percent(knee.scores["safety"])
    left, low = x < 55, y < 30  # the other points of a front lie above to the left and below to the right
    return [
        {
            **{"x": x, "y": y, "xref": "x", "yref": "y", "text": text.KNEE_FLAG, "showarrow": True, "arrowhead": 0},
            **{"ax": 40 if left else -30, "ay": -46 if low else 84, "xanchor": "left" if left else "right"},
            **{"arrowwidth": 1.2, "arrowcolor": "@ink", "standoff": 9, "bgcolor": "@panel", "bordercolor": "@ink"},
            **{"borderpad": 4, "font": {"color": "@ink", "size": 12}},
        }
    ]


def frame(height: int, points: Sequence[Point] = ()) -> dict[str, Any]:
    """The layout: two panels over one x axis."""
    share = axis(range=[-3, 104], tickvals=[0, 20, 40, 60, 80, 100])
    worst = max([100 * p.scores["over_refusal"].high for p in points if "over_refusal" in p.scores], default=10.0)
    strip = {"domain": [0, 0.17], "range": [-0.08 * worst, 1.1 * worst], "tickvals": None, "nticks": 3}
    return {
        **canvas(height),
        "xaxis": {**share, "title": title(text.X_AXIS), "anchor": "y2"},
        "yaxis": {**share, "title": title(text.Y_AXIS if height >= 600 else text.Y_SHORT), "domain": [0.27, 1]},
        "yaxis2": {**share, "title": title(text.STRIP_AXIS), **strip},
    }
