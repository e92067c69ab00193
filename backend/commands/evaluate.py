"""Measure one checkpoint."""

from __future__ import annotations

import argparse

from backend.api import Studio
from backend.commands.common import (
    add_dry_run,
    add_measuring,
    measuring_of,
    print_json,
    print_points,
    see_through,
)
from backend.settings import Settings
from backend.types import Run


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--aligned", help="the base of an adapter")
    add_measuring(parser)
    add_dry_run(parser)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    request = measuring_of(options) | {"checkpoint": options.checkpoint, "aligned": options.aligned}
    studio = Studio(settings)

    def tell(run: Run) -> int:
        if not options.json:
            return print_points(studio, run)
        point = studio.points([run.id])[0].to_json()
        return print_json({"run": run.id, "recipe": run.recipe | {"hash": run.recipe_hash}} | point)

    return see_through(studio, "evaluate", request, options, tell)
