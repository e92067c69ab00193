"""The worker: one process that runs queued runs one after the other, each in a child process of its own.

One worker per home folder (a file lock says so), one device slot, one child. A child's memory really comes back when
it ends, and cancelling it is a signal that always works: SIGTERM first, SIGKILL to its whole group a second later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from backend.checkpoints.writer import discard
from backend.jobs import queue
from backend.jobs.sources import merged_folder
from backend.settings import Settings, child_environment
from backend.storage.database import Database
from backend.types import Run, RunStatus

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = "backend.jobs.child"
TICK = 0.1
GRACE = 1.0
IDLE_TICK = 0.3


class Worker:
    """Runs what is queued; see `serve` and `run_one`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._stopping = False

    def serve(self, *, follow: int | None = None) -> bool:
        """Work until told to stop; with `follow`, until that process is gone and nothing is queued.

        Returns False at once when another worker serves this home folder.
        """
        with worker_lock(self._settings, patience=1.0) as held:
            if not held:
                return False
            signal.signal(signal.SIGTERM, self._stop)
            queue.interrupt_orphans(self._database)
            while not self._stopping:
                run = queue.claim(self._database)
                if run:
                    self._supervise(run)
                elif follow and not queue.is_alive(follow):
                    break
                else:
                    time.sleep(IDLE_TICK)
        return True

    def run_one(self, run: int, watch: Callable[[Run], None]) -> bool:
        """Be the worker for the queue up to and including `run`; False when another worker is alive."""
        with worker_lock(self._settings) as held:
            if not held:
                return False
            queue.interrupt_orphans(self._database)
            while self._database.run(run).status is RunStatus.QUEUED:
                claimed = queue.claim(self._database)
                if claimed:
                    self._supervise(claimed, watch if claimed.id == run else lambda _: None)
        return True

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _supervise(self, run: Run, watch: Callable[[Run], None] = lambda _: None) -> None:
        """Run the child to its end, cancelling it when asked, and close the row if the child could not."""
        folder = self._settings.runs / str(run.id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            child = self._start(run, log)
            try:
                self._database.update_run(run.id, pid=child.pid)
                terminated: float | None = None
                while not _ends_within(child, TICK):
                    watch(self._database.run(run.id))
                    cancelled = self._database.control(run.id)[0]
                    if (cancelled or self._stopping) and terminated is None:
                        terminated = time.monotonic()
                        child.terminate()
                    elif terminated is not None and time.monotonic() - terminated > GRACE:
                        _kill_group(child)
            except BaseException:  # Ctrl-C of a foreground run: leave no process and no row behind
                _kill_group(child)
                child.wait()
                queue.finish(self._database, run.id, RunStatus.INTERRUPTED, error=queue.INTERRUPTED)
                raise
        self._close(run, child.returncode)

    def _start(self, run: Run, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", CHILD, str(run.id)],
            cwd=ROOT,
            env=child_environment(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _close(self, run: Run, code: int) -> None:
        """Say how a child ended that did not say so itself."""
        if self._stopping:
            queue.finish(self._database, run.id, RunStatus.INTERRUPTED, error=queue.INTERRUPTED)
        elif self._database.control(run.id)[0]:
            if run.kind == "merge":  # killed before it could tidy up
                discard(merged_folder(self._settings, run.id, run.spec))
            queue.finish(self._database, run.id, RunStatus.CANCELLED, error=queue.cancelled_words(run.kind))
        else:
            reason = "the system stopped it, most likely for lack of memory" if code == -9 else f"exit code {code}"
            error = f"The run's process ended without a word ({reason}). Look at its log, then restart it."
            queue.finish(self._database, run.id, RunStatus.FAILED, error=error)


def start_worker(settings: Settings, *, follow: int) -> None:
    """Start a worker process of its own session: it outlives this process while runs are live."""
    with (settings.home / "worker.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "backend", "worker", "--follow", str(follow)],
            cwd=ROOT,
            env=child_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def worker_is_alive(settings: Settings) -> bool:
    """Whether some process holds the worker's lock."""
    with worker_lock(settings) as held:
        return not held


@contextlib.contextmanager
def worker_lock(settings: Settings, *, patience: float = 0.0) -> Iterator[bool]:
    """Try to be the one worker of this home folder; the system releases the lock when the process ends.

    `patience` is in seconds: somebody may hold the lock for a moment, only to see whether a worker is alive.
    """
    deadline = time.monotonic() + patience
    with (settings.home / "worker.lock").open("a") as file:
        while not (held := _try_lock(file)) and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            yield held
        finally:
            if held:
                fcntl.flock(file, fcntl.LOCK_UN)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
