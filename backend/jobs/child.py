"""The process of one run: `python -m backend.jobs.child RUN`. Started by the worker, which owns its end.

It writes progress and points to the database and its words to its log. It stops on SIGTERM between two steps, and ends
at once when its worker is gone, so that a run is never going without somebody to look after it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import FrameType

from backend.checkpoints.hashes import remembered
from backend.errors import Cancelled, Interrupted, Paused, StudioError
from backend.jobs import queue
from backend.settings import Settings, from_environment
from backend.storage.bundles import IMPORTED
from backend.storage.database import Database
from backend.types import Outcome, Point, Run, RunStatus

SECONDS_BETWEEN_REPORTS = 0.25
BUG = "An unexpected error ended this run; the log names it. Its settings are kept, so it can be restarted."


class RunContext:
    """What an action sees of its run, see `backend.jobs.actions.Context`."""

    def __init__(self, run: int, settings: Settings, database: Database) -> None:
        self.run = run
        self.settings = settings
        self.folder = settings.runs / str(run)
        self.recipe = database.run(run).recipe
        self._database = database
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._first: float | None = None
        self._last_report = 0.0
        self._request = ""

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def should_stop(self) -> bool:
        """Whether somebody cancelled the run; raises `Interrupted` where the worker itself was told to stop."""
        if self._stop.is_set() and not self._database.control(self.run)[0]:
            raise Interrupted(queue.INTERRUPTED)
        return self._stop.is_set()

    def report(self, fraction: float, phrase: str) -> None:
        if self.should_stop():
            raise Cancelled(queue.cancelled_words(self._database.run(self.run).kind))
        now = time.monotonic()
        if now - self._last_report < SECONDS_BETWEEN_REPORTS:
            return
        self._last_report = now
        self._request = self._database.request(self.run)
        if self._first is None or fraction < self._first:
            self._first, self._started = fraction, now
        gained = fraction - self._first
        left = (now - self._started) / gained * (1 - fraction) if gained > 0.005 else None
        self._database.update_run(self.run, fraction=fraction, phrase=phrase, seconds_left=left)
        print(f"{100 * fraction:5.1f} %  {phrase}", flush=True)

    def request(self) -> str:
        """What somebody asked for since the last report: "pause", "keep" or nothing."""
        return self._request

    def stored_points(self) -> list[Point]:
        return self._database.points_of([self.run])

    def known_point(self, recipe: str) -> tuple[Point, list[Outcome]] | None:
        found = self._database.find_point(recipe, prefer=self.run)
        return None if found is None else (found, self.outcomes_of(found))

    def others(self, kind: str) -> list[Run]:
        known = self._database.list_runs()
        return [run for run in known if run.kind == kind and run.id != self.run and run.owner != IMPORTED]

    def points_of(self, run: Run) -> list[Point]:
        return self._database.points_of([run.id])

    def outcomes_of(self, point: Point) -> list[Outcome]:
        return self._database.outcomes_of(point.id)

    def add_point(self, point: Point, answered: Sequence[Outcome]) -> None:
        self._database.add_point(point, answered)
        scores = ", ".join(f"{axis} {100 * (score.value or 0):.1f} %" for axis, score in point.scores.items())
        print(f"point {point.index + 1}: {point.label}: {scores}", flush=True)


def main(run: int) -> int:
    """Do the run and write how it ended; the exit code is for the worker's log only."""
    settings = from_environment()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    database = Database(settings.database)
    context = RunContext(run, settings, database)
    signal.signal(signal.SIGTERM, context.stop)
    try:
        from backend.jobs.actions import act
        from backend.jobs.sources import check_unchanged

        row = database.run(run)
        with remembered(settings.hashes):
            check_unchanged(settings, row.recipe)
        result = act(context, row.kind, row.spec)
    except Interrupted as interrupted:
        queue.finish(database, run, RunStatus.INTERRUPTED, error=str(interrupted))
        return 1
    except Cancelled as cancelled:
        queue.finish(database, run, RunStatus.CANCELLED, error=str(cancelled))
        return 1
    except Paused as paused:
        print(paused, flush=True)
        queue.finish(database, run, RunStatus.PAUSED)
        return 0
    except StudioError as error:
        print(f"failed: {error}", flush=True)
        queue.finish(database, run, RunStatus.FAILED, error=str(error))
        return 1
    except MemoryError:
        queue.finish(database, run, RunStatus.FAILED, error="The machine ran out of memory. Choose a smaller model.")
        return 1
    except Exception:
        # A bug: the traceback belongs in the log, the page gets a sentence.
        traceback.print_exc(file=sys.stdout)
        queue.finish(database, run, RunStatus.FAILED, error=BUG)
        return 1
    queue.finish(database, run, RunStatus.DONE, result=result)
    return 0


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(3)


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # to take apart what libraries hold takes a third of a second; the system takes it back at once
