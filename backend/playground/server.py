"""The process that holds the pair: `python -m backend.playground.server`. Reads requests from standard input.

It gives its memory back by ending: when its input closes, when a run holds the device, or after ten idle minutes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from backend.errors import StudioError
from backend.settings import Settings, from_environment
from backend.storage.database import Database
from backend.types import Message, RunStatus

IDLE_SECONDS = 600.0
TICK = 0.5
REMEMBERED = 256


class Newest:
    """The latest request; reading it again tells whether the one being served is still wanted."""

    def __init__(self) -> None:
        self.id = -1
        self.waiting: queue.Queue[dict[str, Any]] = queue.Queue()

    def read(self) -> None:
        """Take requests from standard input until it closes, then end the process."""
        for line in sys.stdin:
            request = json.loads(line)
            self.id = request["id"]
            if "columns" in request:
                self.waiting.put(request)
        os._exit(0)


class Stage:
    """The resident pair, the model whose weights follow λ, and the answers already given."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names: tuple[str, str] | None = None
        self._files: list[tuple[Any, Any]] = []  # each resident checkpoint, and the state of its files when it was read
        self._answers: dict[tuple[object, ...], str] = {}
        self._pair: Any = None
        self._responder: Any = None

    def serve(self, request: Mapping[str, Any], newest: Newest) -> None:
        """Answer every column, as long as nobody asks for something newer."""
        started = time.monotonic()
        if not request["messages"]:
            self._prepare(request["columns"][0])
            return
        self._forget_changed()
        messages = [Message(turn["role"], turn["content"]) for turn in request["messages"]]
        for place in request.get("order") or range(len(request["columns"])):
            column = request["columns"][place]
            key = (column["aligned"], column["tuned"], column["lam"], tuple(messages), request["new_tokens"])
            known = self._answers.get(key)
            if known is not None:
                _say(request, place, known, True, started)
                continue
            responder = self._prepare(column)
            text = ""
            for text in responder.stream(messages, request["new_tokens"]):
                if newest.id != request["id"]:
                    return
                _say(request, place, text, False, started)
            if len(self._answers) >= REMEMBERED:
                self._answers.clear()
            self._answers[key] = text
            _say(request, place, text, True, started)

    def _forget_changed(self) -> None:
        """A checkpoint whose files were written again is another one: its weights and answers go."""
        from backend.checkpoints.hashes import file_state

        try:
            changed = any(file_state(checkpoint) != state for checkpoint, state in self._files)
        except OSError:
            changed = True
        if changed:
            self._names, self._pair, self._responder, self._files = None, None, None, []
            self._answers.clear()

    def _prepare(self, column: Mapping[str, Any]) -> Any:
        """The model with this column's weights, written afresh from both ends."""
        from backend.checkpoints.hashes import file_state
        from backend.checkpoints.resolve import resolve
        from backend.inference.model import load, pick_device
        from backend.jobs.sweep import load_pair
        from backend.registry import methods

        names = (column["aligned"], column["tuned"])
        # A column without a fine-tuned side is the aligned end of whatever pair is resident.
        resident = self._names is not None and (names == self._names or names == (self._names[0], ""))
        if not resident:
            self._names = self._pair = self._responder = None
            aligned = tuned = resolve(names[0], self._settings, field="aligned")
            if names[1]:
                tuned = resolve(names[1], self._settings, field="tuned")
                self._responder, self._pair = load_pair(aligned, tuned, self._settings)
            else:
                self._responder = load(aligned, device=pick_device(self._settings.device))
            self._names, self._files = names, [(one, file_state(one)) for one in (aligned, tuned)]
        if self._pair is not None:
            lam = column["lam"] if names[1] else 0.0
            self._pair.write_into(self._responder.parameters(), methods.get("linear"), {"lam": lam})
        return self._responder


def main() -> None:
    """Serve until there is no reason to stay."""
    settings = from_environment()
    newest = Newest()
    threading.Thread(target=newest.read, daemon=True).start()
    import torch

    torch.set_num_threads(settings.threads)
    database = Database(settings.database)
    stage = Stage(settings)
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_SECONDS:
        try:
            request = newest.waiting.get(timeout=TICK)
        except queue.Empty:
            if database.list_runs(status=[RunStatus.RUNNING]):
                return
            continue
        if request["id"] == newest.id:
            try:
                stage.serve(request, newest)
            except StudioError as error:
                print(json.dumps({"id": request["id"], "error": str(error)}), flush=True)
            except Exception as error:  # whoever asked must hear of it; a half-loaded pair is not kept
                traceback.print_exc()
                reply = {"id": request["id"], "error": f"The model could not answer ({type(error).__name__})"}
                print(json.dumps(reply), flush=True)
                stage = Stage(settings)
        idle_since = time.monotonic()


def _say(request: Mapping[str, Any], column: int, text: str, done: bool, started: float) -> None:
    seconds = round(time.monotonic() - started, 4)
    reply = {"id": request["id"], "column": column, "text": text, "done": done, "seconds": seconds}
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
