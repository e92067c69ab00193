"""A Hugging Face folder, written shard by shard beside its final place and renamed when complete.

Every header and offset is known before the first tensor, so no shard is ever held in memory. What is interrupted leaves
no folder of that name.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from backend.checkpoints.folder import INDEX, WEIGHTS
from backend.checkpoints.headers import ITEM_BYTES
from backend.errors import RunFailed, UserError
from backend.lazy import torch
from backend.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


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
    """Write tensors in order, then the small files, then `commit`. Leaving without `commit` leaves nothing.

    Raises:
        UserError: `out` exists and is not empty, cannot be written, or another run is writing it.
        RunFailed: the disk is full or broken.
    """

    def __init__(self, out: Path, shards: Sequence[Sequence[Slot]], *, field: str = "out") -> None:
        self.out = out.absolute()
        self.hashes: dict[str, str] = {}
        self._shards = [list(shard) for shard in shards]
        self._temporary = self.out.with_name(self.out.name + ".tmp")
        self._lock = -1
        self._stream: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._queue: list[Slot] = []
        self._next_shard = 0
        self._open(field)

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            self._abandon()
        if isinstance(error, OSError):
            raise RunFailed(_disk_sentence(error, self.out)) from error

    def write(self, name: str, tensor: Tensor) -> None:
        """The next tensor; the order is that of the shards."""
        if not self._queue:
            self._next_file()
        slot = self._queue.pop(0)
        stored = _stored_dtype(tensor)
        if (name, stored, tuple(tensor.shape)) != slot:
            raise ValueError(f"expected {slot}, got {name} {stored} {tuple(tensor.shape)}")
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            self._put(memoryview(flat.view(torch.uint8).numpy().data))
        if not self._queue:
            self._close_file()

    def put_text(self, name: str, text: str) -> None:
        """A small text file."""
        with (self._temporary / name).open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def put_json(self, name: str, table: dict[str, Any]) -> None:
        """A small JSON file."""
        self.put_text(name, json.dumps(table, indent=2, ensure_ascii=False) + "\n")

    def put_copy(self, source: Path) -> None:
        """A copy of a small file, under its own name."""
        shutil.copyfile(source, self._temporary / source.name)

    def commit(self) -> Path:
        """Give the folder its name."""
        if self._queue or self._next_shard != len(self._shards):
            raise ValueError("not every tensor was written")
        if len(self._shards) > 1:
            self.put_json(INDEX, self._index())
        os.fsync(self._lock)
        os.rename(self._temporary, self.out)
        os.close(self._lock)
        self._lock = -1
        return self.out

    def _open(self, field: str) -> None:
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir())):
            problem = f"the folder {self.out} exists and is not empty"
            raise UserError(field, problem=problem, remedy="Choose another name, or remove it first.")
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._temporary, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in self._temporary.iterdir():
                leftover.unlink()
        except BlockingIOError:
            os.close(self._lock)
            problem = f"another run is writing {self.out}"
            raise UserError(field, problem=problem, remedy="Wait for it, or choose another name.") from None
        except OSError as error:
            if self._lock >= 0:
                os.close(self._lock)
            problem = f"the folder {self.out} cannot be written ({error.strerror})"
            raise UserError(field, problem=problem, remedy="Choose a folder that you may write to.") from None

    def _file_name(self, number: int) -> str:
        count = len(self._shards)
        return WEIGHTS if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    def _next_file(self) -> None:
        shard = self._shards[self._next_shard]
        self._stream = (self._temporary / self._file_name(self._next_shard)).open("wb")
        self._digest = hashlib.sha256()
        self._queue = list(shard)
        self._put(_header(shard))

    def _put(self, data: bytes | memoryview) -> None:
        assert self._stream is not None
        self._stream.write(data)
        self._digest.update(data)

    def _close_file(self) -> None:
        assert self._stream is not None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.hashes[self._file_name(self._next_shard)] = self._digest.hexdigest()
        self._next_shard += 1

    def _index(self) -> dict[str, Any]:
        places = {slot.name: self._file_name(number) for number, shard in enumerate(self._shards) for slot in shard}
        total = sum(slot.bytes for shard in self._shards for slot in shard)
        return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}

    def _abandon(self) -> None:
        if self._stream is not None:
            self._stream.close()
        shutil.rmtree(self._temporary, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


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
