"""The page's end of the playground: starts the process when it is first needed and hands its words on."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.errors import RunFailed, UserError
from backend.settings import Settings, child_environment
from backend.types import Chunk, Column

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_FOR_A_REPLY = 120.0
TAKEN = "A newer request took the model before this answer was complete. Ask again."
ENDED = "The process with the model ended before the answer was complete; playground.log says why. Ask again."


class Playground:
    """One resident pair for all callers; the newest request wins."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._latest = -1
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._replies: dict[int, queue.Queue[dict[str, Any] | None]] = {}

    def stream(
        self, columns: Sequence[Column], messages: Sequence[Mapping[str, str]], new_tokens: int
    ) -> Iterator[Chunk]:
        """Yield each column's growing answer.

        Raises:
            RunFailed: a newer request took the model, or its process ended; what came so far is no whole answer.
        """
        replies: queue.Queue[dict[str, Any] | None] = queue.Queue()
        with self._lock:
            request_id = self._latest = next(self._ids)
            for older in self._replies.values():
                older.put(None)
            self._replies.clear()
            self._replies[request_id] = replies
            order = sorted(range(len(columns)), key=lambda place: not 0 < columns[place].lam < 1)
            request = {
                "id": request_id,
                "columns": [asdict(column) for column in columns],
                "messages": [dict(turn) for turn in messages],
                "new_tokens": new_tokens,
                "order": order,  # the column whose λ is being moved comes first
            }
            self._send(request)
        open_columns = set(range(len(columns)))
        try:
            while open_columns:
                try:
                    reply = replies.get(timeout=SECONDS_FOR_A_REPLY)
                except queue.Empty:
                    raise RunFailed("The model gave no answer for two minutes. Try again.") from None
                if reply is None:
                    newer = request_id != self._latest
                    raise RunFailed(TAKEN if newer else ENDED)
                if "error" in reply:
                    raise UserError("checkpoint", problem=reply["error"].rstrip("."), remedy="Pick another pair.")
                if reply["done"]:
                    open_columns.discard(reply["column"])
                yield Chunk(reply["column"], reply["text"], reply["done"], reply["seconds"])
        finally:
            with self._lock:
                self._replies.pop(request_id, None)
                if open_columns and request_id == self._latest and self._is_alive():
                    self._send({"id": next(self._ids)})  # an id nobody serves stops the one being served

    def warm(self, aligned: str, tuned: str) -> None:
        """Start the process and load a pair, so that the first question need not wait; nothing if it runs already."""
        with self._lock:
            if not self._is_alive():
                pair = {"aligned": aligned, "tuned": tuned, "lam": 0.0}
                self._latest = next(self._ids)
                self._send({"id": self._latest, "columns": [pair], "messages": [], "new_tokens": 0})

    def close(self) -> None:
        """End the process; its memory comes back."""
        with self._lock:
            process, listener, self._process = self._process, self._listener, None
        if process and listener:
            process.kill()
            listener.join()

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _send(self, request: Mapping[str, Any]) -> None:
        if not self._is_alive():
            self._process = self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _start(self) -> subprocess.Popen[str]:
        with (self._settings.home / "playground.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "backend.playground.server"],
                cwd=ROOT,
                env=child_environment(self._settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        self._listener.start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process:  # closes its pipes and waits for it
            for line in process.stdout:
                reply = json.loads(line)
                with self._lock:
                    waiting = self._replies.get(reply["id"])
                if waiting:
                    waiting.put(reply)
        with self._lock:
            if self._process is process:
                for one in self._replies.values():
                    one.put(None)
