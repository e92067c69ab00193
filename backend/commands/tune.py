"""Fine-tune a checkpoint with a strategy, and measure the result."""

from __future__ import annotations

import argparse

from backend.api import Studio
from backend.commands.common import add_dry_run, print_json, print_line, print_points, see_through, settings_of
from backend.settings import Settings
from backend.types import Run


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--strategy", default="dualselect", help="sft, dualselect or a rival; see the catalogue")
    parser.add_argument("--model", required=True, help="the full checkpoint to start from")
    parser.add_argument(
        "--task-data",
        required=True,
        help="a demo set; a .jsonl, .csv, .jsonl.gz or .parquet file; owner/name@revision:file; a .mix.yaml file",
    )
    parser.add_argument("--references", help="good answers to protect, where the strategy needs them")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the strategy")
    parser.add_argument(
        "--train", action="append", default=[], metavar="NAME=VALUE", help="steps, batch, lr, lora_rank, full, …"
    )
    parser.add_argument("--task", help="the task to measure; default: that of a demo set")
    parser.add_argument("--suites", help="comma list of suite names or .jsonl files instead of the safety suites")
    parser.add_argument("--preset", help="how many prompts of each suite: quick (the default), standard or report")
    parser.add_argument("--probe-every", help="measure a few validation prompts every so many steps")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", help="the new folder; default: under the studio's models root")
    add_dry_run(parser)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    studio = Studio(settings)
    names = ("strategy", "model", "task_data", "references", "task", "suites", "preset", "probe_every", "seed", "out")
    request = {name: getattr(options, name) for name in names}
    request |= {"parameters": settings_of(options.set), "training": settings_of(options.train)}
    return see_through(studio, "tune", request, options, lambda run: _tell(studio, run, options.json))


def _tell(studio: Studio, run: Run, as_json: bool) -> int:
    result = run.result or {}
    if as_json:
        return print_json(result)
    for sentence in result["data"]["warnings"]:
        print_line(f"warning: {sentence}")
    print_points(studio, run)
    return print_line(f"{result['folder']} is ready; it is called {result['checkpoint']} here.")
