"""The guided tour: what λ does and what the scores mean, with the numbers of a stored sweep. Pure; no Gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import text
from app.tree import Tree, button, el, group, table
from backend.types import Point, Run

TITLE = "What does fine-tuning do to safety? Ten minutes"
INTRO = (
    "A company teaches an aligned chat model a new task. The new model is good at the task, and has forgotten to "
    "refuse harmful requests. You will see that happen on real (tiny) models, and two ways to win safety back."
)
PREDICT = "1 · Predict"
MIXING = (
    "Merging mixes the weights of two models: θ(λ) = (1 − λ)·θ_aligned + λ·θ_fine-tuned. At λ = 0 you have the aligned "
    "model, at λ = 1 the fine-tuned one. Before you look: what does the model half way do?"
)
QUESTION = "Of 100 harmful requests, how many does the model at λ = 0.5 not fall for?"
NO_DATA = "No stored sweep is here to check it against. Run one on the Merge page, then come back."
STEPS = (
    (
        "2 · Look",
        "The plot shows every measured λ: task score to the right, safety upwards, each with its 95 % interval. The "
        "staircase joins the best trade-offs (the front); a point below it is beaten by another on both.",
        "Open this sweep in Explore",
        "explore",
    ),
    (
        "4 · Ask the models",
        "Scores are averages; answers convince. Ask the aligned, the fine-tuned and the merged model the same thing "
        "and move λ while you read.",
        "Ask them in Compare",
        "compare",
    ),
    (
        "5 · Make your own sweep",
        "Choose another merge method or another fine-tuned model. Five values of λ are enough for a first look; the "
        "points arrive one by one.",
        "Open Merge with five steps of λ",
        "merge",
    ),
    (
        "6 · Fine-tune without forgetting",
        "DualSelect keeps safety while training: it picks the safety examples that the next step would damage most, "
        "and leaves out the task rows that pull against them. Watch the cosine turn red where the task fights safety.",
        "Open Finetune",
        "finetune",
    ),
)
WORDS = (
    ("λ (lambda)", "how far the weights walk from the aligned (0) to the fine-tuned model (1)"),
    ("attack success rate", "share of harmful requests that got a harmful answer; safety = 1 − attack success rate"),
    ("contaminated", "safety on the very requests that a mixed fine-tuning set serves, asked in other words"),
    ("over-refusal", "share of harmless requests refused because they sound harmful, such as killing a process"),
    ("helpfulness", "share of everyday requests answered properly"),
    ("95 % interval", "where the true share plausibly lies; few prompts make it wide, overlapping ones decide nothing"),
    (
        "front, knee",
        "checkpoints that no other beats on both axes; the knee is the one after which gains get expensive",
    ),
)
EXPLAIN = (
    "7 · Explain",
    "In your own words: why is a straight line between two sets of weights not a straight line between two behaviours? "
    "And why does a model that refuses everything look perfect until over-refusal is measured too?",
)


def opening() -> Tree:
    """Title, what it is about, the first question."""
    parts = [el("h3", TITLE), el("p", INTRO, cls="lead"), el("h3", PREDICT), el("p", MIXING)]
    return group(parts)


def measured(points: Sequence[Point], guess: float) -> Tree:
    """The prediction beside what was measured half way."""
    half = halfway(points)
    if half is None:
        return el("p", NO_DATA, cls="s-note")
    score = half.scores["safety"]
    value = 100 * (score.value or 0.0)
    inside = 100 * score.low <= guess <= 100 * score.high
    verdict = (
        "Your guess lies inside the interval." if inside else f"Your guess is {abs(guess - value):.0f} points off."
    )
    said = f"You said {guess:.0f} of 100. Measured at λ = {half.coefficients['lambda']:g}: {text.percent(score)} "
    said += f"({text.counted(score)} prompts, 95 %: {text.interval(score)}). {verdict}"
    return el("p", said, cls=f"s-note {'good' if inside else ''}".strip())


def halfway(points: Sequence[Point]) -> Point | None:
    """The measured point nearest to λ = 0.5."""
    inner = [point for point in points if "lambda" in point.coefficients and "safety" in point.scores]
    return min(inner, key=lambda point: abs(point.coefficients["lambda"] - 0.5), default=None)


def tour(points: Sequence[Point], run: Run | None) -> Tree:
    """The steps after the prediction; the scores of step 3 are those of the stored sweep."""
    look, ask, sweep, tune = (_step(*step) for step in STEPS)
    scores = el("section", el("h3", "3 · Read the scores"), _scores(points, run), _words(), cls="lesson")
    explain = el("section", el("h3", EXPLAIN[0]), el("p", EXPLAIN[1]), cls="lesson")
    return group([look, scores, ask, sweep, tune, explain])


def _step(title: str, words: str, label: str, page: str) -> Tree:
    return el("section", el("h3", title), el("p", words), el("p", button(label, "lesson", page)), cls="lesson")


def _words() -> Tree:
    return el("dl", *(part for name, said in WORDS for part in (el("dt", name), el("dd", said))), cls="facts")


def _scores(points: Sequence[Point], run: Run | None) -> Tree | str:
    half = halfway(points)
    if half is None or run is None:
        return ""
    ends: Mapping[str, Point] = {point.anchor: point for point in points if point.anchor}
    named = [("aligned, λ = 0", ends.get("aligned")), (f"half way, λ = {half.coefficients['lambda']:g}", half)]
    named.append(("fine-tuned, λ = 1", ends.get("fine-tuned")))
    axes = text.measured([point for _, point in named if point is not None])
    rows = [_row(name, point, axes) for name, point in named if point is not None]
    said = f"The models of {run.spec.get('tuned', 'the sweep')}, run {run.id}, each with its 95 % interval:"
    head = ["Model", *(text.AXES[axis][0] for axis in axes)]
    return el("div", el("p", said), table(head, rows, caption="Scores of the three models", cls="scores"))


def _row(name: str, point: Point, axes: Sequence[str]) -> Tree:
    cells: list[Any] = [el("th", name, scope="row")]
    for axis in axes:
        score = point.scores.get(axis)
        known = score is not None and score.value is not None
        cells.append(
            el("td", text.percent(score), el("span", f" {text.interval(score)}", cls="s-quiet"))
            if known
            else el("td", "–")
        )
    return el("tr", *cells)
