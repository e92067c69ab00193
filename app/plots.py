"""Points → figures, as plain JSON for plotly.js. Pure: no plotly, no Gradio, no statistics of our own.

Colours that depend on light or dark are names like "@ink"; the browser fills them in. x is the task score, y the
safety, both in percent; over-refusal lies in a strip below on the same x. Every marker carries its point's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import text
from backend.types import Frontier, Point, Run, Score

# Okabe–Ito hues, the ones with most contrast first; a series takes one hue and one shape, so colour is never alone.
# They are names, since each is a little lighter in the dark; "~" behind a name asks for a faint version.
HUES = ("@blue", "@vermilion", "@green", "@purple", "@orange", "@sky", "@yellow", "@grey")
SHAPES = ("circle", "square", "triangle-up", "star", "hexagon", "cross", "triangle-down", "x")
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
    series = sorted({point.run for point in drawn})
    judges = {run: text.judge(runs.get(run)) for run in series}
    for number, run in enumerate(series):
        mine = sorted((p for p in drawn if p.run == run), key=lambda p: p.coefficients.get("lambda", 0.0))
        hue, shape = HUES[number % len(HUES)], SHAPES[number % len(SHAPES)]
        data += _series(mine, judges, _name(mine[0], runs.get(run)), hue, shape, front, minimum)
    data += _anchors(drawn, runs)
    chosen = next((point for point in drawn if point.id == selected), None)
    if chosen:
        data.append(_ring(chosen))
    layout = _layout(height, drawn)
    layout["annotations"] += _flags(drawn, points, runs, frontier)
    if minimum > 0:
        layout["shapes"] = [_line(minimum)]
        layout["annotations"].append(_line_label(minimum))
    summary = text.summary(points, frontier, runs, minimum)
    return {"figure": {"data": data, "layout": layout}, "height": height, "summary": summary, "narrow": text.NARROW}


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


def _name(point: Point, run: Run | None) -> str:
    tuned = str(run.spec.get("tuned", "")).split("/")[-1] if run else ""
    preset = f", run {point.run}" if run and not run.stored else ""
    return text.plain(f"{point.method} · {tuned}{preset}" if tuned else f"{point.method}, run {point.run}")


def _xy(points: Sequence[Point], axis: str = "safety") -> dict[str, Any]:
    return {
        "x": [percent(point.scores["task"]) for point in points],
        "y": [percent(point.scores[axis]) for point in points],
    }


def _whiskers(points: Sequence[Point], axis: str, colour: str) -> dict[str, Any]:
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


def _series(
    points: Sequence[Point], judges: Mapping[int, str], name: str, hue: str, shape: str, front: set[int], minimum: float
) -> list[dict[str, Any]]:
    """One run: its path in λ order, its markers with whiskers, and the same points on the over-refusal strip."""
    path = {"type": "scatter", "mode": "lines", **_xy(points), "line": {"color": hue, "width": 1.2, "dash": "dot"}}
    inner = [point for point in points if not point.anchor]
    traces = [{**path, "opacity": 0.75, "legendgroup": name, **HIDE}]
    if inner:
        traces.append({
            "type": "scatter",
            "mode": "markers",
            **_xy(inner),
            "name": name,
            "legendgroup": name,
            "customdata": [point.id for point in inner],
            "hovertext": [text.hover(point, judges.get(point.run, "")) for point in inner],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "error_x": _whiskers(inner, "task", f"{hue}~"),
            "error_y": _whiskers(inner, "safety", f"{hue}~"),
            "marker": _markers(inner, hue, shape, front, minimum),
            "selected": {"marker": {"opacity": 1}},
            "unselected": {"marker": {"opacity": 0.25}},
        })  # fmt: skip
    strip = [point for point in points if "over_refusal" in point.scores]
    if strip:
        traces.append({
            "type": "scatter",
            "mode": "lines+markers",
            **_xy(strip, "over_refusal"),
            "yaxis": "y2",
            "legendgroup": name,
            "showlegend": False,
            "customdata": [point.id for point in strip],
            "hovertext": [text.hover(point, judges.get(point.run, "")) for point in strip],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "error_y": _whiskers(strip, "over_refusal", f"{hue}~"),
            "line": {"color": hue, "width": 1},
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
            "error_x": _whiskers(anchors, "task", "@muted"),
            "error_y": _whiskers(anchors, "safety", "@muted"),
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
        return [_words(text.NO_POINTS_YET if runs else text.NOTHING_HERE)]
    if frontier is None or frontier.knee is None:
        return []
    knee = points[frontier.knee]
    x, y = percent(knee.scores["task"]), percent(knee.scores["safety"])
    left = x < 55
    return [
        {
            **{"x": x, "y": y, "xref": "x", "yref": "y", "text": text.KNEE_FLAG, "showarrow": True, "arrowhead": 0},
            **{"ax": 40 if left else 24, "ay": -46 if y < 84 else 52, "xanchor": "left" if left else "right"},
            **{"arrowwidth": 1.2, "arrowcolor": "@ink", "standoff": 9, "bgcolor": "@panel", "bordercolor": "@ink"},
            **{"borderpad": 4, "font": {"color": "@ink", "size": 12}},
        }
    ]


def _words(words: str) -> dict[str, Any]:
    where = {"xref": "paper", "yref": "y", "x": 0.5, "y": 50, "showarrow": False}
    return {**where, "text": words, "font": {"color": "@muted", "size": 14}}


def _line(minimum: float) -> dict[str, Any]:
    line = {"color": "@accent", "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": minimum, "y1": minimum, "line": line}


def _line_label(minimum: float) -> dict[str, Any]:
    return {
        "xref": "paper", "x": 0.005, "xanchor": "left", "yref": "y", "y": minimum, "yanchor": "bottom",
        "text": text.MINIMUM_LINE.format(minimum=minimum), "showarrow": False,
        "font": {"color": "@accent", "size": 12},
    }  # fmt: skip


def _layout(height: int, points: Sequence[Point]) -> dict[str, Any]:
    axis = {
        "range": [-3, 104],
        "gridcolor": "@grid",
        "zeroline": False,
        "linecolor": "@muted",
        "ticks": "outside",
        "tickcolor": "@muted",
        "ticklen": 4,
        "tickvals": [0, 20, 40, 60, 80, 100],
        "tickfont": {"color": "@muted"},
        "fixedrange": False,
    }
    worst = max([100 * p.scores["over_refusal"].high for p in points if "over_refusal" in p.scores], default=10.0)

    def title(words: str) -> dict[str, Any]:
        return {"text": words, "font": {"color": "@ink", "size": 13}, "standoff": 8}

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
        "xaxis": {**axis, "title": title(text.X_AXIS), "anchor": "y2"},
        "yaxis": {**axis, "title": title(text.Y_AXIS), "domain": [0.27, 1]},
        "yaxis2": {
            **axis,
            "title": title(text.STRIP_AXIS),
            "domain": [0, 0.17],
            "range": [-0.08 * worst, 1.1 * worst],
            "tickvals": None,
            "nticks": 3,
        },
        "annotations": [],
        "shapes": [],
    }
