"""NaN, infinities, zeros of both signs, denormals and empty tensors: what the table in ARCHITECTURE.md says of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.checkpoints.folder import read_folder
from backend.errors import UserError
from backend.inference.activations import gram_matrices
from backend.merging.engine import merge_one, merge_to_folder, open_models
from backend.merging.inputs import Bundle
from backend.merging.place import Place
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import Plugin, methods
from backend.types import Checkpoint
from tests import tiny

METHODS = list(methods)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WEIGHT = "model.layers.0.mlp.up_proj.weight"
each_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def merge(method: Plugin, start: Tensor, others: list[Tensor], **given: float) -> Tensor:
    """`others` are the fine-tuned models as far as the method takes them, and the last one every model beside them."""
    count = method.facts["fine_tunes"][0]
    extras = dict.fromkeys(method.facts["extras"], others[-1])
    known = {parameter.name for parameter in method.parameters}
    chosen = {name: value for name, value in given.items() if name in known}
    parameters = check_request(method, chosen, tuned=count, extras=list(extras))
    return merge_one(Bundle.of(Place("w"), start, others[:count], extras), method, parameters)


def folder(path: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    save_file(tensors, path / "model.safetensors")
    return read_folder(path.name, path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["aligned", "fine_tuned"])
def test_what_is_no_number_is_refused_from_files_and_in_memory_and_nothing_is_left(
    bad: float, where: str, tmp_path: Path
) -> None:
    sides = {"aligned": torch.ones(4, 3), "fine_tuned": torch.full((4, 3), 2.0)}
    sides[where][1, 1] = bad
    start, goal = (folder(tmp_path / name, {WEIGHT: tensor}) for name, tensor in sides.items())
    linear, said = methods.get("linear"), f"`{WEIGHT}` holds NaN or infinite numbers in the {where.replace('_', '-')}"
    with pytest.raises(UserError, match=said):
        merge_to_folder(start, goal, linear, {"lam": 0.5}, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"aligned", "fine_tuned"}
    with pytest.raises(UserError, match=said):
        ResidentPair.of(open_models(start, [goal], {}))


@pytest.mark.parametrize("method", [one for one in METHODS if one.facts["keeps_equal"]], ids=lambda one: one.name)
def test_infinities_that_all_models_share_stay_and_nan_equals_nothing(method: Plugin) -> None:
    mask = torch.tensor([[0.0, -math.inf], [-0.0, math.inf]])
    assert bits(merge(method, mask, [mask.clone()] * 2)) == bits(mask)
    broken = torch.tensor([math.nan, 1.0])
    with pytest.raises(UserError, match="`w` holds NaN or infinite numbers in the"):
        merge(method, broken, [broken.clone()] * 2)


def test_activations_that_are_no_numbers_are_refused_by_layer() -> None:
    model = tiny.model(layers=1)
    model.get_input_embeddings().weight.data[7] = math.inf
    with pytest.raises(UserError, match=r"calibration: `model.layers.0.self_attn.q_proj` is fed NaN or infinite"):
        gram_matrices(model, [[5, 6, 7]])
    gram_matrices(model, [[5, 6, 8]])


@each_method
@each_dtype
def test_a_tensor_of_zeros_has_no_direction_and_divides_nothing(method: Plugin, dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(3, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype)
    for start, goal in ((zeros, ones), (ones, zeros)):
        merged = merge(method, start, [goal, goal])
        assert torch.isfinite(merged).all()
        if method.name in ("slerp", "slerp_curves"):
            assert bits(merge(method, start, [goal], lam=0.25)) == bits(torch.lerp(start, goal, 0.25))


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "breadcrumbs_ties", "sce"])
def test_a_sum_of_zero_elects_plus_and_zeros_never_agree(name: str) -> None:
    changes = [torch.tensor([2.0, 0.0, 3.0, -1.0]), torch.tensor([-2.0, 0.0, 0.0, -3.0])]
    method = methods.get(name)
    known = {parameter.name for parameter in method.parameters}
    given = {key: value for key, value in {"lam": 1.0, "density": 1.0, "select_topk": 1.0}.items() if key in known}
    merged = merge_one(
        Bundle.of(Place("w"), torch.zeros(4), changes), method, check_request(method, given, tuned=2) | given
    )
    plus, nothing, alone, minus = merged.tolist()
    assert (plus, nothing, alone) == (2.0, 0.0, 3.0)
    assert minus < 0


@each_method
@each_dtype
def test_zeros_of_both_signs_are_one_number_and_keep_their_bits_where_nothing_moves(
    method: Plugin, dtype: torch.dtype
) -> None:
    start = torch.tensor([-0.0, 0.0, 1.0, -0.0], dtype=dtype)
    signs = torch.tensor([0.0, -0.0, 1.0, -0.0], dtype=dtype)
    moved = torch.tensor([-0.0, 0.0, 2.0, 1.0], dtype=dtype)
    if method.facts["keeps_equal"]:
        assert bits(merge(method, start, [signs, signs])) == bits(start)
    if method.facts["knob"] in ("lam", "extrapolate"):
        held = merge(method, start, [moved, moved], lam=0.0, extrapolate=0.0)
        assert bits(held) == bits(start)
    merged = merge(method, start, [moved, moved], lam=0.3)
    assert torch.equal(merged[:2], torch.zeros(2, dtype=dtype)), "of one sign or the other"


@pytest.mark.parametrize("name", ["linear", "slerp"])
@each_dtype
def test_the_fine_tuned_end_keeps_the_sign_of_its_zeros(name: str, dtype: torch.dtype) -> None:
    start, goal = torch.tensor([0.0, 1.0], dtype=dtype), torch.tensor([-0.0, 2.0], dtype=dtype)
    assert bits(merge(methods.get(name), start, [goal], lam=1.0)) == bits(goal)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties", "layerwise", "breadcrumbs", "resta"])
@each_dtype
def test_denormals_are_kept_and_never_flushed_to_zero(name: str, dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    start, goal = torch.tensor([0.0, 2 * least], dtype=dtype), torch.tensor([4 * least, 6 * least], dtype=dtype)
    given = {"gamma": 0.5} if name == "resta" else {"lam": 0.5, "density": 1.0}  # resta's twin here is θ1
    assert merge(methods.get(name), start, [goal], **given).double().tolist() == [2 * least, 4 * least]


@each_method
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_an_empty_tensor_stays_empty_in_files_and_in_memory(method: Plugin, dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = enumerate(((0, 3), (3, 0), (0,)))
    empty = {f"model.empty{number}": torch.zeros(shape, dtype=dtype) for number, shape in shapes}
    models = [
        folder(tmp_path / str(number), {WEIGHT: torch.randn(4, 3, generator=generator).to(dtype), **empty})
        for number in range(4)
    ]
    tuned = models[1 : 1 + method.facts["fine_tunes"][0]]
    extras = dict(zip(method.facts["extras"], models[2:], strict=False))
    grams = {WEIGHT: torch.eye(3)} if method.facts["calibration"] else None
    knobs = check_request(method, {}, tuned=len(tuned), extras=list(extras))
    merge_to_folder(models[0], tuned, method, knobs, tmp_path / "out", extras=extras, grams=grams)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: merged[name].shape for name in empty} == {name: tensor.shape for name, tensor in empty.items()}
    target = {name: torch.full_like(tensor, 7.0) for name, tensor in merged.items()}
    ResidentPair.of(open_models(models[0], tuned, extras, grams=grams)).write_into(target, method, knobs)
    assert all(bits(target[name]) == bits(merged[name]) for name in merged)


def test_every_row_of_the_table_names_tests_that_are_there() -> None:
    root = Path(__file__).resolve().parent
    section = (root.parent / "ARCHITECTURE.md").read_text().split("## Special numbers in a merge")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    sources = {path.name: path.read_text() for path in root.glob("test_merging_*.py")}
    for row in rows:
        found = re.findall(r"`(test_\w+)`(°?)(?: \(`(\w+\.py)`\))?", row)
        assert found, row
        for test, methods_mark, file in found:
            place = "test_merging_methods.py" if methods_mark else file or "test_merging_special.py"
            assert f"def {test}(" in sources[place], test
