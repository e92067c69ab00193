"""Run queued runs until stopped."""

from __future__ import annotations

import argparse
import sys

from backend.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--follow", type=int, metavar="PID", help="end when this process is gone and nothing is queued")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from backend.jobs.worker import Worker
    from backend.storage.database import Database

    settings.home.mkdir(parents=True, exist_ok=True)
    if not Worker(settings, Database(settings.database)).serve(follow=options.follow):
        print("another worker serves this home folder already", file=sys.stderr)
    return 0
