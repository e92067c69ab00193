"""The life of a run as a state machine over the database.

    queued → running → done | failed | cancelled | interrupted | paused
    queued → cancelled | paused
    failed | cancelled | interrupted | paused → queued (restart, same id, finished points kept)

Guarantee: a run is claimed by one worker only, every change names the states it may leave, and a change that lost the
race changes nothing.
"""

from __future__ import annotations

import os
import time
from typing import Any

from backend.errors import UserError
from backend.storage.database import Database
from backend.types import Run, RunStatus

INTERRUPTED = "The studio's worker stopped while this run was going. What was finished is kept; restart it to go on."


def cancelled_words(kind: str) -> str:
    """What a cancelled run of this kind leaves; a merge appears whole or not at all."""
    return "Cancelled; nothing was written." if kind == "merge" else "Cancelled; what was finished is kept."


def claim(database: Database, run: int | None = None) -> Run | None:
    """Take `run`, or the oldest queued one, for this process; None when there is none or another was faster."""
    chosen = run if run is not None else database.oldest_queued()
    if chosen is None:
        return None
    fields = {"started": time.time(), "finished": None, "error": "", "pid": None, "cancel_requested": False}
    fields["request"] = ""
    if database.move(chosen, [RunStatus.QUEUED], RunStatus.RUNNING, phrase="starting", **fields):
        return database.run(chosen)
    return None


def finish(database: Database, run: int, status: RunStatus, *, error: str = "", result: Any = None) -> bool:
    """Close a running run; False when it is closed already."""
    fields: dict[str, Any] = {"finished": time.time(), "error": error, "seconds_left": None, "pid": None}
    if status is RunStatus.DONE:
        fields |= {"fraction": 1.0, "phrase": "done"}
    if result is not None:
        fields["result"] = result
    return database.move(run, [RunStatus.RUNNING], status, **fields)


def cancel(database: Database, run: int) -> Run:
    """A queued run is cancelled at once, a running one asked to stop (within two seconds); others stay as they are."""
    fields = {"finished": time.time(), "error": "Cancelled before it started."}
    if not database.move(run, [RunStatus.QUEUED], RunStatus.CANCELLED, **fields):
        database.move(run, [RunStatus.RUNNING], RunStatus.RUNNING, cancel_requested=True)
    return database.run(run)


def pause(database: Database, run: int) -> Run:
    """Ask a running fine-tuning to write a checkpoint and stop; a queued one is paused at once.

    Raises:
        UserError: the run is of a kind or in a state that has nothing to pause.
    """
    if not database.move(run, [RunStatus.QUEUED], RunStatus.PAUSED, phrase="paused before it started"):
        _ask(database, run, "pause", "be paused once it runs")
    return database.run(run)


def stop_and_keep(database: Database, run: int) -> Run:
    """Ask a running fine-tuning to finish now with the weights it has.

    Raises:
        UserError: the run is of a kind or in a state that has nothing to keep.
    """
    _ask(database, run, "keep", "stop early and keep its weights")
    return database.run(run)


def _ask(database: Database, run: int, request: str, words: str) -> None:
    found = database.run(run)
    if found.kind != "tune":
        kept = "nothing is written" if found.kind == "merge" else "what is finished is kept"
        problem = f"run {run} is of the kind {found.kind}; only a fine-tuning can {words}"
        raise UserError("run", problem=problem, remedy=f"Cancel it instead; {kept}.")
    if not database.move(run, [RunStatus.RUNNING], RunStatus.RUNNING, request=request):
        status = database.run(run).status
        remedy = "Restart it first." if status.can_restart else "Ask while it runs."
        raise UserError("run", problem=f"run {run} is {status}, not running", remedy=remedy)


def restart(database: Database, run: int) -> Run:
    """Queue a failed, cancelled, interrupted or paused run again under its id.

    Raises:
        UserError: the run is in another state.
    """
    stopped = [status for status in RunStatus if status.can_restart]
    fields = {
        "queued": time.time(),
        "error": "",
        "finished": None,
        "cancel_requested": False,
        "request": "",
        "phrase": "",
        "pid": None,
    }
    if not database.move(run, stopped, RunStatus.QUEUED, **fields):
        status = database.run(run).status
        raise UserError(
            "run",
            problem=f"run {run} is {status}; only failed, cancelled, interrupted and paused runs can be restarted",
            remedy="Start a new run with its settings instead.",
        )
    return database.run(run)


def interrupt_orphans(database: Database) -> list[int]:
    """Mark the running runs as interrupted. Call it only when no worker is alive; their children end by themselves."""
    orphans = []
    for run in database.list_runs(status=[RunStatus.RUNNING]):
        _wait_for_exit(database.control(run.id)[1], seconds=3.0)
        if finish(database, run.id, RunStatus.INTERRUPTED, error=INTERRUPTED):
            orphans.append(run.id)
    return orphans


def _wait_for_exit(pid: int | None, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while pid and is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
