"""The safetensors header: what is read, and every lie that is refused in one sentence."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.checkpoints.headers import read_header
from backend.errors import UserError

TWO = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
}


def write(path: Path, header: object, data: bytes = bytes(12), length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_header(path, field="tuned")
    return str(caught.value)


def changed(name: str, **more: object) -> dict[str, object]:
    return {**TWO, name: {**TWO[name], **more}}


def test_names_dtypes_shapes_and_places_are_those_of_the_file(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones((), dtype=torch.bfloat16), "z": torch.ones(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "model.safetensors")
    assert {name: (info.dtype, info.shape) for name, info in found.items()} == {
        "x": ("F32", (2, 3)),
        "y": ("BF16", ()),
        "z": ("F32", (0, 4)),
    }
    raw = (tmp_path / "model.safetensors").read_bytes()[found["x"].begin : found["x"].end]
    assert struct.unpack("<6f", raw) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("header", "data", "sentence"),
    [
        (TWO, bytes(9), "is truncated: its header describes"),
        (TWO, bytes(13), "has trailing bytes: its header describes"),
        (changed("b", data_offsets=[4, 8]), bytes(8), "tensor 'b' overlaps the one before it (at 4, not 8)"),
        (changed("b", data_offsets=[9, 13]), bytes(13), "tensor 'b' leaves a hole before it (at 9, not 8)"),
        (changed("a", shape=[3]), bytes(12), "gives tensor 'a' 8 bytes, its shape needs 12"),
        (changed("a", shape=[-2]), bytes(12), "gives tensor 'a' a shape or offset that is no whole number"),
        (changed("a", shape=[True, 2]), bytes(12), "gives tensor 'a' a shape or offset that is no whole number"),
        (changed("a", data_offsets=[0, 8.0]), bytes(12), "gives tensor 'a' a shape or offset that is no whole number"),
        (changed("a", data_offsets=[8, 0]), bytes(12), "gives tensor 'a' -8 bytes, its shape needs 8"),
        (changed("a", dtype="F4"), bytes(12), "stores tensor 'a' as 'F4'; allowed are F64, F32"),
        (changed("a", dtype=["F32"]), bytes(12), "stores tensor 'a' as"),
        ({"a": 3}, b"", "describes tensor 'a' without dtype, shape and offsets"),
        (b"\x80\x04pickle", b"", "has no readable safetensors header"),
        (b'["a"]', b"", "has no readable safetensors header (not a table of tensors)"),
        (b'{"a":{},"a":{}}', b"", "has no readable safetensors header (a name appears twice)"),
        (b"[" * 100_000, b"", "has no readable safetensors header"),
    ],
)
def test_a_lying_file_is_refused(tmp_path: Path, header: object, data: bytes, sentence: str) -> None:
    said = refusal(write(tmp_path / "model.safetensors", header, data))
    assert said.startswith("tuned: model.safetensors ")
    assert sentence in said
    assert "Download or save the file again." in said or "Dequantise" in said


def test_a_header_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "m.safetensors", TWO, length=10_000))
    assert said.startswith("tuned: m.safetensors is truncated: its header says 10000 bytes, only ")


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_of_a_few_bytes_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(bytes(size))
    assert f"is truncated: it holds {size} bytes" in refusal(tmp_path / "m.safetensors")


def test_a_header_of_a_million_tensors_is_refused_unread_and_cheaply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = b'"t%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    path = write(
        tmp_path / "m.safetensors", b"{" + b",".join(entry % number for number in range(1_000_000)) + b"}", b""
    )
    small = write(tmp_path / "n.safetensors", b"{" + b",".join(entry % number for number in range(200_000)) + b"}", b"")
    monkeypatch.setattr("backend.checkpoints.headers.json.loads", lambda *_, **__: pytest.fail("it was parsed"))
    tracemalloc.start()
    assert "bytes; allowed is up to 16777216" in refusal(path)
    assert "lists 200000 tensors; allowed are up to 100000" in refusal(small)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
