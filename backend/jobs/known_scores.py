"""Scores that a sweep of this studio measured for the very weights that a merge writes. No torch.

A sweep forms its points in memory by the arithmetic that writes folders, so what it measured holds for the folder too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from backend.registry import Plugin
from backend.types import Point, Run

if TYPE_CHECKING:
    from backend.jobs.actions import Context


class KnownScores(NamedTuple):
    """Axis -> score in percent, as a card takes them, and how they were measured."""

    scores: dict[str, Any] | None = None
    measured: str = ""


def known_scores(context: Context, method: Plugin) -> KnownScores:
    """Those of the point that stands on most prompts, of several such points of the newest run; none without any."""
    found = list(_points_of_these_weights(context, method))
    if not found:
        return KnownScores()
    run, point = max(found, key=lambda one: sum(score.n for score in one[1].scores.values()))
    scores = {axis: score.to_json() for axis, score in point.scores.items() if score.n}
    return KnownScores(scores, _how(run, point)) if scores else KnownScores()


def _points_of_these_weights(context: Context, method: Plugin) -> Iterator[tuple[Run, Point]]:
    wanted = _weights(context.recipe, method, {})
    for run in context.others("sweep"):
        if run.recipe.get("method") != context.recipe["method"]:
            continue
        for point in context.points_of(run):
            turned = {"lam" if name == "lambda" else name: value for name, value in point.coefficients.items()}
            if _weights(run.recipe, method, turned) == wanted:
                yield run, point


def _weights(recipe: Mapping[str, Any], method: Plugin, turned: Mapping[str, float]) -> dict[str, Any]:
    """What decides a merged model's every byte, and the tokenizer it answers with."""
    return {
        "sources": [_contents(recipe.get(role)) for role in ("aligned", "tuned", "extras")],
        "method": recipe["method"],
        "parameters": {**(recipe.get("parameters") or {}), **turned},
        "donor": recipe.get("donor", "aligned"),
        "chats": (recipe.get("calibration") or {}).get("sha256"),
        # Where the method draws nothing, a sweep's seed only says which prompts it asks.
        "seed": recipe.get("seed") if method.facts["random"] else None,
    }


def _contents(said: Any) -> Any:
    """Fingerprints without names: the same files may lie elsewhere."""
    if isinstance(said, list):
        return [_contents(one) for one in said]
    if isinstance(said, dict):
        return {key: _contents(value) for key, value in said.items() if key not in ("name", "revision")}
    return said


def _how(run: Run, point: Point) -> str:
    suites = ", ".join(_named(name, suite["version"]) for name, suite in run.recipe["suites"].items())
    judges = ", ".join(sorted(set(point.details.get("judges", {}).values())))
    device = f"{point.details.get('device', 'unknown device')} in {point.details.get('dtype', 'unknown dtype')}"
    source = ", which came with this studio" if run.stored else " of this studio"
    return (
        f"Measured in memory before this folder was written, as {point.label} of run {run.id}{source}: "
        f"suites {suites}; preset {run.recipe['preset']}, seed {run.recipe['seed']}; "
        f"judged by {judges}; on {device}."
    )


def _named(suite: str, version: str) -> str:
    return f"{suite} (version {version})" if version else suite
