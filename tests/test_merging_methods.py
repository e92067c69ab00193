"""Properties that hold for every registered merge method: a new one is tested by existing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from torch import Tensor

from backend.errors import UserError
from backend.jobs.grids import default_grid, parse_grid
from backend.merging.arithmetic import merge_whole
from backend.merging.blocks import Whole
from backend.merging.engine import merge_one, step_of
from backend.merging.inputs import Bundle
from backend.merging.ops import Effect, Walk, round_once
from backend.merging.place import Place, layer_count
from backend.merging.request import check_request
from backend.merging.sparse import keep_band, keep_top
from backend.merging.sphere import norm
from backend.registry import Plugin, methods

SHAPES = [(), (1,), (7,), (3, 5), (3, 1), (64, 48)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
METHODS = list(methods)
STEPS = [method for method in METHODS if method.facts["gives"] == "step"]
# G methods of merging.md: with one fine-tuned model and everything kept, task arithmetic.
FAMILY = [
    methods.get(name) for name in ("task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear")
]
FAMILY += [methods.get(name) for name in ("breadcrumbs", "breadcrumbs_ties")]
RANDOM = [method for method in METHODS if method.facts["random"]]


def named(found: list[Plugin]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", found, ids=[method.name for method in found])


each_method = named(METHODS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    aligned = torch.randn(shape, generator=generator)
    return aligned.to(dtype), (aligned + 0.1 * torch.randn(shape, generator=generator)).to(dtype)


def bundle(
    method: Plugin,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    count: int = 1,
    seed: int = 0,
    name: str = "model.layers.0.mlp.up_proj.weight",
) -> Bundle:
    """A tensor of every model that `method` takes; `count` fine-tuned ones where it takes any number."""
    least, most = method.facts["fine_tunes"]
    count = min(max(least, count), 99 if most is None else most)
    aligned = pair(shape, dtype)[0]
    others = [pair(shape, dtype, seed=place)[1] - pair(shape, dtype, seed=place)[0] + aligned for place in range(9)]
    extras = dict(zip(method.facts["extras"], others[5:], strict=False))
    made = Bundle.of(Place(name, 1, seed), aligned, others[:count], extras)
    if method.facts["calibration"] and len(shape) == 2:
        return replace(made, gram=gram_of(shape[1]))
    return made


def gram_of(columns: int, rows: int = 100) -> Tensor:
    """XᵀX of random inputs, some of which are never used."""
    seen = torch.randn(rows, columns, generator=torch.Generator().manual_seed(8))
    seen[:, ::7] = 0
    return seen.T @ seen


def twins(method: Plugin, aligned: Tensor) -> Bundle:
    """Every model the aligned one."""
    extras = {role: aligned.clone() for role in method.facts["extras"]}
    return Bundle.of(Place("w"), aligned, [aligned.clone() for _ in range(method.facts["fine_tunes"][0])], extras)


def knobs(method: Plugin, tuned: int | None = None, **given: Any) -> dict[str, Any]:
    known = {parameter.name for parameter in method.parameters}
    tuned = method.facts["fine_tunes"][0] if tuned is None else tuned
    kept = {key: given[key] for key in given.keys() & known}
    return check_request(method, kept, tuned=tuned, extras=method.facts["extras"])


def merge_pair(aligned: Tensor, fine_tuned: Tensor, method: Plugin, parameters: dict[str, Any]) -> Tensor:
    return merge_one(Bundle.of(Place("w"), aligned, [fine_tuned]), method, parameters)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@each_method
@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_merging_a_tensor_with_itself_gives_it_back(method: Plugin, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    aligned, _ = pair(shape, dtype)
    aligned = torch.where(aligned < -1, torch.zeros_like(aligned).neg(), aligned)  # some −0.0
    for lam in (0.0, 0.3, 1.0):
        assert bits(merge_one(twins(method, aligned), method, knobs(method, lam=lam))) == bits(aligned)


@each_method
@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3])
def test_shape_and_dtype_are_the_aligned_ones_and_nothing_is_nan(
    method: Plugin, shape: tuple[int, ...], dtype: torch.dtype, count: int
) -> None:
    made = bundle(method, shape, dtype, count=count)
    merged = merge_one(made, method, knobs(method, len(made.tuned)))
    assert (merged.shape, merged.dtype) == (made.aligned.shape, dtype)
    assert torch.isfinite(merged).all()


@each_method
@each_shape
def test_inputs_are_not_changed(method: Plugin, shape: tuple[int, ...]) -> None:
    made = bundle(method, shape)
    before = [bits(tensor) for tensor in made.tensors]
    for lam in (0.0, 0.3, 1.0):
        merge_one(made, method, knobs(method, lam=lam))
    assert [bits(tensor) for tensor in made.tensors] == before


@named(STEPS)
@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_starts_at_its_anchor_and_is_straight(
    method: Plugin, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    made = bundle(method, shape, dtype)
    knob = method.facts["knob"]
    start, direction = step_of(made, method, knobs(method))
    anchor = made.aligned.float() if start is None else start
    assert bits(merge_one(made, method, knobs(method, **{knob: 0.0}))) == bits(anchor.to(dtype))
    for strength in (0.25, 1.0):
        merged = merge_one(made, method, knobs(method, **{knob: strength}))
        exact = anchor.double() + strength * direction.double()
        step = torch.finfo(dtype).eps * exact.abs() + 1e-6 * (anchor.abs() + direction.abs())
        assert ((merged.double() - exact).abs() <= step + torch.finfo(dtype).tiny).all()


@named(RANDOM)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_or_tensor_another_mask(method: Plugin) -> None:
    chosen = knobs(method, density=0.5, drop=0.5)
    first, again, other = (merge_one(bundle(method, (64, 48), seed=seed), method, chosen) for seed in (1, 1, 2))
    renamed = merge_one(bundle(method, (64, 48), seed=1, name="other.weight"), method, chosen)
    assert bits(first) == bits(again)
    assert len({bits(first), bits(other), bits(renamed)}) == 3


@named([method for method in METHODS if not method.facts["random"] and method.facts["fine_tunes"][1] is None])
def test_the_order_of_fine_tuned_models_only_rounds_differently(method: Plugin) -> None:
    made = bundle(method, (24, 16), count=3)
    count = len(made.tuned)
    turned = Bundle.of(made.place, made.aligned, made.tuned[::-1])
    if method.facts["fine_tunes"] == [1, None] or count > 2:
        weights = [1.0, 0.5, 2.0][:count]
        one = merge_one(made, method, knobs(method, count, weights=weights))
        other = merge_one(turned, method, knobs(method, count, weights=weights[::-1]))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@named(FAMILY)
@each_shape
def test_with_everything_kept_the_family_is_task_arithmetic(method: Plugin, shape: tuple[int, ...]) -> None:
    made = bundle(method, shape)
    plain = methods.get("task_arithmetic")
    merged = merge_one(made, method, knobs(method, lam=0.7, density=1.0))
    assert bits(merged) == bits(merge_one(made, plain, knobs(plain, lam=0.7)))


@named(RANDOM)
def test_the_mean_over_seeds_tends_to_the_change_and_the_share_kept_is_the_density(method: Plugin) -> None:
    made = [bundle(method, (40, 25), seed=seed) for seed in range(60)]
    knob = method.facts["knob"]
    found = []
    for one in made:
        start, direction = step_of(one, method, knobs(method, **{"density": 0.4, "drop": 0.6, knob: 1.0}))
        found.append(direction if start is None else start - one.aligned)
    kept = torch.stack([(step != 0).float().mean() for step in found])
    assert abs(float(kept.mean()) - 0.4) < 4 * (0.24 / (60 * 1000)) ** 0.5
    delta = made[0].tuned[0] - made[0].aligned
    mean = torch.stack(found).mean(0)
    assert float((mean - delta).norm() / delta.norm()) < 0.25  # chance alone: (0.6 / 0.4 / 60) ** 0.5 = 0.16


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (64, 48)], ids=str)
@pytest.mark.parametrize("density", [0.001, 0.3, 0.5, 0.999])
def test_the_kept_counts_are_exact_and_never_none(shape: tuple[int, ...], density: float) -> None:
    start, goal = pair(shape)
    total = start.numel()
    for kept in (keep_top(goal - start, density), keep_band(goal - start, density, 0.1)):
        assert int((kept != 0).sum()) == max(1, int(density * total))
    level = torch.ones(shape)
    assert keep_top(level, density).flatten().nonzero().flatten().tolist() == list(range(max(1, int(density * total))))


@settings(max_examples=60, deadline=None)
@given(
    values=strategies.lists(strategies.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    share=strategies.floats(0, 1),
)
def test_the_largest_are_those_a_stable_sort_puts_first(values: list[float], share: float) -> None:
    sizes = torch.tensor(values, dtype=torch.float32).abs()
    count = int(share * len(values))
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[torch.sort(sizes, descending=True, stable=True).indices[:count]] = True
    assert torch.equal(Whole(len(values)).largest((sizes, count))[0], expected)


@strategies.composite
def any_tensors(draw: Any, count: int) -> list[Tensor]:
    """`count` tensors of one shape, the first of one dtype and the others of one: each number is one of a few."""
    shape = draw(strategies.lists(strategies.integers(0, 3), max_size=3))
    ours, theirs = draw(strategies.sampled_from(DTYPES)), draw(strategies.sampled_from(DTYPES))
    odd = [1.0, 0.0, -0.0, math.nan, math.inf, -math.inf]
    for limits in (torch.finfo(ours), torch.finfo(theirs)):
        odd += [limits.max, limits.min, limits.tiny, limits.smallest_normal * limits.eps]  # the last one denormal
    number = strategies.one_of(
        strategies.sampled_from(odd), strategies.floats(-9, 9, width=32), strategies.floats(width=32)
    )
    few = torch.tensor(draw(strategies.lists(number, min_size=1, max_size=6)))
    generator = torch.Generator().manual_seed(draw(strategies.integers(0, 99)))
    chosen = [few[torch.randint(len(few), shape, generator=generator)] for _ in range(count)]
    return [one.to(theirs if place else ours) for place, one in enumerate(chosen)]


@each_method
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data(), lam=strategies.floats(0, 1), more=strategies.booleans())
def test_any_numbers_in_any_shape_and_dtype_give_finite_ones_or_one_sentence(
    method: Plugin, data: strategies.DataObject, lam: float, more: bool
) -> None:
    least, most = method.facts["fine_tunes"]
    count = least + (more and most is None)
    extras = method.facts["extras"]
    aligned, *others = data.draw(any_tensors(1 + count + len(extras)))
    before = [bits(one) for one in (aligned, *others)]
    refused = ""
    try:
        made = Bundle.of(Place("w"), aligned, others[:count], dict(zip(extras, others[count:], strict=True)))
        if method.facts["calibration"] and aligned.dim() == 2:
            made = replace(made, gram=gram_of(aligned.shape[1]))
        merged = merge_one(made, method, knobs(method, count, lam=lam))
    except UserError as error:
        refused = str(error)
    if refused:
        assert re.search("`w` (holds NaN or infinite|overflows)|`w` cancel|^w: got .* the largest fp16 number", refused)
    else:
        assert (merged.shape, merged.dtype) == (aligned.shape, aligned.dtype)
        assert torch.isfinite(merged).all() or (made.equal and not torch.isfinite(aligned).all())
    assert [bits(one) for one in (aligned, *others)] == before


@pytest.mark.parametrize("name", ["arcee_fusion", "ties", "nearswap", "karcher"])
def test_models_further_apart_than_fp32_holds_are_refused_before_a_method_sees_them(name: str) -> None:
    far = torch.tensor([3e38, 1.0])
    with pytest.raises(UserError, match="tuned: `w` overflows: the models are further apart than fp32 holds"):
        merge_pair(far, -far, methods.get(name), knobs(methods.get(name)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_by_tensor_and_model(bad: float) -> None:
    with pytest.raises(UserError, match="`w` holds NaN or infinite numbers in the fine-tuned model"):
        Bundle.of(Place("w"), torch.ones(2), [torch.tensor([1.0, bad])])
    with pytest.raises(UserError, match="raw: `w` holds NaN or infinite numbers in the raw model"):
        Bundle.of(Place("w"), torch.ones(2), [torch.zeros(2)], {"raw": torch.tensor([1.0, bad])})


@each_method
def test_a_method_is_documented_and_its_defaults_are_in_range(method: Plugin) -> None:
    assert re.match(r"arXiv:\d{4}\.\d{5}|doi:10\.|after mergekit", method.facts["paper"])
    assert method.facts["needs"]
    assert method.facts["fine_tunes"][0] < 2 or method.facts["why"]
    assert all(parameter.help for parameter in method.parameters)
    assert method.facts["knob"] in {parameter.name for parameter in method.parameters}
    several = {parameter.name for parameter in method.parameters if parameter.several}
    single = {p.name: list(p.default) if p.kind == "list" else p.default for p in method.parameters}
    tuned = method.facts["fine_tunes"][0]
    assert knobs(method) == {name: value for name, value in single.items() if tuned > 1 or name not in several}


# ------------------------------------------------------------------------------------ one method at a time


@pytest.mark.parametrize("moved", [1.0, 1e-3, 1e-6])
def test_a_blend_knows_how_far_it_goes_as_looking_again_would_say(moved: float) -> None:
    slerp = methods.get("slerp")
    one = bundle(slerp, (300, 70))
    start, end = one.aligned, one.aligned + moved * (one.tuned[0] - one.aligned)
    exact, walk = merge_whole(replace(one, tuned=(end,)), slerp, {"lam": 0.3})
    looked = Walk.of(exact - start, None, end - start)
    found, seen = Effect(), Effect()
    found.count(walk, 0.3)
    seen.count(looked, 0.3)
    assert found.to_json() == pytest.approx(seen.to_json(), rel=1e-3 if moved > 1e-6 else 0.2)  # fp32 rounds `exact`


def test_slerp_is_exact_at_both_ends_and_symmetric() -> None:
    aligned, other = torch.randn(40, generator=torch.Generator().manual_seed(3)), pair((40,))[1]
    slerp = methods.get("slerp")
    assert bits(merge_pair(aligned, other, slerp, {"lam": 0.0})) == bits(aligned)
    assert bits(merge_pair(aligned, other, slerp, {"lam": 1.0})) == bits(other)
    there, back = merge_pair(aligned, other, slerp, {"lam": 0.3}), merge_pair(other, aligned, slerp, {"lam": 0.7})
    torch.testing.assert_close(there, back, rtol=1e-6, atol=1e-7)
    assert norm(merge_pair(aligned, aligned.roll(1), slerp, {"lam": 0.5})) == pytest.approx(norm(aligned), rel=1e-5)


def test_a_threshold_of_zero_leaves_the_fine_tuned_model_alone() -> None:
    for name in ("safe_lora", "safemerge"):
        method = methods.get(name)
        made = bundle(method, (64, 48))
        merged = merge_one(made, method, knobs(method, threshold=0.0))
        torch.testing.assert_close(merged, made.tuned[0], rtol=1e-6, atol=1e-6)


def test_safe_lora_is_the_papers_projection_where_it_leans_away() -> None:
    method = methods.get("safe_lora")
    made = bundle(method, (12, 9))
    alignment = (made.aligned - made.extras["raw"]).double()
    delta = (made.tuned[0] - made.aligned).double()
    projected = alignment @ alignment.T / alignment.norm() @ delta
    merged = merge_one(made, method, knobs(method, threshold=1.0))
    torch.testing.assert_close(merged.double(), made.aligned + projected, rtol=1e-5, atol=1e-6)
    whole = {"raw": made.aligned}  # alignment changed nothing: there is nothing to project on
    alone = merge_one(Bundle.of(made.place, made.aligned, made.tuned, whole), method, knobs(method, threshold=1.0))
    torch.testing.assert_close(alone, made.tuned[0])


def test_lox_adds_the_leading_singular_triples() -> None:
    method = methods.get("lox")
    made = bundle(method, (20, 30))
    left, values, right = torch.linalg.svd((made.aligned - made.extras["raw"]).double(), full_matrices=False)
    expected = made.aligned + 1.25 * (left[:, :6] * values[:6]) @ right[:6]
    torch.testing.assert_close(merge_one(made, method, knobs(method)).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_flat_curve_is_linear_and_every_kind_of_module_has_its_own_share() -> None:
    method, linear = methods.get("layerwise"), methods.get("linear")
    made = bundle(method, (7,))
    flat = merge_one(made, method, knobs(method, lam=0.4, curve="1, 1"))
    torch.testing.assert_close(flat, merge_one(made, linear, {"lam": 0.4}))
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        outside = Bundle.of(Place(name, 4), made.aligned, made.tuned)
        off = knobs(method, lam=1.0, embedding=0.0, head=0.0, norm=0.0, curve="0.5")
        assert bits(merge_one(outside, method, off)) == bits(made.aligned)


def test_a_curve_is_over_the_layers_of_the_language_model_and_what_sees_walks_lambda_of_its_kind() -> None:
    names = [f"language_model.model.layers.{layer}.mlp.up_proj.weight" for layer in range(3)]
    names += [f"vision_tower.encoder.layers.{layer}.mlp.fc1.weight" for layer in range(9)]
    depth = layer_count(names)
    layerwise = methods.get("layerwise").function
    shares = [float(layerwise([1.0], Place(name, depth), curve=(0.0, 1.0), mlp=0.5)) for name in names]
    assert shares == [0.0, 0.25, 0.5] + [0.5] * 9
    assert [Place(name).layer for name in names] == [0, 1, 2] + [None] * 9


def test_several_fine_tunings_follow_one_curve_and_one_alone_is_as_before() -> None:
    layerwise, sums = methods.get("layerwise"), methods.get("task_arithmetic")
    made = bundle(layerwise, (7,))
    generator = torch.Generator().manual_seed(8)
    second = made.aligned + 0.1 * torch.randn(made.aligned.shape, generator=generator)
    both = Bundle.of(Place("layers.1.mlp.w", 3), made.aligned, (*made.tuned, second))
    curved = check_request(layerwise, {"lam": 1.0, "curve": "0, 1", "weights": "1, 0.5"}, tuned=2)
    flat = check_request(sums, {"lam": 0.5, "weights": "1, 0.5"}, tuned=2)
    torch.testing.assert_close(merge_one(both, layerwise, curved), merge_one(both, sums, flat))
    assert "weights" not in check_request(layerwise, {"curve": "0, 1"})


def test_nearswap_never_moves_further_than_its_bound() -> None:
    method = methods.get("nearswap")
    made = bundle(method, (64, 48))
    moved = (merge_one(made, method, knobs(method, t=0.05)) - made.aligned).abs()
    assert float(moved.max()) <= 0.05 + 1e-6
    assert float((moved > 0.04).float().mean()) > 0.3


@pytest.mark.parametrize("name", ["nearswap", "safe_delta"])
@pytest.mark.parametrize(("width", "moved"), [(96, 0.04), (512, 1e-3)], ids=["as in the demo", "as in a large model"])
def test_the_values_that_are_tried_first_move_small_and_large_models(name: str, width: int, moved: float) -> None:
    method = methods.get(name)
    generator = torch.Generator().manual_seed(7)
    start, delta, seen = (torch.randn(width, width, generator=generator) for _ in range(3))
    made = replace(Bundle.of(Place("w"), start, [start + moved * delta]), gram=seen.T @ seen)
    walked = []
    for value in parse_grid(
        default_grid(method), next(one for one in method.parameters if one.name == method.facts["knob"])
    ):
        effect = Effect()
        effect.count(merge_whole(made, method, knobs(method, **{method.facts["knob"]: value}))[1], value)
        walked.append(effect.to_json()["projection"])
    assert len(walked) == 11
    assert sum(0.05 < share < 0.95 for share in walked) >= 3


# ------------------------------------------------------------------------------------ what is refused before it starts


def test_checkpoints_and_knobs_that_a_method_cannot_use_are_one_sentence() -> None:
    def sentence(name: str, parameters: dict[str, Any], **given: Any) -> str:
        with pytest.raises(UserError) as caught:
            check_request(methods.get(name), parameters, **given)
        return str(caught.value)

    assert "model_stock takes 2 or more fine-tuned models, 1 was given; it measures" in sentence("model_stock", {})
    assert "slerp takes exactly 1 fine-tuned model, 2 were given" in sentence("slerp", {}, tuned=2)
    assert "lox takes no fine-tuned models" in sentence("lox", {}, tuned=1, extras=["raw"])
    assert sentence("resta", {}).startswith("unaligned: resta needs a twin of the aligned model")
    assert sentence("linear", {}, extras=["raw"]) == "raw: linear does not use it. Leave it out."
    assert sentence("ties", {"weights": "0.3"}).startswith("weights: it changes nothing with one fine-tuned model")
    assert "one number for each of the 2" in sentence("ties", {"weights": "1"}, tuned=2)
    assert "at least one above 0" in sentence("linear", {"weights": "0,0"}, tuned=2)
    assert sentence("della", {"density": 0.9, "epsilon": 0.2}).startswith("epsilon: got 0.2; allowed is density")
    assert "epsilon" not in check_request(methods.get("dare_ties"), {})


@each_shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_exact_at_both_ends(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    aligned, fine_tuned = pair(shape, dtype)
    fine_tuned = torch.where(fine_tuned < 0, torch.zeros_like(fine_tuned).neg(), fine_tuned)
    linear = methods.get("linear")
    assert bits(merge_pair(aligned, fine_tuned, linear, {"lam": 0.0})) == bits(aligned)
    assert bits(merge_pair(aligned, fine_tuned, linear, {"lam": 1.0})) == bits(fine_tuned)


def test_linear_in_bf16_is_the_correctly_rounded_value_almost_everywhere() -> None:
    aligned, fine_tuned = pair((512, 512), torch.bfloat16)
    for lam in (0.1, 0.5, 0.9):
        merged = merge_pair(aligned, fine_tuned, methods.get("linear"), {"lam": lam})
        exact = torch.lerp(aligned.double(), fine_tuned.double(), lam)
        # Those that differ are ties: 0.9 of five steps is half-way between two bf16 numbers, 0.9 in fp32 is not 0.9.
        assert (merged != exact.to(torch.bfloat16)).float().mean() <= 0.002
        half_a_step = torch.exp2((torch.frexp(exact).exponent - 9).double())
        rounding = 2.0**-23 * torch.maximum(aligned.abs(), fine_tuned.abs()).double()
        assert ((merged.double() - exact).abs() <= half_a_step + rounding).all()


def test_small_deltas_survive_in_a_tensor_of_one_number() -> None:
    aligned, fine_tuned = torch.tensor([1.0]), torch.tensor([1.5])
    assert merge_pair(aligned, fine_tuned, methods.get("linear"), {"lam": 0.5}).tolist() == [1.25]


@pytest.mark.parametrize("lam", [-0.6, 1.6, math.nan, math.inf, "half", None, True])
def test_lambda_outside_its_range_is_one_sentence(lam: object) -> None:
    with pytest.raises(
        UserError, match=r"^lam: got .*; allowed is a number from -0\.5 to 1\.5\. The default is 0\.5\.$"
    ):
        knobs(methods.get("linear"), lam=lam)


@named([method for method in METHODS if any(one.beyond for one in method.parameters)])
@pytest.mark.parametrize("lam", [-0.5, 1.5])
def test_past_both_ends_a_merge_goes_on_as_it_goes_between_them(method: Plugin, lam: float) -> None:
    held = bundle(method, (8, 6), torch.float64, count=2 if method.facts["fine_tunes"][0] > 1 else 1)
    there = merge_one(held, method, knobs(method, len(held.tuned), lam=lam))
    start, end = (merge_one(held, method, knobs(method, len(held.tuned), lam=one)) for one in (0, 1))
    assert torch.isfinite(there).all()
    assert not torch.equal(there, start)
    if method.facts["gives"] == "step" or method.facts["straight"]:
        torch.testing.assert_close(there - start, lam * (end - start), rtol=1e-3, atol=1e-5)


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r'method: no "linaer"\. Did you mean "linear"\? Available: '):
        methods.get("linaer")


def test_shapes_that_differ_are_refused_with_both() -> None:
    with pytest.raises(UserError, match=r"`w` is \[2\] in aligned, \[3\] in fine_tuned; allowed is equal shapes"):
        merge_pair(torch.ones(2), torch.ones(3), methods.get("linear"), {"lam": 0.5})


def test_what_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match=r"w: got 70000\.0; allowed is up to 65504"):
        round_once(torch.tensor([70000.0]), torch.float16, "w")


def test_the_effect_is_that_of_a_dense_computation() -> None:
    effect, starts, ends, goals = Effect(), [], [], []
    for seed, shape in enumerate(SHAPES):
        start, goal = pair(shape, seed=seed)
        end = start + 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * (goal - start)
        effect.count(Walk.of(end - start, None, goal - start), 0.3)
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
    assert Effect().to_json() == {"projection": None, "distance": None}
