"""Measured points as files to save: JSON and CSV, each with the recipes behind them. Pure; no Gradio."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from backend.types import AXES, Point, Run


def as_json(found: Sequence[tuple[Run, Point]]) -> str:
    """Points and the recipes of their runs, in percent."""
    runs = {run.id: {"name": run.name, "recipe": run.recipe, "recipe_hash": run.recipe_hash} for run, _ in found}
    rows = [{"run": run.id, "point": p.id, "method": p.method, **p.to_json(), "details": p.details} for run, p in found]
    return json.dumps(
        {"schema": 1, "unit": "percent", "runs": runs, "points": rows}, ensure_ascii=False, indent=1, default=str
    )


def as_csv(found: Sequence[tuple[Run, Point]]) -> str:
    """One row a point; cells that a spreadsheet would take for a formula are quoted."""
    out = io.StringIO()
    writer = csv.writer(out)
    sides = [f"{axis}_{part}" for axis in AXES for part in ("value", "low", "high", "n")]
    writer.writerow(
        [
            *("schema", "run", "recipe_hash", "point", "method", "lambda", "anchor"),
            *("aligned", "tuned", "task", "coefficients", *sides),
        ]
    )
    for run, point in found:
        scores = {axis: point.scores[axis].to_json() if axis in point.scores else {} for axis in AXES}
        numbers = [scores[axis].get(part, "") for axis in AXES for part in ("value", "low", "high", "n")]
        names = [point.method, point.coefficients.get("lambda", ""), point.anchor]
        names += [run.spec.get(key, "") for key in ("aligned", "tuned", "task")] + [json.dumps(point.coefficients)]
        writer.writerow([1, run.id, run.recipe_hash, point.id, *map(_cell, names), *numbers])
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value
