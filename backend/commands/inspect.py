"""Look at a checkpoint or a pair without loading it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from backend.api import Studio
from backend.commands.common import estimate_words, print_json
from backend.errors import UserError
from backend.settings import Settings
from backend.types import LayerChange


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("aligned")
    parser.add_argument("tuned", nargs="?")
    parser.add_argument("--layers", action="store_true", help="read both and show where the fine-tune moved")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    if options.layers and not options.tuned:
        raise UserError("tuned", problem="--layers compares two checkpoints", remedy="Name the fine-tuned one too.")
    studio = Studio(settings)
    inspection = studio.inspect(options.aligned, options.tuned)
    changes = studio.task_vector(options.aligned, options.tuned) if options.layers and not inspection.errors else []
    if options.json:
        document = inspection.to_json()
        print_json(document | {"layers": [asdict(one) for one in changes]} if options.layers else document)
    else:
        for facts in inspection.checkpoints:
            print("\n".join(f"{name:20} {value}" for name, value in facts.items()), end="\n\n")
        for finding in inspection.findings:
            print(f"{finding.level}: {finding.field}: {finding.sentence}")
        for work, needs in inspection.estimates.items():
            what = "writing a merge" if work == "merge" else "one point of a quick sweep"
            print(f"{what}: {estimate_words(needs)}")
        _print_layers(changes)
    return 2 if inspection.errors else 0


def _print_layers(changes: Sequence[LayerChange]) -> None:
    """Rows are layers, columns modules: how far (‖δ‖/‖θ0‖ in percent), then which way (cosine with θ0)."""
    if not changes:
        return
    modules = list(dict.fromkeys(one.module for one in sorted(changes, key=lambda one: one.layer is None)))
    cells = {(one.tower, one.layer, one.module): one for one in changes}
    for title, show in (("distance ‖δ‖/‖θ0‖, %", _distance), ("cosine of δ with θ0", _cosine)):
        print(f"\n{title}\n{'layer':>8}" + "".join(f"{module[:9]:>10}" for module in modules))
        for tower, layer in dict.fromkeys((one.tower, one.layer) for one in changes):
            row = (show(cells.get((tower, layer, module))) for module in modules)
            name = (tower or "outside") if layer is None else layer
            print(f"{name:>8}" + "".join(f"{cell:>10}" for cell in row))


def _distance(one: LayerChange | None) -> str:
    return "" if one is None or one.distance is None else f"{100 * one.distance:.2f}"


def _cosine(one: LayerChange | None) -> str:
    return "" if one is None or one.cosine is None else f"{one.cosine:+.3f}"
