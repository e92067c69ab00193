"""A worker whose runs stand still where a test says, so that no machine is too fast to catch one in the middle.

A run goes no further than the fraction in the file `hold` of its folder, until it is asked to stop, to pause or to keep
what it has, or is killed. Its merges wait for every tensor to be saved: how far they are is then the same everywhere.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from backend.checkpoints import writer
from backend.jobs import child, worker
from backend.settings import Settings, from_environment
from backend.storage.database import Database


def hold(settings: Settings, run: int, fraction: float) -> None:
    """Let `run`, which has not started, stand still at `fraction`."""
    folder = settings.runs / str(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hold").write_text(str(fraction))


def let_go(settings: Settings, run: int) -> None:
    (settings.runs / str(run) / "hold").unlink()


class HeldContext(child.RunContext):
    def report(self, fraction: float, phrase: str) -> None:
        super().report(fraction, phrase)
        while not self.request() and fraction >= self._most():
            time.sleep(0.02)
            super().report(fraction, phrase)

    def _most(self) -> float:
        with suppress(FileNotFoundError):
            return float((self.folder / "hold").read_text())
        return float("inf")


def save_every_tensor() -> None:
    """Merges in this process report and save after every tensor, and wait for it."""
    from backend.merging import engine

    finish = writer.FolderWriter.finish

    def finish_and_save(self: Any, *given: Any) -> None:
        finish(self, *given)
        if self._save is not None:
            self._save.result()

    writer.FolderWriter.finish = finish_and_save
    writer.SECONDS_BETWEEN_SAVES = engine.SECONDS_BETWEEN_REPORTS = -1.0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child.RunContext = HeldContext
        save_every_tensor()
        sys.exit(child.main(int(sys.argv[1])))
    worker.CHILD = "tests.held_worker"
    settings = from_environment()
    worker.Worker(settings, Database(settings.database)).serve()
