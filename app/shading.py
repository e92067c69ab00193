"""The other way to colour the plot: by over-refusal, so that a model that refuses everything stands out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.types import Point

SCALE = [[0.0, "@blue"], [0.5, "@yellow"], [1.0, "@vermilion"]]
BAR = {"title": {"text": "Over-<br>refusal"}, "ticksuffix": " %", "thickness": 12, "len": 0.5, "y": 0.72, "nticks": 4}


def over_refusal(data: Sequence[Mapping[str, Any]], points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Trace number → what its markers become; dominated points stay hollow, unmeasured ones keep their colour."""
    values = {p.id: 100 * (p.scores["over_refusal"].value or 0.0) for p in points if "over_refusal" in p.scores}
    found: dict[str, dict[str, Any]] = {}
    top = max([10.0, *values.values()])
    for number, trace in enumerate(data):
        keys = trace.get("customdata") or []
        if trace.get("yaxis") == "y2" or not keys or any(key not in values for key in keys):
            continue
        marker = {"color": [values[key] for key in keys], "colorscale": SCALE, "cmin": 0, "cmax": top}
        marker |= {"symbol": _symbols(trace["marker"], len(keys)), "showscale": not found, "colorbar": BAR}
        found[str(number)] = marker
    return found


def _symbols(marker: Mapping[str, Any], count: int) -> list[str]:
    """The trace's shape; open where the marker was hollow.

    >>> _symbols({"symbol": "square", "color": ["@blue", "@panel"]}, 2)
    ['square', 'square-open']
    """
    fills = marker["color"] if isinstance(marker["color"], list) else [marker["color"]] * count
    return [marker["symbol"] + ("-open" if fill == "@panel" else "") for fill in fills]
