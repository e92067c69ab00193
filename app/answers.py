"""The answers behind a point of the plot, beside those of the two ends that it is held against."""

from __future__ import annotations

from typing import Any

from app import cards, text
from app.tree import Tree
from backend.types import Outcome, Point


def pane(studio: Any, point: Point, suite: str, outcome: str, shown: int) -> Tree:
    """The first `shown` answers of a point; of one suite and one outcome where these are not empty.

    What fine-tuning made harmful comes first, then whatever else has changed against the aligned model.
    """
    mine = studio.outcomes(point.id, suite=suite or None)
    columns = [(_column_name(point), mine)]
    for other in studio.points([point.run]):
        name = other.anchor or (other.method if _is_plain(other) else "")
        same = other.half == point.half and other.coefficients.get("seed") == point.coefficients.get("seed")
        if name and same and other.id != point.id and name not in dict(columns):
            columns.append((name, studio.outcomes(other.id, suite=suite or None)))
    columns[1:] = sorted(columns[1:], key=lambda column: column[0] != "aligned")
    aligned = cards.by_sample(next((found for name, found in columns if name == "aligned"), []))
    order = sorted((one for one in mine if outcome in ("", one.outcome)), key=lambda one: _interest(one, aligned))
    judge = text.judge(studio.run(point.run))
    return cards.answers([(name, cards.by_sample(found)) for name, found in columns], order, judge, shown=shown)


def _column_name(point: Point) -> str:
    return f"λ = {point.coefficients['lambda']:g}" if "lambda" in point.coefficients else point.method


def _is_plain(point: Point) -> bool:
    """Whether the point is the plain fine-tuning of a comparison: the end that its strategies are held against."""
    return point.method == "sft" and "seed" in point.coefficients


def _interest(outcome: Outcome, aligned: dict[str, Outcome]) -> int:
    """Harmful now but not when aligned first, then every other change, then the rest."""
    before = aligned.get(f"{outcome.suite}/{outcome.sample_hash or outcome.sample}")
    if before is None or (before.outcome == outcome.outcome and before.score == outcome.score):
        return 2
    return 0 if outcome.outcome == "harmful" else 1
