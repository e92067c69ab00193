"""List runs, or act on one."""

from __future__ import annotations

import argparse

from backend.api import Studio
from backend.commands.common import finish, print_json, run_json
from backend.settings import Settings

ACTIONS = {
    "show": "print this run",
    "log": "print the log of this run",
    "cancel": "cancel this run",
    "pause": "let this fine-tuning write a checkpoint and stop, or hold back this run while it is queued",
    "stop-and-keep": "let this fine-tuning finish now with the weights it has",
    "restart": "restart this failed, cancelled, interrupted or paused run and see it through; what it finished is kept",
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    chosen = parser.add_mutually_exclusive_group()
    for name, text in ACTIONS.items():
        chosen.add_argument(f"--{name}", type=int, metavar="RUN", help=text)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    studio = Studio(settings)
    for action in (name.replace("-", "_") for name in ACTIONS):
        number = getattr(options, action)
        if number is not None:
            found = getattr(studio, "run" if action == "show" else action)(number)
            if isinstance(found, str):
                print(found)
            elif action == "restart":
                finish(studio, found)
            else:
                print_json(run_json(found))
            return 0
    runs = studio.runs()
    if options.json:
        return print_json([run_json(run) for run in runs])
    for run in runs:
        print(f"{run.id:4}  {run.status:11} {100 * run.fraction:5.1f} %  {run.kind:8} {run.name}  {run.error}")
    return 0
