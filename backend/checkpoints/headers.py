"""The header of a safetensors file, believed only after every number in it was checked. Reads no weights, no torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from backend.errors import UserError
from backend.types import TensorInfo

MOST_HEADER_BYTES = 16 * 2**20
MOST_TENSORS = 100_000

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

AGAIN = "Download or save the file again."


def read_header(file: Path, *, field: str = "checkpoint") -> dict[str, TensorInfo]:
    """Every tensor of `file`, in the order of its bytes.

    Raises:
        UserError: the file is shorter or longer than it says, the header is too large or no header at all, a dtype is
            unknown, or two tensors overlap or leave a hole. The sentence names the file and the tensor.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise refusal(field, file, f"is truncated: it holds {size} bytes, a header alone takes more")
            (length,) = struct.unpack("<Q", start)
            _check_length(field, file, length, size)
            raw = stream.read(length)
    except OSError as error:
        raise refusal(field, file, f"could not be read ({error.strerror})", "Check the path and its rights.") from None
    entries = _parse(field, file, raw)
    begin = 8 + length
    tensors = [_tensor(field, file, name, entry, begin) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_layout(field, file, tensors, begin, size)
    return {tensor.name: tensor for tensor in tensors}


def refusal(field: str, file: Path, problem: str, remedy: str = AGAIN) -> UserError:
    """The error about one file, named without its folder."""
    return UserError(field, problem=f"{file.name} {problem}", remedy=remedy)


def _check_length(field: str, file: Path, length: int, size: int) -> None:
    if length > MOST_HEADER_BYTES:
        problem = f"has a header of {length} bytes; allowed is up to {MOST_HEADER_BYTES}"
        raise refusal(field, file, problem, "Use a checkpoint saved by a common tool.")
    if length > size - 8:
        raise refusal(field, file, f"is truncated: its header says {length} bytes, only {size - 8} follow")


def _parse(field: str, file: Path, raw: bytes) -> dict[str, Any]:
    count = raw.count(b'"data_offsets"')
    if count > MOST_TENSORS:
        problem = f"lists {count} tensors; allowed are up to {MOST_TENSORS}"
        raise refusal(field, file, problem, "Use a checkpoint saved by a common tool.")
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise refusal(field, file, f"has no readable safetensors header ({_short(error)})") from None
    if not isinstance(entries, dict):
        raise refusal(field, file, "has no readable safetensors header (not a table of tensors)")
    entries.pop("__metadata__", None)
    return entries


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _short(error: Exception) -> str:
    return str(error).split(":")[0][:80] or type(error).__name__


def _tensor(field: str, file: Path, name: str, entry: Any, start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise refusal(field, file, f"describes tensor {name[:100]!r} without dtype, shape and offsets") from None
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        problem = f"stores tensor {name[:100]!r} as {str(dtype)[:20]!r}; allowed are {', '.join(ITEM_BYTES)}"
        raise refusal(field, file, problem, "Dequantise the checkpoint first.")
    if len(shape) > 8 or not all(_is_count(number) for number in (*shape, begin, end)):
        raise refusal(field, file, f"gives tensor {name[:100]!r} a shape or offset that is no whole number")
    info = TensorInfo(name, dtype, shape, file, start + begin, start + end)
    if info.elements * ITEM_BYTES[dtype] != end - begin:
        wanted = info.elements * ITEM_BYTES[dtype]
        raise refusal(field, file, f"gives tensor {name[:100]!r} {end - begin} bytes, its shape needs {wanted}")
    return info


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63


def _check_layout(field: str, file: Path, tensors: list[TensorInfo], start: int, size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the one before it" if tensor.begin < position else "leaves a hole before it"
            at, wanted = tensor.begin - start, position - start
            raise refusal(field, file, f"is inconsistent: tensor {tensor.name[:100]!r} {what} (at {at}, not {wanted})")
        position = tensor.end
    if position != size:
        what = "is truncated" if position > size else "has trailing bytes"
        raise refusal(field, file, f"{what}: its header describes {position} bytes, the file holds {size}")
