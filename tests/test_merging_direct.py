"""Merges without torch give the bits of those with it, and compiled loops those of plain NumPy and torch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.checkpoints.folder import read_folder
from backend.checkpoints.reader import array_dtype, open_source, read_array, torch_dtype
from backend.errors import UserError
from backend.merging import arrays, blocks, direct, place, sparse
from backend.merging.arrays import array_of, compiled_loops
from backend.merging.direct import needs_no_torch
from backend.merging.engine import merge_to_folder, merged_tensors, open_models
from backend.merging.place import Place
from backend.merging.request import check_request
from backend.registry import methods
from backend.types import Checkpoint
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
LOOPS = compiled_loops()
with_numba = pytest.mark.skipif(LOOPS is None, reason="needs Numba")
WALKS = {"linear": {}, "slerp": {}, "slerp_curves": {"mlp": [0.0, 0.5], "attention": [1.0, 0.3]}}
ALONE = """
import json, sys
from pathlib import Path
from backend.checkpoints.folder import read_folder
from backend.merging.engine import merge_to_folder
from backend.registry import methods
start, goal, out, name, lam = sys.argv[1:]
pair = read_folder("a", Path(start)), read_folder("b", Path(goal))
merge_to_folder(*pair, methods.get(name), {"lam": float(lam)}, Path(out))
print("torch" in sys.modules)
"""
KEPT = """
import numpy as np
from backend.merging import loops
ones, target = np.full(9, 0x3F80, np.uint16), np.zeros(9, np.uint16)
loops.line(ones, ones, 0.3, target)
print((target == ones).all())
"""


NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight")
ODD = [0.0, -0.0, 1e-45, -1e-39, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1e-3, 3e17, -3e17]  # ties, denormals


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def save(folder: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2}))
    save_file(tensors, folder / "model.safetensors")
    return read_folder(folder.name, folder)


def pair_of(folder: Path, dtype: torch.dtype) -> tuple[Checkpoint, Checkpoint]:
    """Odd numbers, a tensor of several blocks, one that is equal in both, and one that hardly differs."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    odd = torch.tensor(ODD).repeat(30)
    start = dict(zip(NAMES, (odd, drawn(700, 1000), drawn(33, 17)), strict=True)) | {"model.norm.weight": drawn(7)}
    goal = {
        NAMES[0]: odd[torch.randperm(len(odd), generator=generator)],
        NAMES[1]: start[NAMES[1]] + 0.3 * drawn(700, 1000),
        NAMES[2]: start[NAMES[2]] * (1 + 2**-7),
    }
    start["lm_head.weight"] = drawn(50, 40)
    goal["lm_head.weight"] = start["lm_head.weight"].clone()
    goal["lm_head.weight"][3, 4] += 2**-7  # so little that only torch's sums say how far it goes
    sides = (start, start | goal)
    first, second = ({name: one.to(dtype) for name, one in side.items()} for side in sides)
    return save(folder / "a", first), save(folder / "b", second)


@with_numba
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("lam", [-0.5, 0.0, 0.3, 0.5, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("method", WALKS)
def test_a_merge_without_torch_gives_the_bits_of_one_with_it(
    method: str, lam: float, dtype: torch.dtype, tmp_path: Path, monkeypatch: Any
) -> None:
    pair, plugin = pair_of(tmp_path, dtype), methods.get(method)
    knobs = check_request(plugin, WALKS[method] | {"lam": lam})
    assert needs_no_torch(plugin, pair[0], [pair[1]])
    alone = merge_to_folder(*pair, plugin, knobs, tmp_path / "alone")
    merged = open_source(read_folder("alone", tmp_path / "alone"))
    for name, expected in merged_tensors(open_models(pair[0], [pair[1]]), plugin, knobs):
        assert bits(merged.read(name)) == bits(expected), name
    monkeypatch.setattr(direct, "compiled_loops", lambda: None)
    beside = merge_to_folder(*pair, plugin, knobs, tmp_path / "beside")
    assert (alone["files"], alone["effective"]) == (beside["files"], beside["effective"])


def said(program: str, *given: object, **more: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", program, *map(str, given)]
    environment = {**os.environ, **more}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@with_numba
@pytest.mark.parametrize(("method", "lam"), [("linear", 0.3), ("slerp", 0.3), ("slerp", 0), ("slerp", 1)])
def test_lines_and_arcs_load_no_torch_and_other_methods_do(method: str, lam: float, tmp_path: Path) -> None:
    aligned = tiny.folder(tmp_path / "aligned", dtype=torch.bfloat16)
    tuned = tiny.folder(tmp_path / "tuned", dtype=torch.bfloat16, near=aligned)
    for folder in (aligned, tuned):  # a buffer that holds no weights, and a tensor that hardly differs
        tensors = load_file(folder / "model.safetensors") | {"model.steps": torch.arange(5)}
        tensors["model.norm.weight"] = torch.ones(2**13, dtype=torch.bfloat16)
        tensors["model.norm.weight"][0] += 2**-7 * (folder == tuned)
        save_file(tensors, folder / "model.safetensors")
    for name, expected in ((method, "False"), ("ties", "True")):
        assert said(ALONE, aligned, tuned, tmp_path / name, name, lam) == expected


def test_the_process_of_a_merge_loads_no_torch_by_itself() -> None:
    program = """
import sys, backend.jobs.child
from backend.jobs.merge import merge_device
from backend.registry import methods
from backend.settings import from_environment
print(merge_device(from_environment(), methods.get("linear")), "torch" in sys.modules)
"""
    for device in ("auto", "cpu"):
        assert said(program, STUDIO_DEVICE=device) == "cpu False"


@with_numba
@pytest.mark.parametrize("method", ["slerp", "slerp_curves"])
def test_how_far_a_merge_goes_does_not_depend_on_the_threads(method: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    start = {NAMES[1]: torch.randn(1100, 1000, generator=generator), NAMES[2]: torch.randn(70, 10)}
    goal = {name: one + 0.3 * torch.randn(one.shape, generator=generator) for name, one in start.items()}
    goal[NAMES[1]][1:] = start[NAMES[1]][1:]
    pair, plugin = (save(tmp_path / "a", start), save(tmp_path / "b", goal)), methods.get(method)
    knobs = check_request(plugin, {"lam": 1.0} | ({"mlp": [0.5, 1.0]} if method == "slerp_curves" else {}))
    found = []
    for threads, loops in ((1, compiled_loops), (3, compiled_loops), (3, lambda: None)):
        torch.set_num_threads(threads)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(direct, "compiled_loops", loops)
                found.append(merge_to_folder(*pair, plugin, knobs, tmp_path / f"out{len(found)}"))
        finally:
            torch.set_num_threads(1)
    assert found[0]["effective"] == found[1]["effective"] == found[2]["effective"]
    assert found[0]["files"] == found[1]["files"] == found[2]["files"]


@with_numba
@pytest.mark.parametrize(
    ("method", "knobs"),
    [("slerp", {}), ("dare_linear", {"rescale": "l1"}), ("dare_ties", {}), ("della", {}), ("ties", {})],
)
def test_compiled_loops_inside_a_merge_change_no_byte(
    method: str, knobs: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    pair, plugin = pair_of(tmp_path, torch.bfloat16), methods.get(method)
    checked, found = check_request(plugin, knobs), []
    monkeypatch.setattr(direct, "compiled_loops", lambda: None)
    for worth in (1, 2**40):
        monkeypatch.setattr(blocks, "WORTH", worth)
        found.append(merge_to_folder(*pair, plugin, checked, tmp_path / str(worth)))
    assert found[0]["files"] == found[1]["files"]
    assert found[0]["effective"] == found[1]["effective"]


@with_numba
def test_the_constants_of_the_loops_are_those_beside_them() -> None:
    assert LOOPS is not None
    assert (LOOPS.LANES, LOOPS.BITS, LOOPS.STRIDE) == (arrays.LANES, place.BITS, place.STRIDE)


@with_numba
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_file_of_kept_loops_is_compiled_again(kind: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert said(KEPT, NUMBA_CACHE_DIR=str(tmp_path)) == "True"
        kept = list(tmp_path.rglob(f"*.{kind}"))
        assert kept
        for file in kept:
            file.write_bytes(b"")


@with_numba
@pytest.mark.parametrize(
    ("dtypes", "why"),
    [
        ((torch.float16, torch.float16), "fp16, whose overflow is refused by number"),
        ((torch.bfloat16, torch.float32), "two dtypes"),
    ],
)
def test_what_only_torch_can_merge_is_merged_by_torch(
    dtypes: tuple[torch.dtype, ...], why: str, tmp_path: Path
) -> None:
    numbers = torch.arange(12.0).reshape(3, 4)
    sides = {"a": numbers.to(dtypes[0]), "b": (numbers + 1).to(dtypes[1])}
    pair = [save(tmp_path / name, {NAMES[1]: one}) for name, one in sides.items()]
    plugin = methods.get("linear")
    assert not needs_no_torch(plugin, pair[0], pair[1:]), why
    assert direct.direct(open_models(pair[0], pair[1:]), plugin, {"lam": 0.5}, seed=0) is None
    merge_to_folder(pair[0], pair[1], plugin, {"lam": 0.5}, tmp_path / "out")
    merged = open_source(read_folder("out", tmp_path / "out")).read(NAMES[1])
    assert torch.equal(merged.float(), numbers + 0.5)


@with_numba
@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_what_overflows_is_refused_by_name(method: str, tmp_path: Path) -> None:
    ends = torch.full((3, 4), 3e38), torch.full((3, 4), -3e38)
    ends[1][0, 0] = 3e38
    pair = [save(tmp_path / name, {NAMES[1]: one.bfloat16()}) for name, one in zip("ab", ends, strict=True)]
    with pytest.raises(UserError, match=rf"`{NAMES[1]}` overflows in {method}: it holds numbers up to 3.0"):
        merge_to_folder(pair[0], pair[1], methods.get(method), {"lam": 1.5}, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize("stored", ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"])
def test_an_array_holds_the_bytes_of_the_file(stored: str, tmp_path: Path) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(torch_dtype(stored))
    info = save(tmp_path / "a", {"w": tensor}).tensors["w"]
    assert array_dtype(stored).itemsize == tensor.element_size()
    assert read_array(info, 2, 9).tobytes() == bits(tensor.reshape(-1)[2:9])
    assert read_array(info, 3, 3, bytearray(8)).size == 0


@given(st.lists(st.sampled_from([*ODD, math.nan, math.inf]), max_size=9), st.data())
def test_arrays_are_equal_where_tensors_are(numbers: list[float], data: st.DataObject) -> None:
    other = data.draw(st.permutations(numbers) | st.just(numbers))
    for dtype in (torch.bfloat16, torch.float32):
        one, two = (torch.tensor(part, dtype=torch.float32).to(dtype) for part in (numbers, other))
        assert arrays.equal(array_of(one), array_of(two)) == torch.equal(one, two)


@given(st.lists(st.sampled_from([*ODD, math.nan, math.inf, -math.inf]), max_size=9))
def test_the_largest_of_an_array_is_that_of_its_tensor(numbers: list[float]) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        tensor = torch.tensor(numbers, dtype=torch.float32).to(dtype)
        expected = float(tensor.float().abs().max()) if numbers else 0.0
        found = arrays.largest(array_of(tensor))
        assert found == expected or (math.isnan(found) and math.isnan(expected))


@with_numba
@settings(deadline=None)
@given(st.integers(0, 2**17 + 1000), st.integers(0, 2**32 - 1))
def test_sums_in_lanes_are_the_same_compiled_or_not(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, count, generator=generator)
    for dtype in (torch.bfloat16, torch.float32):
        parts = [array_of(part.to(dtype).contiguous()) for part in (one, other)]
        pairs = [(parts[0], parts[0]), (parts[0], parts[1])]
        plain = arrays.dots(pairs)
        assert plain == arrays.dots(pairs, compiled=True)
        assert arrays.sizes(parts) == arrays.sizes(parts, compiled=True)
        exact = [math.fsum((left.astype(float) * right).tolist()) for left, right in wide(pairs)]
        assert plain == pytest.approx(exact, rel=1e-12, abs=1e-9)


def wide(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    return [(arrays.widened(one), arrays.widened(other).astype(float)) for one, other in pairs]


def test_a_sum_that_rounds_on_the_way_is_the_same_on_every_processor() -> None:
    numbers = np.array([2.0**60, 1.0, -(2.0**60)] * 400, np.float32)
    assert arrays.dots([(numbers, np.ones_like(numbers))]) == [59.0]


@with_numba
@given(st.floats(1e-9, 0.9999), st.integers(0, 2**32 - 1), st.integers(0, 2**33))
def test_a_compiled_draw_keeps_what_the_dice_say(keep: float, seed: int, begin: int) -> None:
    delta = torch.randn(300, generator=torch.Generator().manual_seed(seed))
    where = Place("layers.3.w", 4, seed, begin)
    plain, compiled = (sparse._kept(delta, keep, where, 2, compiled=one) for one in (False, True))
    assert bits(plain) == bits(compiled)


@with_numba
def test_what_is_said_of_lerp_is_what_torch_does_here() -> None:
    start, goal = torch.linspace(0.1, 0.9, 64), torch.linspace(0.7, -0.3, 64)
    fused = start.double() + float(torch.tensor(0.3)) * (goal - start).double()
    assert LOOPS is not None
    assert torch.equal(torch.lerp(start, goal, 0.3), fused.float()) == LOOPS.lerp_is_fused()
