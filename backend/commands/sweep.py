"""Measure safety and task along a path of merges."""

from __future__ import annotations

import argparse

from backend.api import Studio
from backend.commands.common import (
    add_dry_run,
    add_measuring,
    add_pair,
    checkpoints_of,
    measuring_of,
    print_json,
    print_points,
    see_through,
    settings_of,
)
from backend.settings import Settings
from backend.types import Run


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_pair(parser)
    parser.add_argument(
        "--grid",
        help="start:stop:count or a comma list, of λ or of any number: lam=0:1:6, density=0.1:0.9:3; "
        "default: 11 values over the whole range of the method's own number",
    )
    add_measuring(parser)
    add_dry_run(parser)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    request = measuring_of(options) | {
        "aligned": options.aligned,
        **checkpoints_of(options),
        "method": options.method,
        "parameters": settings_of(options.set),
        "grid": options.grid,
    }
    studio = Studio(settings)

    def tell(run: Run) -> int:
        return print_json(studio.sweep_json(run.id)) if options.json else print_points(studio, run)

    return see_through(studio, "sweep", request, options, tell)
