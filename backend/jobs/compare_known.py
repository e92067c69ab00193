"""What earlier comparisons trained and measured, so that another one does only the rest.

Two trainings are the same where everything a recipe says of them is: model, data, settings, seed and what they were
measured on. Only files of strategies are compared, not the code of the loop below them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.jobs.planning import recipe_hash
from backend.types import Point, Run

if TYPE_CHECKING:
    from backend.jobs.actions import Context

TRAINED_WITH = ("model", "task_data", "references", "task", "training", "seed")
MEASURED_WITH = ("suites", "judges", "scorers", "decoding")


class Known:
    """Finds finished parts of other comparisons by what they were made with. Empty unless `reuse` was asked for."""

    def __init__(self, context: Context, *, reuse: bool) -> None:
        self._context = context
        self._recipe = context.recipe
        self._points: dict[str, list[Point]] = {}
        self._trials: dict[str, dict[str, Any]] = {}
        for run in context.others("compare") if reuse else []:
            self._note(run)

    def trial(self, arm: Mapping[str, Any], change: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
        """The validation scores of this setting; `taken_from` is the run that trained it."""
        return self._trials.get(_trial_key(self._recipe, arm, change, seed))

    def training(self, strategy: str, parameters: Mapping[str, Any], seed: int, *, weights: bool) -> Point | None:
        """The point of this training; with `weights` only one whose checkpoint is still here."""
        known = self._points.get(_training_key(self._recipe, strategy, parameters, seed), [])
        kept = [point for point in known if self.folder(point) is not None]
        return next(iter(kept if weights else kept + known), None)

    def merges(self, parameters: Mapping[str, Any], seed: int, grid: Sequence[float]) -> list[Point]:
        """The points of the merges of this plain fine-tune: all of the grid, or none."""
        key = _training_key(self._recipe, "sft", parameters, seed)
        found = [self._points.get(f"{key} λ {lam!r}", []) for lam in grid]
        return [one[0] for one in found] if all(found) else []

    def folder(self, point: Point) -> Path | None:
        """The checkpoint that a training left, where this studio made it and still has it."""
        name = str(point.details.get("checkpoint", ""))
        path = self._context.settings.models_root / name
        # A run that came with the studio may name a checkpoint that is another one here.
        return path if name.startswith(f"compare-{point.run}-") and path.is_dir() else None

    def _note(self, run: Run) -> None:
        recipe = run.recipe
        plain: dict[int, str] = {}
        for point in self._context.points_of(run):
            details = point.details
            if "strategy" in details:
                key = _training_key(recipe, details["strategy"], details["parameters"], details["seed"])
                if details["strategy"] == "sft":
                    plain[details["seed"]] = key
            elif "lambda" in point.coefficients and details.get("seed") in plain:  # merges follow their fine-tune
                key = f"{plain[details['seed']]} λ {point.coefficients['lambda']!r}"
            else:
                continue
            self._points.setdefault(key, []).append(point)
        arms = {arm["name"]: arm for arm in recipe.get("arms", [])}
        for trial in (run.result or {}).get("trials", []):
            key = _trial_key(recipe, arms[trial["arm"]], trial["change"], trial["seed"])
            self._trials.setdefault(key, {**trial, "taken_from": run.id})


def _training_key(recipe: Mapping[str, Any], strategy: str, parameters: Mapping[str, Any], seed: int) -> str:
    return _key(recipe, strategy, parameters, seed, {name: recipe.get(name) for name in MEASURED_WITH})


def _trial_key(recipe: Mapping[str, Any], arm: Mapping[str, Any], change: Mapping[str, Any], seed: int) -> str:
    parameters = {**arm["parameters"], **change}
    return _key(recipe, arm["strategy"], parameters, seed, {"validation": recipe.get("validation")})


def _key(
    recipe: Mapping[str, Any], strategy: str, parameters: Mapping[str, Any], seed: int, measured: Mapping[str, Any]
) -> str:
    trained = {name: recipe.get(name) for name in TRAINED_WITH}
    trained |= {"strategy": recipe.get("strategies", {}).get(strategy), "parameters": dict(parameters)}
    return recipe_hash(trained | {"training_seed": seed} | dict(measured))
