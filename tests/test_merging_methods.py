"""Properties that hold for every registered merge method: a new one is tested by existing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.errors import UserError
from backend.merging.engine import merge_one
from backend.merging.ops import Effect, round_once
from backend.params import check_parameters
from backend.registry import Plugin, methods

SHAPES = [(), (1,), (7,), (3, 5), (3, 1), (64, 48)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
METHODS = list(methods)

each_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    aligned = torch.randn(shape, generator=generator)
    return aligned.to(dtype), (aligned + 0.1 * torch.randn(shape, generator=generator)).to(dtype)


def knobs(method: Plugin, **given: Any) -> dict[str, Any]:
    known = {parameter.name for parameter in method.parameters}
    return check_parameters(method.name, method.parameters, {key: given[key] for key in given.keys() & known})


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@each_method
@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_merging_a_tensor_with_itself_gives_it_back(method: Plugin, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    aligned, _ = pair(shape, dtype)
    aligned = torch.where(aligned < -1, torch.zeros_like(aligned).neg(), aligned)  # some −0.0
    for lam in (0.0, 0.3, 1.0):
        assert bits(merge_one("w", aligned, aligned.clone(), method, knobs(method, lam=lam))) == bits(aligned)


@each_method
@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_dtype_are_the_aligned_ones_and_nothing_is_nan(
    method: Plugin, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    aligned, fine_tuned = pair(shape, dtype)
    merged = merge_one("w", aligned, fine_tuned.float(), method, knobs(method))
    assert (merged.shape, merged.dtype) == (aligned.shape, dtype)
    assert torch.isfinite(merged).all()


@each_method
@each_shape
def test_inputs_are_not_changed(method: Plugin, shape: tuple[int, ...]) -> None:
    aligned, fine_tuned = pair(shape)
    before = bits(aligned), bits(fine_tuned)
    for lam in (0.0, 0.3, 1.0):
        merge_one("w", aligned, fine_tuned, method, knobs(method, lam=lam))
        method.function(aligned, fine_tuned, **knobs(method, lam=lam))
    assert (bits(aligned), bits(fine_tuned)) == before


@each_method
def test_a_method_is_documented_and_its_defaults_are_in_range(method: Plugin) -> None:
    assert method.facts["paper"].startswith("arXiv:")
    assert method.facts["needs"]
    assert all(parameter.help for parameter in method.parameters)
    assert knobs(method) == {parameter.name: parameter.default for parameter in method.parameters}


@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_exact_at_both_ends(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    aligned, fine_tuned = pair(shape, dtype)
    fine_tuned = torch.where(fine_tuned < 0, torch.zeros_like(fine_tuned).neg(), fine_tuned)
    linear = methods.get("linear")
    assert bits(merge_one("w", aligned, fine_tuned, linear, {"lam": 0.0})) == bits(aligned)
    assert bits(merge_one("w", aligned, fine_tuned, linear, {"lam": 1.0})) == bits(fine_tuned)


def test_linear_in_bf16_is_the_correctly_rounded_value_almost_everywhere() -> None:
    aligned, fine_tuned = pair((512, 512), torch.bfloat16)
    for lam in (0.1, 0.5, 0.9):
        merged = merge_one("w", aligned, fine_tuned, methods.get("linear"), {"lam": lam})
        exact = torch.lerp(aligned.double(), fine_tuned.double(), lam)
        # Those that differ are ties: 0.9 of five steps is half-way between two bf16 numbers, 0.9 in fp32 is not 0.9.
        assert (merged != exact.to(torch.bfloat16)).float().mean() <= 0.002
        half_a_step = torch.exp2((torch.frexp(exact).exponent - 9).double())
        rounding = 2.0**-23 * torch.maximum(aligned.abs(), fine_tuned.abs()).double()
        assert ((merged.double() - exact).abs() <= half_a_step + rounding).all()


def test_small_deltas_survive_in_a_tensor_of_one_number() -> None:
    aligned, fine_tuned = torch.tensor([1.0]), torch.tensor([1.5])
    assert merge_one("w", aligned, fine_tuned, methods.get("linear"), {"lam": 0.5}).tolist() == [1.25]


@pytest.mark.parametrize("lam", [-0.1, 1.1, math.nan, math.inf, "half", None, True])
def test_lambda_outside_its_range_is_one_sentence(lam: object) -> None:
    with pytest.raises(UserError, match=r"^lam: got .*; allowed is a number from 0 to 1\. The default is 0\.5\.$"):
        knobs(methods.get("linear"), lam=lam)


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r'method: no "linaer"\. Did you mean "linear"\? Available: '):
        methods.get("linaer")


def test_shapes_that_differ_are_refused_with_both() -> None:
    with pytest.raises(UserError, match=r"`w` is \[2\] in aligned, \[3\] in fine_tuned; allowed is equal shapes"):
        merge_one("w", torch.ones(2), torch.ones(3), methods.get("linear"), {"lam": 0.5})


def test_what_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match=r"w: got 70000\.0; allowed is up to 65504"):
        round_once(torch.tensor([70000.0]), torch.float16, "w")


def test_the_effect_is_that_of_a_dense_computation() -> None:
    effect, starts, ends, goals = Effect(), [], [], []
    for seed, shape in enumerate(SHAPES):
        start, goal = pair(shape, seed=seed)
        end = start + 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * (goal - start)
        effect.add(start, end, goal)
        for place, tensor in ((starts, start), (ends, end), (goals, goal)):
            place.append(tensor.double().reshape(-1))
    start, end, goal = (torch.cat(parts) for parts in (starts, ends, goals))
    delta = goal - start
    assert effect.to_json() == pytest.approx(
        {
            "projection": float((end - start) @ delta / (delta @ delta)),
            "distance": float((end - start).norm() / delta.norm()),
        }
    )
    assert Effect().to_json() == {"projection": 0.0, "distance": 0.0}
