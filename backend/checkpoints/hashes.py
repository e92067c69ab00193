"""SHA-256 of weight files, so that a number can be traced to the bytes it came from. Each file is read once.

Large files are hashed by helpers of their own while the caller does other work: loading torch alone takes as long as
hashing two gigabytes, and holds Python's lock while it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from backend.errors import Cancelled
from backend.storage.files import write_text
from backend.types import Checkpoint

BLOCK = 2**22
WORTH_A_PROCESS = 2**27  # bytes
WORTH_KEEPING = 2**20
PROCESSES = 2
SCRIPT = """
import hashlib, os, sys
os.nice(5)
for name in sys.argv[1:]:
    with open(name, "rb", buffering=0) as stream:
        print(hashlib.file_digest(stream, "sha256").hexdigest(), flush=True)
"""

MOST_KEPT = 10_000  # hashes in one file

Key = tuple[str, int, int, int, int]

_known: dict[Key, str] = {}


def recall(file: Path) -> None:
    """Take over the hashes that earlier processes wrote to `file`; a broken file is no file."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        for path, inode, size, changed, touched, digest in json.loads(file.read_text(encoding="utf-8")):
            _known.setdefault((path, inode, size, changed, touched), digest)


def remember(file: Path) -> None:
    """Write the hashes of large files that still lie there as they were, so that later processes need not read them."""
    recall(file)  # what others wrote meanwhile
    kept = [(*key, digest) for key, digest in _known.items() if key[2] >= WORTH_KEEPING and _state(Path(key[0])) == key]
    with contextlib.suppress(OSError):  # only slower next time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(kept[-MOST_KEPT:]))


@contextlib.contextmanager
def remembered(file: Path) -> Iterator[None]:
    """What is hashed inside is not hashed again by later processes, nor what earlier ones hashed."""
    recall(file)
    before = len(_known)
    try:
        yield
    finally:
        if len(_known) != before:
            remember(file)


class HashesAhead:
    """Hashes of checkpoints made beside the caller's own work; `wait` puts them where `file_hash` finds them.

    Leaving the block ends the helpers. Small files are left to `file_hash`.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        files = {file: None for one in checkpoints for file in _files(one)}
        keys = {file: _key(file) for file in files if file.is_file()}
        sizes = {file: key[2] for file, key in keys.items() if key not in _known}
        self._helpers: list[tuple[list[Path], subprocess.Popen[str]]] = []
        self._keys = keys
        if sum(sizes.values()) >= WORTH_A_PROCESS:
            for number in range(PROCESSES):
                self._start(list(sizes)[number::PROCESSES])

    def __enter__(self) -> HashesAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, helper in self._helpers:
            helper.kill()
            helper.communicate()

    def wait(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Take over what was found; a file that changed meanwhile is left to `file_hash`."""
        while self._helpers:
            files, helper = self._helpers[0]
            try:
                said, _ = helper.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                if should_stop():
                    raise Cancelled("Cancelled; nothing was written.") from None
                continue
            for file, digest in zip(files, said.split(), strict=False):
                if _key(file) == self._keys[file]:
                    _known[self._keys[file]] = digest
            self._helpers.pop(0)

    def _start(self, files: list[Path]) -> None:
        command = [sys.executable, "-I", "-S", "-c", SCRIPT, *map(str, files)]
        try:
            helper = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return  # then `file_hash` does it
        self._helpers.append((files, helper))


def file_hashes(checkpoint: Checkpoint, *, should_stop: Callable[[], bool] = lambda: False) -> dict[str, str]:
    """File name -> SHA-256 of every weight file, and of the adapter's configuration where there is one."""
    return {file.name: file_hash(file, should_stop=should_stop) for file in _files(checkpoint)}


def file_hash(file: Path, *, should_stop: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of one file, remembered by its path, inode, size and times of change."""
    key = _key(file)
    if key not in _known:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                if should_stop():
                    raise Cancelled("Cancelled; nothing was written.")
                digest.update(block)
        _known[key] = digest.hexdigest()
    return _known[key]


def file_state(checkpoint: Checkpoint) -> list[tuple[str, int, int, int]]:
    """Path, inode, size and time of change of what `file_hashes` hashes: changed bytes change it."""
    return [_key(file)[:4] for file in _files(checkpoint)]


def _files(checkpoint: Checkpoint) -> list[Path]:
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    return [*files, checkpoint.folder / "adapter_config.json"] if checkpoint.kind == "adapter" else files


def note(file: Path, digest: str) -> None:
    """Take over the hash of a file from whoever wrote its bytes."""
    _known[_key(file)] = digest


def _key(file: Path) -> Key:
    """What a file with other bytes differs in; the time of the last change of its entry cannot be set by hand."""
    status = file.stat()
    return (str(file.absolute()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _state(file: Path) -> Key | None:
    try:
        return _key(file)
    except OSError:
        return None
