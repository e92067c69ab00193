"""SHA-256 of weight files, so that a number can be traced to the bytes it came from. A process reads each file once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from backend.errors import Cancelled
from backend.types import Checkpoint

BLOCK = 2**22

_known: dict[tuple[str, int, int, int], str] = {}


def file_hashes(checkpoint: Checkpoint, *, should_stop: Callable[[], bool] = lambda: False) -> dict[str, str]:
    """File name -> SHA-256 of every weight file, and of the adapter's configuration where there is one."""
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    if checkpoint.kind == "adapter":
        files.append(checkpoint.folder / "adapter_config.json")
    return {file.name: file_hash(file, should_stop=should_stop) for file in files}


def file_hash(file: Path, *, should_stop: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of one file, remembered by its inode, size and time of change."""
    status = file.stat()
    key = (str(file), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _known:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                if should_stop():
                    raise Cancelled("Cancelled while reading the weights.")
                digest.update(block)
        _known[key] = digest.hexdigest()
    return _known[key]
