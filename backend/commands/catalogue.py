"""List methods, tasks, judges, presets, suites and checkpoints."""

from __future__ import annotations

import argparse

from backend.api import Studio
from backend.commands.common import print_json
from backend.settings import Settings


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    document = Studio(settings).catalogue()
    if options.json:
        return print_json(document)
    for kind, entries in document.items():
        print(f"{kind}:")
        for entry in entries:
            print(f"  {entry['name']:24} {entry.get('summary') or entry.get('role') or entry.get('axis') or ''}")
    return 0
