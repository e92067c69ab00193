"""Whether one model may be a fine-tune of the other, from a sample of their weights. No torch."""

from __future__ import annotations

import struct

from backend.types import Checkpoint, TensorInfo

NOT_A_CHILD = 0.5
MATRICES = 12
SAMPLE = 512  # elements of each matrix, from its middle
FORMATS = {"F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2), "BF16": ("H", 2)}


def relative_change(aligned: Checkpoint, tuned: Checkpoint) -> float | None:
    """‖θ1 − θ0‖ / ‖θ0‖ over a few thousand weights of the layers; None where there is nothing to compare.

    A fine-tune moves a weight by a few percent of its size; two models trained apart are about √2 apart.
    """
    moved = size = 0.0
    names = [
        name for name, one in aligned.tensors.items() if len(one.shape) == 2 and _alike(one, tuned.tensors.get(name))
    ]
    for name in names[:: max(1, len(names) // MATRICES)]:
        for ours, theirs in zip(_sample(aligned.tensors[name]), _sample(tuned.tensors[name]), strict=True):
            moved += (theirs - ours) ** 2
            size += ours**2
    return (moved / size) ** 0.5 if size and moved < float("inf") else None


def _alike(ours: TensorInfo, theirs: TensorInfo | None) -> bool:
    return theirs is not None and ours.shape == theirs.shape and {ours.dtype, theirs.dtype} <= FORMATS.keys()


def _sample(tensor: TensorInfo) -> list[float]:
    """Some consecutive elements from the middle of a stored tensor."""
    sign, width = FORMATS[tensor.dtype]
    count = min(SAMPLE, tensor.elements)
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.begin + (tensor.elements - count) // 2 * width)
        data = stream.read(count * width)
    if tensor.dtype == "BF16":  # the upper half of an fp32
        data = b"".join(b"\0\0" + data[place : place + 2] for place in range(0, len(data), 2))
        sign = "f"
    return list(struct.unpack(f"<{count}{sign}", data))
