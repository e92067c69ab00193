"""Runs as one JSON document: exported with every outcome, taken in again anywhere, never twice.

The demo's stored results are such documents, gzipped, under `assets/demo/results/`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import UserError
from backend.storage.database import Database
from backend.types import Outcome, Point, Score

SCHEMA = 1
IMPORTED = "imported"  # the owner of a run that somebody else made
_RUN_FIELDS = ("kind", "name", "spec", "recipe", "recipe_hash", "created", "started", "finished", "result")
_POINT_FIELDS = ("index", "method", "coefficients", "outcomes", "effective", "anchor", "details")
_OUTCOME_FIELDS = tuple(name for name in Outcome.__dataclass_fields__ if name not in ("id", "point"))


def export(database: Database, run_ids: Sequence[int]) -> dict[str, Any]:
    """These runs, their points and outcomes; shares in percent, as everywhere in JSON."""
    return {"schema": SCHEMA, "runs": [_export_run(database, run) for run in run_ids]}


def take_in(database: Database, bundle: Mapping[str, Any], *, stored: bool) -> list[int]:
    """Add the bundle's runs; returns their ids, old ones for runs that are here already.

    Raises:
        UserError: not a bundle, or one of another schema.
    """
    if bundle.get("schema") != SCHEMA or not isinstance(bundle.get("runs"), list):
        remedy = "Export it again with this version of the studio."
        raise UserError(
            "bundle", got=bundle.get("schema"), allowed=f"schema {SCHEMA} with a list of runs", remedy=remedy
        )
    return [_take_in_run(database, run, stored) for run in bundle["runs"]]


def import_folder(database: Database, folder: Path) -> None:
    """Take in every `*.json.gz` of a folder as stored runs; quick when they are all here."""
    for path in sorted(folder.glob("*.json.gz")):
        raw = path.read_bytes()
        key = "file:" + hashlib.sha256(raw).hexdigest()[:32]
        if database.has_bundle(key) is None:
            for run in json.loads(gzip.decompress(raw))["runs"]:
                _take_in_run(database, run, True, key)


def _export_run(database: Database, run_id: int) -> dict[str, Any]:
    run = database.run(run_id)
    points = []
    for point in database.points_of([run_id]):
        answered = [
            {name: getattr(outcome, name) for name in _OUTCOME_FIELDS} for outcome in database.outcomes_of(point.id)
        ]
        points.append(
            {
                "index": point.index,
                "method": point.method,
                "anchor": point.anchor,
                "details": point.details,
                **point.to_json(),
                "answered": answered,
            }
        )
    return {name: getattr(run, name) for name in _RUN_FIELDS} | {"points": points}


def _take_in_run(database: Database, run: Mapping[str, Any], stored: bool, key: str = "") -> int:
    key = key or "run:" + hashlib.sha256(json.dumps([run["recipe_hash"], run["created"]]).encode()).hexdigest()[:32]
    known = database.has_bundle(key)
    if known is not None:
        return known
    fields = {name: run[name] for name in _RUN_FIELDS}
    fields |= {"owner": "demo" if stored else IMPORTED, "stored": stored, "bundle_key": key}
    return database.import_run(fields, [_measured(point) for point in run["points"]])


def _measured(point: Mapping[str, Any]) -> tuple[Point, list[Outcome]]:
    scores = {axis: Score.from_json(score) for axis, score in point["scores"].items()}
    facts = {name: point[name] for name in _POINT_FIELDS}
    return Point(id=0, run=0, scores=scores, **facts), [Outcome(**outcome) for outcome in point["answered"]]
