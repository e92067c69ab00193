"""Search for a better safety-versus-task front than any uniform λ gives."""

from __future__ import annotations

import argparse
import shlex

from backend.api import Studio
from backend.commands.common import (
    add_dry_run,
    add_measuring,
    measuring_of,
    print_json,
    print_line,
    print_points,
    see_through,
    set_words,
)
from backend.errors import UserError
from backend.settings import Settings
from backend.types import Run


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--aligned", required=True, help="a demo name, a folder or a Hub id with optional @revision")
    parser.add_argument("--tuned", required=True, action="append", help="the fine-tuned checkpoint or adapter")
    parser.add_argument("--grid", help="the uniform λ to start from; default 0:1:11")
    parser.add_argument("--minutes", help="when to stop looking; default 10")
    parser.add_argument("--trials", help="settings to try beside the uniform ones; default 60")
    parser.add_argument("--depth", help="numbers of the curve of λ over the layers; default 4")
    add_measuring(parser)
    add_dry_run(parser)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    if len(options.tuned) > 1:
        problem = f"a search turns one fine-tuned model, {len(options.tuned)} were given"
        raise UserError("tuned", problem=problem, remedy="Search each on its own.")
    names = ("aligned", "tuned", "grid", "minutes", "trials", "depth")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    studio = Studio(settings)
    request = measuring_of(options) | given
    return see_through(studio, "search", request, options, lambda run: _tell(studio, run, options.json))


def _tell(studio: Studio, run: Run, as_json: bool) -> int:
    result = run.result or {}
    if as_json:
        return print_json({"run": run.id, "recipe": run.recipe | {"hash": run.recipe_hash}, **result})
    print_points(studio, run)
    area, gap = result["hypervolume"], result["difference"]
    print_line(f"held-out hypervolume: found {area['found']:.1f} %, uniform λ {area['uniform']:.1f} %")
    interval = f"{gap['value']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}]"
    counts = f"{result['n']['safety']} safety and {result['n']['task']} task prompts"
    print_line(f"difference {interval}, 95 % paired bootstrap over {counts}")
    pair = shlex.join(["--aligned", str(run.spec["aligned"]), "--tuned", str(run.spec["tuned"])])
    print_line(f"to write one of the front: merge {pair}, and")
    labels = {point.index: point.label for point in studio.points([run.id])}
    for one in result["front"]:
        print_line(f"{labels[one['index']]:28}--method {one['method']} {set_words(one['parameters'])}")
    return 0
