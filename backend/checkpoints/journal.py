"""What of an unfinished folder is safely on the disk, so that a merge that was killed goes on where it was.

A line for each finished tensor, written only after the tensor's own bytes were synced. The first line is the key of the
work; another key voids the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

JOURNAL = "journal.jsonl"


class Journal:
    """The journal in `folder`; what it says counts only for work of the same `key`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     first = Journal(Path(name), "key")
    ...     first.start({})
    ...     first.append([("w", [0.5])])
    ...     Journal(Path(name), "key").read(), Journal(Path(name), "other").read()
    ({'w': [0.5]}, None)
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / JOURNAL
        self._key = key

    def read(self) -> dict[str, list[float]] | None:
        """Finished tensors with the numbers noted for each; None where there is no journal of this key."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        if not lines or lines[0] != json.dumps({"key": self._key}):
            return None
        found = {}
        for line in lines[1:]:
            try:
                name, note = json.loads(line)
            except ValueError:  # the line that was being written when it was killed
                break
            found[name] = [float(number) for number in note]
        return found

    def start(self, found: dict[str, list[float]]) -> None:
        """Begin anew with what is known to be finished."""
        fresh = self._path.with_suffix(".new")
        lines = [json.dumps({"key": self._key}), *(json.dumps(list(one)) for one in found.items())]
        fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        fresh.replace(self._path)

    def append(self, finished: Sequence[tuple[str, list[float]]]) -> None:
        """Add tensors whose bytes are on the disk."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{json.dumps(list(one))}\n" for one in finished))
            stream.flush()
            os.fsync(stream.fileno())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
