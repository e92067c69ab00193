"""Telemetry of a fine-tuning → one figure of stacked panels over the same steps. Pure: no plotly, no Gradio.

A panel whose numbers do not apply to the strategy is not drawn. A refresh of the references is a mark through all
panels. Longer runs are thinned to what a screen can show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import tuning_text as words
from app.frames import axis, frame, level, level_label
from app.text import AXES
from backend.types import Score

MOST = 400
PANEL, PROBES, AROUND = 150, 210, 110  # heights in pixels
STYLE = {
    "safety": ("@blue", "circle", "solid"),
    "contaminated": ("@sky", "diamond", "longdash"),
    "task": ("@green", "square", "dash"),
    "over_refusal": ("@vermilion", "triangle-up", "dot"),
    "helpfulness": ("@purple", "star", "dashdot"),
}  # fmt: skip
Trace = dict[str, Any]


def curves(telemetry: Mapping[str, Any], target: float | None = None) -> dict[str, Any] | None:
    """The plot component's value, or None before the first step. `target` is the share of tokens to keep."""
    steps = thin(telemetry.get("steps") or [])
    probes, refreshes = telemetry.get("probes") or [], telemetry.get("refreshes") or []
    if not steps and not probes:
        return None
    drawn = {
        "loss": _line(steps, "loss_task", "@blue") + _line(steps, "loss_ref", "@vermilion", "dash"),
        "cosine": _cosine(steps),
        "kept": _line(steps, "kept_tokens", "@purple", scale=100, name=words.PANELS["kept"], legend=False),
        "stable": _stable(steps, refreshes),
        "probes": _probes(probes),
    }
    shown = {panel: traces for panel, traces in drawn.items() if traces}
    layout, data = _stacked(shown), []
    for number, (panel, traces) in enumerate(shown.items(), 1):
        side = "y" if number == 1 else f"y{number}"
        data += [{**trace, "yaxis": side} for trace in traces]
        if panel == "cosine":
            layout["shapes"].append(level(0, side, "@muted"))
        if panel == "kept" and target is not None:
            layout["shapes"].append(level(100 * target, side))
            layout["annotations"].append(level_label(100 * target, words.TARGET.format(share=100 * target), side))
    marks = [refresh for refresh in refreshes if "step" in refresh][-60:]
    layout["shapes"] += [_mark(refresh["step"]) for refresh in marks]
    if marks and steps:
        data.append(_mark_legend())
    return {"figure": {"data": data, "layout": layout}, "height": layout["height"], "summary": summary(telemetry)}


def thin(rows: Sequence[Mapping[str, Any]], most: int = MOST) -> list[Mapping[str, Any]]:
    """Every k-th row so that at most `most` and the newest remain.

    >>> [row["step"] for row in thin([{"step": n} for n in range(10)], most=4)]
    [0, 3, 6, 9]
    """
    stride = -(-len(rows) // most) if len(rows) > most else 1
    kept = list(rows[::stride])
    return kept if not rows or kept[-1] is rows[-1] else [*kept, rows[-1]]


def score(data: Mapping[str, Any]) -> Score:
    """A probe's score; both shares (0–1) and percent are read, told apart by the interval's upper end.

    >>> score({"value": 50.0, "low": 25.0, "high": 75.0, "n": 12}), score({"value": 0.5, "low": 0, "high": 1, "n": 2})
    (Score(value=0.5, low=0.25, high=0.75, n=12), Score(value=0.5, low=0, high=1, n=2))
    """
    return Score.from_json(dict(data)) if data["high"] > 1 else Score(*(data[k] for k in ("value", "low", "high", "n")))


def summary(telemetry: Mapping[str, Any]) -> str:
    """What the charts show, in a sentence, for those who cannot see them."""
    steps, probes = telemetry.get("steps") or [], telemetry.get("probes") or []
    said = []
    if steps:
        last = steps[-1]
        said.append(f"step {last['step']}")
        said += [f"{name} {last[key]:.3g}" for key, name in list(words.LINES.items())[:2] if key in last]
        if "cos_task_ref" in last:
            said.append(f"cosine {last['cos_task_ref']:.2f}, {words.direction(last['cos_task_ref'])}")
    if probes:
        said.append(words.probe({axis: score(found) for axis, found in probes[-1]["scores"].items()}))
    return "Training curves: " + ", ".join(said) + "."


def below_zero(x: Sequence[float], y: Sequence[float]) -> tuple[list[float | None], list[float | None]]:
    """The part of a line under zero, cut where it crosses; None breaks it.

    >>> below_zero([0, 1, 2], [1, -1, -2])
    ([0.5, 1, 2], [0.0, -1, -2])
    """
    xs: list[float | None] = []
    ys: list[float | None] = []
    for i, (here, value) in enumerate(zip(x, y, strict=True)):
        if i and (y[i - 1] < 0) != (value < 0):
            crossing = x[i - 1] + (here - x[i - 1]) * y[i - 1] / (y[i - 1] - value)
            xs, ys = [*xs, crossing], [*ys, 0.0]
            if value >= 0:
                xs, ys = [*xs, None], [*ys, None]
        if value < 0:
            xs, ys = [*xs, here], [*ys, value]
    return xs, ys


def _line(
    steps: Sequence[Mapping[str, Any]], key: str, hue: str, dash: str = "solid", *, scale: float = 1.0, name: str = "",
    legend: bool = True,
) -> list[Trace]:  # fmt: skip
    rows = [row for row in steps if row.get(key) is not None]
    if not rows:
        return []
    return [
        {
            "type": "scatter", "mode": "lines", "x": [row["step"] for row in rows],
            "y": [scale * row[key] for row in rows], "name": name or words.LINES[key], "showlegend": legend,
            "line": {"color": hue, "width": 1.8, "dash": dash}, "hovertemplate": "step %{x}: %{y:.3g}<extra></extra>",
        }
    ]  # fmt: skip


def _cosine(steps: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """The whole line, and once more in red where the task fights safety."""
    whole = _line(steps, "cos_task_ref", "@green", legend=False)
    if not whole:
        return []
    x, y = below_zero(whole[0]["x"], whole[0]["y"])
    red = {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": words.FIGHTS, "hoverinfo": "skip"}
    red |= {"line": {"color": "@bad", "width": 3}, "fill": "tozeroy", "fillcolor": "@bad~"}
    return [*whole, {**red, "showlegend": True}] if x else whole


def _stable(steps: Sequence[Mapping[str, Any]], refreshes: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """How much of the reference set stayed, as a staircase from refresh to refresh."""
    found = [(r["step"], r["jaccard"], _why(r)) for r in refreshes if r.get("jaccard") is not None]
    found = found or [(row["step"], row["ref_jaccard"], "") for row in steps if row.get("ref_jaccard") is not None]
    if not found:
        return []
    last = steps[-1]["step"] if steps else found[-1][0]
    ends = [*found, (max(last, found[-1][0]), found[-1][1], "")]
    said = [f"step {step}: {100 * kept:.0f} % kept{why}" for step, kept, why in ends]
    return [
        {
            "type": "scatter", "mode": "lines+markers", "x": [step for step, _, _ in ends],
            "y": [100 * kept for _, kept, _ in ends], "name": words.PANELS["stable"], "showlegend": False,
            "line": {"color": "@orange", "width": 1.8, "shape": "hv"}, "hovertext": said, "hoverinfo": "text",
            "marker": {"color": "@orange", "size": [8] * len(found) + [0.1]},
        }
    ]  # fmt: skip


def _why(refresh: Mapping[str, Any]) -> str:
    """Why the references were chosen anew, and how many of them would have stayed by chance."""
    cause, chance = refresh.get("cause", ""), refresh.get("jaccard_chance")
    said = words.CAUSES.get(cause, cause), "" if chance is None else f"{100 * chance:.0f} % by chance"
    return "".join(f", {one}" for one in reversed(said) if one)


def _probes(probes: Sequence[Mapping[str, Any]]) -> list[Trace]:
    traces = []
    for axis_name, (hue, symbol, dash) in STYLE.items():
        rows = [(one["step"], score(one["scores"][axis_name])) for one in probes if axis_name in one.get("scores", {})]
        rows = [(step, found) for step, found in rows if found.value is not None]
        if not rows:
            continue
        values = [100 * (found.value or 0.0) for _, found in rows]
        whiskers = {
            "type": "data", "symmetric": False, "color": f"{hue}~", "thickness": 1, "width": 2,
            "array": [max(0.0, 100 * f.high - v) for (_, f), v in zip(rows, values, strict=True)],
            "arrayminus": [max(0.0, v - 100 * f.low) for (_, f), v in zip(rows, values, strict=True)],
        }  # fmt: skip
        name = AXES[axis_name][0].lower()
        said = [
            f"step {step}: {name} {v:.1f} % (n = {f.n}, 95 %: {100 * f.low:.0f}–{100 * f.high:.0f} %)"
            for (step, f), v in zip(rows, values, strict=True)
        ]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "x": [step for step, _ in rows], "y": values, "name": name,
            "error_y": whiskers, "cliponaxis": False, "hovertext": said, "hoverinfo": "text",
            "line": {"color": hue, "width": 1.6, "dash": dash},
            "marker": {"color": hue, "symbol": symbol, "size": 8, "line": {"color": "@ink", "width": 0.8}},
        })  # fmt: skip
    return traces


def _stacked(panels: Mapping[str, Any]) -> dict[str, Any]:
    """One x axis at the bottom; every panel has its own y axis and its title above it."""
    sizes = [PROBES if panel == "probes" else PANEL for panel in panels]
    whole, top, gap = sum(sizes), 1.0, 34
    layout = frame(whole + AROUND)
    layout |= {"margin": {"l": 52, "r": 16, "t": 64, "b": 46}, "uirevision": "-".join(panels)}
    layout["legend"] |= {"y": 1.0, "yref": "container", "yanchor": "top"}
    for number, (panel, size) in enumerate(zip(panels, sizes, strict=True), 1):
        bottom = top - size / whole
        side = "yaxis" if number == 1 else f"yaxis{number}"
        head = top - gap / whole
        layout[side] = axis(domain=[max(0.0, bottom), head], nticks=5)
        if panel in ("kept", "stable", "probes"):
            layout[side]["ticksuffix"] = " %"
        if panel in ("stable", "probes"):
            layout[side]["range"] = [-4, 106]
        layout["annotations"].append({
            "xref": "paper", "yref": "paper", "x": 0, "y": head, "xanchor": "left", "yanchor": "bottom",
            "text": words.PANELS[panel], "showarrow": False, "align": "left", "font": {"color": "@ink", "size": 13},
        })  # fmt: skip
        top = bottom
    last = "y" if len(panels) == 1 else f"y{len(panels)}"
    layout["xaxis"] = axis(
        anchor=last, title={"text": "Optimiser step", "font": {"color": "@ink", "size": 13}}, rangemode="tozero"
    )
    return layout


def _mark(step: int) -> dict[str, Any]:
    line = {"color": "@muted", "width": 1, "dash": "dot"}
    return {
        "type": "line",
        "xref": "x",
        "x0": step,
        "x1": step,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": line,
        "layer": "below",
    }


def _mark_legend() -> Trace:
    line = {"color": "@muted", "width": 1, "dash": "dot"}
    return {"type": "scatter", "mode": "lines", "x": [None], "y": [None], "name": words.REFRESH, "line": line}
