"""Tensors out of a checkpoint, one at a time, by plain reads into fresh memory. The torch side of `checkpoints`.

A `Source` is what a merge sees: names, shapes and `read`. A full checkpoint is one, and so is an adapter on its aligned
model; the merge does not know which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from backend.checkpoints.adapter import Update, updates_of
from backend.checkpoints.tying import find_ends
from backend.errors import RunFailed, UserError
from backend.lazy import torch
from backend.types import Checkpoint, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


class Source(Protocol):
    """Where the tensors of one model come from."""

    def names(self) -> list[str]:
        """Every tensor, in the order of files and bytes."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype the tensor is stored in."""

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        """A fresh tensor; the caller may change it."""

    def changed_names(self) -> frozenset[str]:
        """Tensors that may differ from the aligned model's."""


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

    def changed_names(self) -> frozenset[str]:
        names = [*self._tensors, *([self._ends.head] if self._ends else [])]
        return frozenset(name for name in names if self.dtype(name).is_floating_point)

    def _info(self, name: str) -> TensorInfo:
        if self._ends and name == self._ends.head:
            return self._tensors.get(name) or self._tensors[self._ends.embedding]
        if name not in self._tensors:
            problem = f"there is no tensor {name} in {self.checkpoint.name}"
            raise UserError("tuned", problem=problem, remedy="Pick a pair of the same architecture.")
        return self._tensors[name]


class AdapterSource:
    """A LoRA adapter on its aligned model: changed tensors are aligned + s·B·A in fp32, the rest are the aligned ones.

    Nothing is kept: each tensor is computed when it is read.
    """

    def __init__(self, aligned: Reader, adapter: Checkpoint) -> None:
        self._aligned = aligned
        self._adapter = Reader(adapter)
        self._ends = find_ends(aligned.names())
        known = [*aligned.names(), *([self._ends.head] if self._ends else [])]
        self._updates = updates_of(adapter, known)
        self._known = frozenset(known)
        for update in self._updates.values():
            update.check_fit(adapter, self._aligned.shape(update.target))

    def names(self) -> list[str]:
        names = self._aligned.names()
        return names + [name for name in self._updates if name not in names]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._aligned.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._aligned.dtype(name)

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        update = self._updates.get(name) or self._tied_update(name)
        if update is None:
            return self._aligned.read(name, dtype=dtype)
        tensor = self._apply(update, name)
        return tensor if dtype is None else tensor.to(dtype)

    def changed_names(self) -> frozenset[str]:
        return frozenset(self._updates)

    def _tied_update(self, name: str) -> Update | None:
        """A tied head follows its embedding."""
        if self._ends and name == self._ends.head and name not in self._aligned.names():
            return self._updates.get(self._ends.embedding)
        return None

    def _apply(self, update: Update, name: str) -> Tensor:
        if update.whole:
            start = self._adapter.read(update.whole, dtype=torch.float32)
        else:
            start = self._aligned.read(name, dtype=torch.float32)
        if not update.a:
            return start
        a = self._adapter.read(update.a, dtype=torch.float32)
        b = self._adapter.read(update.b, dtype=torch.float32)
        delta = (b @ a).mul_(update.scale)
        return start.add_(delta.T if update.transposed else delta)


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


def _read(info: TensorInfo) -> Tensor:
    tensor = torch.empty(info.shape, dtype=torch_dtype(info.dtype))
    if tensor.numel() == 0:
        return tensor
    view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
    try:
        with info.file.open("rb", buffering=0) as stream:
            stream.seek(info.begin)
            done = 0
            while done < len(view):
                got = stream.readinto(view[done:])
                if not got:
                    raise RunFailed(f"{info.file.name} ended inside {info.name}: it changed while it was read.")
                done += got
    except OSError as error:
        raise RunFailed(f"{info.file.name} could not be read ({error.strerror}): check the disk.") from error
    return tensor
