"""Train every strategy with several seeds, measure them and the merges of plain fine-tuning, and compare."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from backend.api import Studio
from backend.commands.common import add_dry_run, print_json, print_line, see_through, settings_of
from backend.errors import UserError
from backend.jobs.compare_plan import STRATEGIES
from backend.settings import Settings
from backend.types import AXES


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--model", help="the full checkpoint to start from")
    parser.add_argument("--task-data", help="a demo set or a file, as of the command tune")
    parser.add_argument("--references", help="good answers to protect, where strategies need them")
    parser.add_argument("--strategies", help=f"comma list; default: {','.join(STRATEGIES)}")
    parser.add_argument("--seeds", default="3", help="how many training seeds, from 0 on")
    parser.add_argument("--ablations", action="store_true", help="DualSelect with one part replaced each, too")
    parser.add_argument("--tune", action="store_true", help="choose rho and share on the validation suites first")
    parser.add_argument(
        "--set", action="append", default=[], metavar="STRATEGY.NAME=VALUE", help="a setting given by hand"
    )
    parser.add_argument(
        "--train", action="append", default=[], metavar="NAME=VALUE", help="lr, batch, lora_rank, targets, …"
    )
    parser.add_argument("--steps", help="short for --train steps=…")
    parser.add_argument("--preset", default="standard", help="quick, standard or report")
    parser.add_argument("--grid", help="λ of the merges; default: 0:1:11")
    parser.add_argument("--task", help="the task to measure; default: that of a demo set")
    parser.add_argument("--suites", help="comma list of suite names or .jsonl files instead of the safety suites")
    parser.add_argument("--reuse", action="store_true", help="train only what no earlier comparison trained")
    parser.add_argument("--run", type=int, help="print this comparison, stored or run before, and train nothing")
    add_dry_run(parser)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    studio = Studio(settings)
    if options.run is not None:
        return _tell(_known(studio, options.run), options.json)
    names = ("model", "task_data", "references", "strategies", "seeds", "ablations", "tune", "reuse", "preset", "grid")
    request = {name: getattr(options, name) for name in (*names, "task", "suites")}
    training = settings_of(options.train) | ({"steps": options.steps} if options.steps else {})
    request |= {"settings": settings_of(options.set), "training": training}
    return see_through(
        studio, "compare", request, options, lambda run: _tell(studio.comparison_json(run.id), options.json)
    )


def _known(studio: Studio, number: int) -> dict[str, Any]:
    run = studio.run(number)
    if run.kind != "compare":
        others = ", ".join(str(one.id) for one in studio.runs() if one.kind == "compare") or "none yet"
        raise UserError("run", got=f"{number}, a {run.kind}", allowed=f"a comparison: {others}")
    return studio.comparison_json(number)


def _tell(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        return print_json(found)
    measured = [axis for axis in AXES if any(axis in one["scores"] for one in found["strategies"])]
    print_line(f"{'':24}" + "".join(f"{axis:>22}" for axis in measured) + f"{'seconds':>10}")
    for one in [*found["strategies"], *found["merges"]]:
        cells = "".join(f"{_cell(one['scores'].get(axis)):>22}" for axis in measured)
        seconds = sum(one["wall_seconds"]) / len(one["wall_seconds"])
        print_line(f"{one['name']:24}{cells}{seconds:10.1f}" + (" front" if one["name"] in found["front"] else ""))
    print_line(f"Mean over seeds; interval {found['interval']}.")
    if found.get("taken_from"):
        print_line(f"{len(found['taken_from'])} parts were taken over from earlier comparisons, with their seconds.")
    for arm, change in found.get("chosen", {}).items():
        words = ", ".join(f"{name} {value:g}" for name, value in change.items())
        print_line(f"{arm}: {words or 'its default'}, chosen on validation ({found['rule']})")
    for bar, result in found["verdict"].items():
        unknown = "open, the difference is within chance" if result.get("within_chance") else "not measured"
        word = {True: "yes", False: "NO", None: unknown}[result["passed"]]
        numbers = ", ".join(f"{key} {value:.1f}" for key, value in result.items() if isinstance(value, float))
        print_line(f"dualselect, {bar}: {word}" + (f" ({numbers})" if numbers else ""))
    if found["differences"]:
        print_line(f"\ndualselect minus …{'':7}" + "".join(f"{axis:>22}" for axis in measured))
    for name, gaps in found["differences"].items():
        print_line(f"{name:24}" + "".join(f"{_cell(gaps.get(axis), '+'):>22}" for axis in measured))
    return print_line(f"run {found['run']} shows them in one plot on the Explore page.")


def _cell(score: Mapping[str, Any] | None, sign: str = "") -> str:
    if score is None or score["value"] is None:
        return "–"
    return f"{score['value']:{sign}.1f} [{score['low']:.1f}, {score['high']:.1f}]"
