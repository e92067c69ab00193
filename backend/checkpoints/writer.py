"""A Hugging Face folder, written beside its final place and renamed when complete.

Every header and offset is known before the first tensor, so blocks go straight to where they belong and no shard is
ever held in memory. What is interrupted leaves no folder of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from backend.checkpoints.folder import INDEX, WEIGHTS
from backend.checkpoints.headers import ITEM_BYTES
from backend.checkpoints.journal import JOURNAL, Journal
from backend.errors import Interrupted, RunFailed, UserError
from backend.lazy import numpy as np
from backend.lazy import torch
from backend.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from backend.checkpoints.reader import Array


SECONDS_BETWEEN_SAVES = 0.5
HASH_BLOCK = 2**20


class Slot(NamedTuple):
    """A tensor to be written: its name, its safetensors dtype and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        count = ITEM_BYTES[self.dtype]
        for size in self.shape:
            count *= size
        return count


def shards_like(aligned: Checkpoint, slots: Iterable[Slot]) -> list[list[Slot]]:
    """`slots` grouped as the aligned model's files are; a tensor it does not have joins the last file."""
    groups: dict[Path, list[Slot]] = {}
    for slot in slots:
        known = aligned.tensors.get(slot.name)
        file = known.file if known else list(groups)[-1]
        groups.setdefault(file, []).append(slot)
    return list(groups.values())


class FolderWriter:
    """Write tensors, whole or in blocks, then the small files, then `commit`. Leaving without `commit` leaves nothing.

    Only a process that is killed or interrupted leaves `<out>.tmp`. With the same `key` the next writer takes over what
    that one had finished; anything else there is removed.

    Args:
        key: of the work; whatever changes one byte of the result must change it. Without one nothing is taken over.

    Raises:
        UserError: `out` exists and is not empty, cannot be written, or another run is writing it.
        RunFailed: the disk is full or broken.
    """

    def __init__(self, out: Path, shards: Sequence[Sequence[Slot]], *, key: str = "", field: str = "out") -> None:
        self.out = out.absolute()
        self.hashes: dict[str, str] = {}
        self.finished: dict[str, list[float]] = {}
        self._shards = [list(shard) for shard in shards]
        self._order = [slot for shard in self._shards for slot in shard]
        self._next = 0
        self._temporary = self.out.with_name(self.out.name + ".tmp")
        self._journal = Journal(self._temporary, key)
        self._resumable = bool(key)
        self._lock = -1
        self._files: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._digests: list[Any] = []
        # One thread follows with the hash, one with syncing, while others compute.
        self._follower, self._syncer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._behind: deque[Future[None]] = deque()
        self._save: Future[None] | None = None
        self._unsaved: list[tuple[str, list[float]]] = []
        self._last_save = time.monotonic()
        self._stopped = threading.Event()
        self._open(field)
        try:
            self._prepare(resumable=self._resumable)
        except OSError as error:
            self._abandon()
            raise RunFailed(_disk_sentence(error, self.out)) from error

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0 and self._resumable and isinstance(error, Interrupted):
            self._leave()
        elif self._lock >= 0:
            self._abandon()
        if isinstance(error, OSError):
            raise RunFailed(_disk_sentence(error, self.out)) from error

    def write(self, name: str, tensor: Tensor, note: Sequence[float] = ()) -> None:
        """A whole tensor; the order is that of the shards."""
        slot = self._order[self._next]
        if (name, _stored_dtype(tensor), tuple(tensor.shape)) != slot:
            raise ValueError(f"expected {slot}, got {name} {_stored_dtype(tensor)} {tuple(tensor.shape)}")
        self.put(name, 0, tensor)
        self.finish(name, note)

    def put(self, name: str, begin: int, numbers: Tensor | Array) -> None:
        """Elements of tensor `name` from flat index `begin` on; from any thread, in any order."""
        number, offset = self._places[name]
        size = numbers.itemsize
        if not isinstance(numbers, np.ndarray):
            flat = numbers.detach().to("cpu").contiguous().reshape(-1)
            numbers = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0)
        if numbers.size:
            self._put(self._files[number], numbers.view(np.uint8).data, offset + begin * size)

    def finish(self, name: str, note: Sequence[float] = ()) -> None:
        """Every element of `name`, the next in order, was put; `note` is kept in the journal with it."""
        slot = self._order[self._next]
        if slot.name != name:
            raise ValueError(f"expected {slot}, got {name}")
        self._next += 1
        self._follow(slot)
        if name in self.finished:
            return
        self._unsaved.append((name, list(note)))
        if time.monotonic() - self._last_save > SECONDS_BETWEEN_SAVES and (self._save is None or self._save.done()):
            self._last_save = time.monotonic()
            if self._save is not None:
                self._save.result()
            self._save = self._syncer.submit(self._sync, self._unsaved)
            self._unsaved = []

    def put_text(self, name: str, text: str) -> None:
        """A small text file."""
        (self._temporary / name).write_text(text, encoding="utf-8")

    def put_json(self, name: str, table: dict[str, Any]) -> None:
        """A small JSON file."""
        self.put_text(name, json.dumps(table, indent=2, ensure_ascii=False) + "\n")

    def put_copy(self, source: Path) -> None:
        """A copy of a small file, under its own name."""
        shutil.copyfile(source, self._temporary / source.name)

    def settle(self) -> None:
        """Wait until every byte is on the disk and hashed; `hashes` is complete then."""
        if self._next != len(self._order):
            raise ValueError("not every tensor was written")
        synced = [self._syncer.submit(os.fsync, file) for file in self._files]
        while self._behind:
            self._behind.popleft().result()
        for done in (*([self._save] if self._save else []), *synced):
            done.result()
        self.hashes = {self._file_name(number): one.hexdigest() for number, one in enumerate(self._digests)}

    def commit(self) -> Path:
        """Give the folder its name."""
        self.settle()
        if len(self._shards) > 1:
            self.put_json(INDEX, self._index())
        self._journal.remove()
        weights = {self._file_name(number) for number in range(len(self._shards))}
        for path in self._temporary.iterdir():
            if path.name not in weights:
                _sync_file(path)
        os.fsync(self._lock)
        os.rename(self._temporary, self.out)
        self._close()
        return self.out

    def _open(self, field: str) -> None:
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir())):
            problem = f"the folder {self.out} exists and is not empty"
            raise UserError(field, problem=problem, remedy="Choose another name, or remove it first.")
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._temporary, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            problem = f"another run is writing {self.out}"
            raise UserError(field, problem=problem, remedy="Wait for it, or choose another name.") from None
        except OSError as error:
            if self._lock >= 0:
                os.close(self._lock)
            problem = f"the folder {self.out} cannot be written ({error.strerror})"
            raise UserError(field, problem=problem, remedy="Choose a folder that you may write to.") from None

    def _prepare(self, *, resumable: bool) -> None:
        """Headers and lengths of every file, so that each tensor has its place before the first is computed."""
        headers = [_header(shard) for shard in self._shards]
        sizes = [
            len(head) + sum(slot.bytes for slot in shard) for head, shard in zip(headers, self._shards, strict=True)
        ]
        found = self._journal.read() if resumable else None
        names = [self._file_name(number) for number in range(len(self._shards))]
        if found is None or any(
            not _is_of_size(self._temporary / name, size) for name, size in zip(names, sizes, strict=True)
        ):
            found = {}
        for leftover in self._temporary.iterdir():
            if not found or leftover.name not in names:
                leftover.unlink()
        for number, (name, head, size) in enumerate(zip(names, headers, sizes, strict=True)):
            file = os.open(self._temporary / name, os.O_RDWR | os.O_CREAT, 0o644)
            self._files.append(file)
            if not found:
                _reserve(file, size)
            os.pwrite(file, head, 0)  # again when going on: after a power cut it may never have reached the disk
            self._digests.append(hashlib.sha256(head))
            offset = len(head)
            for slot in self._shards[number]:
                self._places[slot.name] = (number, offset)
                offset += slot.bytes
        for slot in self._order:  # a later tensor without an earlier one cannot be trusted
            if slot.name not in found:
                break
            self.finished[slot.name] = found[slot.name]
        self._journal.start(self.finished)

    def _file_name(self, number: int) -> str:
        count = len(self._shards)
        return WEIGHTS if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    def _put(self, file: int, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(file, data[done:], offset + done)

    def _follow(self, slot: Slot) -> None:
        """Hash the tensor behind those before it."""
        number, offset = self._places[slot.name]
        self._behind.append(self._follower.submit(self._hash, number, offset, slot.bytes))
        while self._behind and self._behind[0].done():
            self._behind.popleft().result()

    def _hash(self, number: int, offset: int, size: int) -> None:
        buffer = memoryview(bytearray(min(size, HASH_BLOCK)))
        end = offset + size
        while offset < end and not self._stopped.is_set():
            got = os.preadv(self._files[number], [buffer[: end - offset]], offset)
            if not got:
                raise RunFailed(f"{self._file_name(number)} became shorter while it was written; nothing was kept.")
            self._digests[number].update(buffer[:got])
            offset += got

    def _sync(self, finished: list[tuple[str, list[float]]]) -> None:
        """The tensors' bytes first, then the journal that says so."""
        for number in {self._places[name][0] for name, _ in finished}:
            os.fsync(self._files[number])
        self._journal.append(finished)

    def _index(self) -> dict[str, Any]:
        places = {slot.name: self._file_name(number) for number, shard in enumerate(self._shards) for slot in shard}
        total = sum(slot.bytes for shard in self._shards for slot in shard)
        return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}

    def _abandon(self) -> None:
        self._close(remove=True)

    def _leave(self) -> None:
        """Stop here, so that the next writer of this key goes on."""
        self._syncer.shutdown()  # the journal is written in one order
        with contextlib.suppress(OSError):  # only more to do again
            self._sync(self._unsaved)
        self._close()

    def _close(self, *, remove: bool = False) -> None:
        self._stopped.set()
        for pool in (self._follower, self._syncer):
            pool.shutdown(cancel_futures=True)
        for file in self._files:
            os.close(file)
        if remove:
            shutil.rmtree(self._temporary, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def leftover(out: Path) -> int:
    """Bytes of disk that an unfinished folder of this name already has."""
    temporary = out.absolute().with_name(out.name + ".tmp")
    return sum(path.stat().st_blocks * 512 for path in temporary.glob("*.safetensors")) if temporary.is_dir() else 0


def discard(out: Path) -> None:
    """Remove what an ended process left unfinished under this name; nothing while somebody writes it."""
    temporary = out.absolute().with_name(out.name + ".tmp")
    if not (temporary / JOURNAL).is_file():
        return
    lock = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(temporary, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _is_of_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _reserve(file: int, size: int) -> None:
    """Give the file its length, and the disk's room where the system can promise it."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    os.ftruncate(file, size)


def _sync_file(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _header(shard: Sequence[Slot]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for slot in shard:
        table[slot.name] = {
            "dtype": slot.dtype,
            "shape": list(slot.shape),
            "data_offsets": [begin, begin + slot.bytes],
        }
        begin += slot.bytes
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _stored_dtype(tensor: Tensor) -> str:
    from backend.checkpoints.reader import torch_dtype

    return next(stored for stored in ITEM_BYTES if torch_dtype(stored) == tensor.dtype)


def _disk_sentence(error: OSError, out: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full while writing {out}; nothing was kept. Free some space and start again."
    return f"{out} could not be written ({error.strerror}); nothing was kept. Check the disk and its rights."
