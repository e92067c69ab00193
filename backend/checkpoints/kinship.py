"""Whether one model may be a fine-tune of the other, from a sample of their weights. No torch."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from typing import BinaryIO

from backend.checkpoints.adapter import Update
from backend.types import Checkpoint, TensorInfo

NOT_A_CHILD = 0.5
MATRICES = 12
SAMPLE = 512  # elements of each matrix, from its middle
ROWS, COLUMNS = 16, 32  # of each matrix that an adapter changes, from its middle
FORMATS = {"F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2), "BF16": ("H", 2)}

Matrices = Mapping[str, TensorInfo]


def relative_change(aligned: Checkpoint, tuned: Checkpoint) -> float | None:
    """‖θ1 − θ0‖ / ‖θ0‖ of the matrices, from a few thousand weights; None where there is nothing to compare.

    A fine-tune moves a weight by a few percent of its size; two models trained apart are about √2 apart.
    """
    shared = {name: one for name, one in _matrices(aligned).items() if _alike(one, tuned.tensors.get(name))}

    def step(name: str) -> list[float]:
        pairs = zip(_sample(shared[name]), _sample(tuned.tensors[name]), strict=True)
        return [theirs - ours for ours, theirs in pairs]

    return _ratio(_squares(shared, step), _squares(shared, lambda name: _sample(shared[name])))


def relative_step(aligned: Checkpoint, adapter: Checkpoint, updates: Mapping[str, Update]) -> float | None:
    """`relative_change` of the aligned model with an adapter: of each matrix it changes a block of ΔW is computed.

    Args:
        updates: of the adapter on the aligned model; see `updates_of`.
    """
    start = _matrices(aligned)
    changed = {name: one for name, one in start.items() if name in updates and _has_numbers(adapter, updates[name])}
    moved = _squares(changed, lambda name: _step(changed[name], adapter, updates[name]))
    return _ratio(moved, _squares(start, lambda name: _sample(start[name])))


def _ratio(moved: float, size: float) -> float | None:
    return (moved / size) ** 0.5 if size and moved < float("inf") else None


def _squares(matrices: Matrices, numbers: Callable[[str], Sequence[float]]) -> float:
    """The sum of the squares of all elements, told from `numbers` of some of the matrices."""
    names = list(matrices)
    found = seen = 0.0
    for name in names[:: max(1, len(names) // MATRICES)]:
        sample = numbers(name)
        found += matrices[name].elements * sum(number * number for number in sample) / len(sample)
        seen += matrices[name].elements
    return found / seen * sum(one.elements for one in matrices.values()) if seen else 0.0


def _matrices(checkpoint: Checkpoint) -> Matrices:
    found = checkpoint.tensors.items()
    return {name: one for name, one in found if len(one.shape) == 2 and one.elements and one.dtype in FORMATS}


def _step(start: TensorInfo, adapter: Checkpoint, update: Update) -> list[float]:
    """A block of what an adapter adds to a matrix, from its middle."""
    rows, columns = (_middle(size, count) for size, count in zip(start.shape, (ROWS, COLUMNS), strict=True))
    step = [0.0] * (len(rows) * len(columns))
    if update.whole:
        theirs, ours = (_block(one, rows, columns) for one in (adapter.tensors[update.whole], start))
        step = [new - old for new, old in zip(_flat(theirs), _flat(ours), strict=True)]
    if update.a:
        product = _flat(_product(adapter, update, rows, columns))
        step = [one + update.scale * change for one, change in zip(step, product, strict=True)]
    return step


def _product(adapter: Checkpoint, update: Update, rows: range, columns: range) -> list[list[float]]:
    """These rows and columns of B·A, or of its transpose."""
    a, b = adapter.tensors[update.a], adapter.tensors[update.b]
    rank = range(a.shape[0])
    up, down = (columns, rows) if update.transposed else (rows, columns)
    from_a = list(zip(*_block(a, rank, down), strict=True))
    product = [[sum(map(mul, left, right)) for right in from_a] for left in _block(b, up, rank)]
    return [list(line) for line in zip(*product, strict=True)] if update.transposed else product


def _flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [number for row in rows for number in row]


def _middle(size: int, count: int) -> range:
    begin = max(0, (size - count) // 2)
    return range(begin, min(size, begin + count))


def _block(tensor: TensorInfo, rows: range, columns: range) -> list[list[float]]:
    width = tensor.shape[1]
    with tensor.file.open("rb") as stream:
        return [_numbers(stream, tensor, row * width + columns.start, len(columns)) for row in rows]


def _has_numbers(adapter: Checkpoint, update: Update) -> bool:
    given = {adapter.tensors[name].dtype for name in (update.a, update.b, update.whole) if name}
    return given <= FORMATS.keys()


def _alike(ours: TensorInfo, theirs: TensorInfo | None) -> bool:
    return theirs is not None and ours.shape == theirs.shape and theirs.dtype in FORMATS


def _sample(tensor: TensorInfo) -> list[float]:
    """Some consecutive elements from the middle of a stored tensor."""
    count = min(SAMPLE, tensor.elements)
    with tensor.file.open("rb") as stream:
        return _numbers(stream, tensor, (tensor.elements - count) // 2, count)


def _numbers(stream: BinaryIO, tensor: TensorInfo, begin: int, count: int) -> list[float]:
    sign, width = FORMATS[tensor.dtype]
    stream.seek(tensor.begin + begin * width)
    data = stream.read(count * width)
    if tensor.dtype == "BF16":  # the upper half of an fp32
        data = b"".join(b"\0\0" + data[place : place + 2] for place in range(0, len(data), 2))
        sign = "f"
    return list(struct.unpack(f"<{count}{sign}", data))
