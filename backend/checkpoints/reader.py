"""Tensors out of a checkpoint, whole or in blocks, by plain reads. The side of `checkpoints` that knows their numbers.

A `Source` is what a merge sees: names, shapes and `read`. A full checkpoint is one, and so is an adapter on its aligned
model; the merge does not know which.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

from backend.checkpoints.adapter import Update, head_follows, updates_of
from backend.checkpoints.headers import FLOATS
from backend.checkpoints.tying import find_ends
from backend.errors import RunFailed, UserError
from backend.lazy import numpy as np
from backend.lazy import torch
from backend.types import Checkpoint, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, Any]


WIDEST = 8  # bytes of the widest dtype
PIECE = 2**18  # elements of a LoRA's product that are multiplied at a time


class Source(Protocol):
    """Where the tensors of one model come from."""

    def names(self) -> list[str]:
        """Every tensor, in the order of files and bytes."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype the tensor is stored in."""

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        """A fresh tensor; the caller may change it."""

    def read_block(self, name: str, begin: int, end: int, scratch: bytearray | None = None) -> Tensor:
        """Elements `begin` to `end` of the tensor laid flat, the same bits as `read` gives.

        Args:
            scratch: memory to read into, so that none is asked of the system again and again; large enough.
        """

    def lies(self, name: str) -> TensorInfo | None:
        """Where these very numbers lie in a file; None where they are computed."""

    def prefetch(self, name: str) -> None:
        """Tell the system that the tensor is read next."""

    def changed_names(self) -> frozenset[str]:
        """Tensors that may differ from the aligned model's."""


class Scratch(threading.local):
    """Memory that each thread reads into again and again, a piece for each model."""

    def __init__(self) -> None:
        self._parts: dict[int, bytearray] = {}

    def part(self, number: int, elements: int) -> bytearray:
        """Room for that many elements of any dtype; what is never written takes no memory."""
        if number not in self._parts or len(self._parts[number]) < WIDEST * elements:
            self._parts[number] = bytearray(WIDEST * elements)
        return self._parts[number]


def torch_dtype(stored: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype name."""
    names = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
    return names[stored]


def array_dtype(stored: str) -> np.dtype[Any]:
    """The NumPy dtype of a safetensors dtype name; of bf16, which NumPy lacks, that of its bits.

    >>> array_dtype("BF16"), array_dtype("F32")
    (dtype('uint16'), dtype('float32'))
    """
    width = {"BOOL": "?", "BF16": "u2"}.get(stored) or f"{stored[0].lower()}{int(stored[1:]) // 8}"
    return np.dtype(width)


def read_array(info: TensorInfo, begin: int, end: int, scratch: bytearray | None = None) -> Array:
    """Elements `begin` to `end` of the tensor that lies there, laid flat; `scratch` as `Source.read_block` takes it."""
    dtype, count = array_dtype(info.dtype), end - begin
    array = np.empty(count, dtype) if scratch is None else np.frombuffer(scratch, dtype, count)
    _fill(array.view(np.uint8).data, info, info.begin + begin * dtype.itemsize)
    return array


class Reader:
    """The tensors of a full checkpoint; a head that no file holds is read from the embedding it is tied to."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._tensors = checkpoint.tensors
        self._ends = find_ends(checkpoint.tensors)

    def names(self) -> list[str]:
        return sorted(self._tensors, key=lambda name: (self._tensors[name].file.name, self._tensors[name].begin))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._info(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return torch_dtype(self._info(name).dtype)

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        tensor = _read(self._info(name))
        return tensor if dtype is None else tensor.to(dtype)

    def read_block(self, name: str, begin: int, end: int, scratch: bytearray | None = None) -> Tensor:
        return _read(self._info(name), begin, end, scratch)

    def lies(self, name: str) -> TensorInfo | None:
        return self._info(name)

    def prefetch(self, name: str) -> None:
        info = self._info(name)
        if hasattr(os, "posix_fadvise"):
            try:
                file = os.open(info.file, os.O_RDONLY)
            except OSError:
                return  # the read itself will say what is wrong
            try:
                os.posix_fadvise(file, info.begin, info.end - info.begin, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(file)

    def changed_names(self) -> frozenset[str]:
        names = [*self._tensors, *([self._ends.head] if self._ends else [])]
        return frozenset(name for name in names if self._info(name).dtype in FLOATS)

    def _info(self, name: str) -> TensorInfo:
        if self._ends and name == self._ends.head:
            return self._tensors.get(name) or self._tensors[self._ends.embedding]
        if name not in self._tensors:
            problem = f"there is no tensor {name} in {self.checkpoint.name}"
            raise UserError("tuned", problem=problem, remedy="Pick a pair of the same architecture.")
        return self._tensors[name]


class AdapterSource:
    """A LoRA adapter on its aligned model: changed tensors are aligned + s·B·A in fp32, the rest are the aligned ones.

    So is the head of a model that ties it to a changed embedding, unless the adapter says that it follows: such a model
    has a head of its own, as it has in PEFT. Nothing is kept: each tensor is computed when it is read.
    """

    def __init__(self, aligned: Reader, adapter: Checkpoint) -> None:
        self._aligned = aligned
        self._adapter = Reader(adapter)
        self._updates = updates_of(adapter, aligned.names())
        self._names = list(dict.fromkeys([*aligned.names(), *self._updates]))
        ends = find_ends(aligned.names())
        if ends and ends.head not in aligned.names() and ends.embedding in self._updates:
            if head_follows(adapter, ends):
                self._updates[ends.head] = self._updates[ends.embedding]
            elif ends.head not in self._names:
                self._names.append(ends.head)
        self._last_factors: tuple[str, Tensor, Tensor] | None = None
        for update in self._updates.values():
            update.check_fit(adapter, self._aligned.shape(update.target))

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._aligned.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._aligned.dtype(name)

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        if name not in self._updates:
            return self._aligned.read(name, dtype=dtype)
        shape = self._aligned.shape(name)
        tensor = self.read_block(name, 0, math.prod(shape)).reshape(shape)
        return tensor if dtype is None else tensor.to(dtype)

    def changed_names(self) -> frozenset[str]:
        return frozenset(self._updates)

    def read_block(self, name: str, begin: int, end: int, scratch: bytearray | None = None) -> Tensor:
        update = self._updates.get(name)
        if update is None:
            return self._aligned.read_block(name, begin, end, scratch)
        if update.whole:
            start = self._adapter.read_block(update.whole, begin, end, scratch).float()
        else:
            start = self._aligned.read_block(name, begin, end, scratch).float()
        return start.add_(self._delta(update, begin, end)) if update.a else start

    def lies(self, name: str) -> TensorInfo | None:
        return None if name in self._updates else self._aligned.lies(name)

    def prefetch(self, name: str) -> None:
        self._aligned.prefetch(name)

    def _delta(self, update: Update, begin: int, end: int) -> Tensor:
        """Elements `begin` to `end` of s·B·A, multiplied by pieces that do not depend on what is asked for.

        A product of some rows is not bit for bit those rows of the product.
        """
        a, b = self._factors(update)
        columns = b.shape[0] if update.transposed else a.shape[1]
        rows = max(1, PIECE // columns)
        first = begin // columns // rows * rows
        pieces = []
        for row in range(first, math.ceil(end / columns), rows):
            part = (b @ a[:, row : row + rows]).T if update.transposed else b[row : row + rows] @ a
            pieces.append(part.mul(update.scale).reshape(-1))
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole[begin - first * columns : end - first * columns]

    def _factors(self, update: Update) -> tuple[Tensor, Tensor]:
        known = self._last_factors
        if known is None or known[0] != update.target:
            a, b = (self._adapter.read(name, dtype=torch.float32) for name in (update.a, update.b))
            self._last_factors = known = (update.target, a, b)
        return known[1], known[2]


def open_source(checkpoint: Checkpoint, aligned: Checkpoint | None = None) -> Source:
    """The source of `checkpoint`; an adapter needs the `aligned` model that it is put on.

    Raises:
        UserError: an adapter without a model, or one that does not fit it.
    """
    if checkpoint.kind == "full":
        return Reader(checkpoint)
    if aligned is None or aligned.kind != "full":
        problem = f"{checkpoint.name} is an adapter, which is only the change to another model"
        raise UserError("aligned", problem=problem, remedy="Give the full model it was trained on as aligned.")
    return AdapterSource(Reader(aligned), checkpoint)


def _read(info: TensorInfo, begin: int = 0, end: int | None = None, scratch: bytearray | None = None) -> Tensor:
    """The whole tensor in its shape, or elements `begin` to `end` of it laid flat."""
    dtype = torch_dtype(info.dtype)
    count = (info.elements if end is None else end) - begin
    shape = info.shape if end is None else (count,)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    size = count * dtype.itemsize
    if scratch is None:
        tensor = torch.empty(shape, dtype=dtype)
        view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
    else:
        tensor = torch.frombuffer(scratch, dtype=dtype, count=count)
        view = memoryview(scratch)[:size]
    _fill(view, info, info.begin + begin * dtype.itemsize)
    return tensor


def _fill(view: memoryview, info: TensorInfo, offset: int) -> None:
    try:
        file = os.open(info.file, os.O_RDONLY)
        try:
            done = 0
            while done < len(view):
                got = os.preadv(file, [view[done:]], offset + done)
                if not got:
                    raise RunFailed(f"{info.file.name} ended inside {info.name}: it changed while it was read.")
                done += got
        finally:
            os.close(file)
    except OSError as error:
        raise RunFailed(f"{info.file.name} could not be read ({error.strerror}): check the disk.") from error
