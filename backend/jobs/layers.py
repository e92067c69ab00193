"""The task vector of a pair, layer by layer, computed in a process of its own: `python -m backend.jobs.layers A B`.

The page's process holds no torch, so it asks here; the answer is kept under the home folder by what the files hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from backend.checkpoints.guard import check_pair, raise_errors
from backend.checkpoints.resolve import resolve
from backend.errors import RunFailed, StudioError, UserError
from backend.evaluation.suites import canonical, sha256
from backend.jobs.sources import pinned, whole_fingerprint
from backend.settings import Settings, child_environment, from_environment
from backend.types import LayerChange

ROOT = Path(__file__).resolve().parent.parent.parent
VERSION = 3  # of the numbers: another one makes every kept answer void


def task_vector(settings: Settings, aligned: str, tuned: str) -> list[LayerChange]:
    """How far and in which direction fine-tuning moved every module; seconds the first time, then at once.

    Raises:
        UserError: a checkpoint that is missing, or a pair that does not fit.
        RunFailed: the process that reads the weights ended without an answer.
    """
    first, second = resolve(aligned, settings, field="aligned"), resolve(tuned, settings, field="tuned")
    if first.kind == "adapter":
        raise UserError("aligned", problem=f"{first.name} is an adapter", remedy="Name the full aligned checkpoint.")
    raise_errors(check_pair(first, second))
    key = sha256(canonical([VERSION, whole_fingerprint(first), whole_fingerprint(second)]))[:32]
    kept = settings.home / "layers" / f"{key}.json"
    if not kept.exists():
        text = _ask(settings, pinned(first), pinned(second))
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_suffix(f".{os.getpid()}.tmp")
        half.write_text(text)
        half.replace(kept)
    return [LayerChange(**one) for one in json.loads(kept.read_text())]


def _ask(settings: Settings, aligned: str, tuned: str) -> str:
    command = [sys.executable, "-m", "backend.jobs.layers", aligned, tuned]
    done = subprocess.run(
        command, cwd=ROOT, env=child_environment(settings), capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = lines[-1] if lines else (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise RunFailed(f"The weights could not be compared: {reason}")
    return lines[-1]


def main(aligned: str, tuned: str) -> int:
    """Print the changes as JSON, or why there are none."""
    settings = from_environment()
    import torch

    torch.set_num_threads(settings.threads)
    from backend.merging.engine import open_models
    from backend.merging.layers import layer_changes

    try:
        first, second = resolve(aligned, settings, field="aligned"), resolve(tuned, settings, field="tuned")
        found = layer_changes(open_models(first, [second]))
    except StudioError as error:
        print(error)
        return 1
    print(json.dumps([asdict(one) for one in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
