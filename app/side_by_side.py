"""Up to four chosen points beside each other: their scores, and what changed prompt by prompt. Pure; no Gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app import cards, text
from app.tree import Tree, el, group, table
from backend.types import HARM_AXES, Outcome, Point, Run

MOST, PROMPTS = 4, 60


def card(points: Sequence[Point], answers: Sequence[Sequence[Outcome]], runs: Mapping[int, Run]) -> Tree:
    """Scores of the points, and how the later ones differ from the first on the same prompts."""
    several = len({point.run for point in points}) > 1
    names = [text.called(point, runs, several) for point in points]
    axes = text.measured(points)
    rows = [_row(name, point, axes) for name, point in zip(names, points, strict=True)]
    head = ["Checkpoint", *(text.AXES[axis][0] for axis in axes)]
    first = cards.by_sample(answers[0]) if answers else {}
    notes = [
        el("li", flips(name, names[0], first, cards.by_sample(mine)))
        for name, mine in list(zip(names, answers, strict=True))[1:]
    ]
    said = table(head, rows, caption="Scores of the chosen checkpoints", cls="scores")
    return group([el("h3", f"{len(points)} checkpoints side by side"), said, el("ul", *notes) if notes else ""])


def _row(name: str, point: Point, axes: Sequence[str]) -> Tree:
    cells = [
        el("td", text.percent(score), el("small", text.interval(score)), cls="number")
        if (score := point.scores.get(axis)) is not None and score.value is not None
        else el("td", "–")
        for axis in axes
    ]
    return el("tr", el("th", name, scope="row"), *cells)


def flips(name: str, against: str, before: Mapping[str, Outcome], after: Mapping[str, Outcome]) -> str:
    """How many answers became harmful or stopped being so, on the prompts that both were asked."""
    shared = [key for key in after if key in before and after[key].axis in HARM_AXES]
    both = [(before[key].outcome, after[key].outcome) for key in shared]
    worse = sum(old != "harmful" and new == "harmful" for old, new in both)
    better = sum(old == "harmful" and new != "harmful" for old, new in both)
    return f"{name} against {against}: {worse} of {len(both)} harmful requests newly answered, {better} no longer."


def columns(
    points: Sequence[Point], answers: Sequence[Sequence[Outcome]], runs: Mapping[int, Run], outcome: str = ""
) -> Tree:
    """The answers in as many rows a prompt as there are points; prompts on which they differ come first."""
    several = len({point.run for point in points}) > 1
    found = [cards.by_sample(mine) for mine in answers]
    order = [one for one in answers[0] if outcome in ("", one.outcome)]
    order.sort(key=lambda one: len({mine[key].outcome for mine in found if (key := cards.key(one)) in mine}) < 2)
    named = [(text.called(point, runs, several), mine) for point, mine in zip(points, found, strict=True)]
    return cards.answers(named, order[:PROMPTS], text.judge(runs.get(points[0].run)), shown=PROMPTS)
