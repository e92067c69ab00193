"""Agreement with mergekit 0.1.5 and PEFT where both define a method; each part is skipped where its oracle is absent.

Tolerance: 2e-6 relative to the largest number of the tensor, in fp32 (both sum in another order). Known differences,
kept out of the comparison on purpose:

- mergekit draws its masks from torch's generator: the same uniform numbers are fed to both here. It matches the sum of
  magnitudes (`l1`) where the papers divide by the probability to stay (`inverse`, our default).
- among changes of equal magnitude at the threshold, of which bfloat16 models have many, ours keep those of the lowest
  index and mergekit others: as many elements are kept, and the two agree at every other element.
- mergekit keeps ⌊d·n⌋ elements of breadcrumbs even where that is none, and its DELLA fails on tensors of one column;
  ours keep one.
- its sce and model_stock have absolute epsilons (1e-6), which ordinary fine-tunes meet: changes here are large.
- its arcee_fusion samples the quartiles of tensors over a million elements; ours are exact.
- PEFT elects signs without weights and divides by how many models agree: `election` and `normalize` "count".
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.merging.engine import merge_one
from backend.merging.inputs import Bundle
from backend.merging.place import BITS, Place
from backend.merging.request import check_request
from backend.registry import methods

needs_mergekit = pytest.mark.skipif(importlib.util.find_spec("mergekit") is None, reason="mergekit is not installed")
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
SHAPES = [(1,), (7,), (3, 5), (64, 48)]
PLACE = Place("w", seed=3)

# ours -> (our knobs, mergekit's parameters of the merge, mergekit's parameters of each model) for one and two models.
WEIGHTS = [0.7, 1.3]
FAMILY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "task_arithmetic": ({}, {}),
    "ties": ({"density": 0.4}, {"density": 0.4, "normalize": True}),
    "dare_linear": ({"density": 0.4, "rescale": "l1"}, {"density": 0.4, "rescale": True}),
    "dare_ties": ({"density": 0.4, "rescale": "none"}, {"density": 0.4, "rescale": False}),
    "della_linear": ({"density": 0.4, "rescale": "l1"}, {"density": 0.4, "epsilon": 0.15, "rescale": True}),
    "della": ({"rescale": "l1"}, {"density": 0.5, "epsilon": 0.15, "rescale": True, "normalize": True}),
    "breadcrumbs": ({"density": 0.6, "gamma": 0.1}, {"density": 0.6, "gamma": 0.1}),
    "breadcrumbs_ties": ({"density": 0.6, "gamma": 0.1}, {"density": 0.6, "gamma": 0.1}),
}
OTHERS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "slerp": (1, {"lam": 0.3}, {"t": 0.3}),
    "nearswap": (1, {"t": 0.4}, {"t": 0.4}),
    "arcee_fusion": (1, {}, {}),
    "passthrough": (1, {"scale": 0.7}, {"scale": 0.7}),
    "nuslerp": (2, {"t": 0.65}, {"weight": WEIGHTS}),
    "multislerp": (2, {"weights": WEIGHTS}, {"weight": WEIGHTS}),
    "karcher": (2, {"max_iter": 50}, {"max_iter": 50}),
    "model_stock": (3, {}, {}),
    "sce": (3, {"select_topk": 0.4}, {"select_topk": 0.4}),
}
BY_ROWS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "nuslerp": (2, {"t": 0.65, "axis": "rows"}, {"weight": WEIGHTS, "nuslerp_flatten": False}),
    "model_stock": (2, {"filter_wise": True}, {"filter_wise": True}),
}


def tensors(shape: tuple[int, ...], count: int) -> list[Tensor]:
    """θ0 and `count` fine-tuned ones whose changes are as large as the weights."""
    generator = torch.Generator().manual_seed(11)
    start = torch.randn(shape, generator=generator)
    return [start, *(start + torch.randn(shape, generator=generator) for _ in range(count))]


def ours(name: str, given: list[Tensor], knobs: dict[str, Any]) -> Tensor:
    method = methods.get(name)
    checked = check_request(method, knobs, tuned=len(given) - 1)
    return merge_one(Bundle.of(PLACE, given[0], given[1:]), method, checked)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * max(1.0, float(expected.abs().max())))


def feed_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mergekit draw the numbers that we draw, fine-tuned model by fine-tuned model."""
    salts = iter(range(9))

    def drawn(chances: Tensor) -> Tensor:
        numbers = PLACE.dice(chances.numel(), next(salts)).reshape(chances.shape) / 2**BITS
        return (numbers < chances).to(chances.dtype)

    monkeypatch.setattr(torch, "bernoulli", drawn)


@needs_mergekit
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_the_task_arithmetic_family_agrees(name: str, shape: tuple[int, ...], count: int, monkeypatch: Any) -> None:
    from mergekit.merge_methods.api import merge_tensors

    if shape == (1,) and name.startswith(("della", "breadcrumbs")):
        pytest.skip("mergekit fails or keeps nothing")
    knobs, theirs = FAMILY[name]
    knobs = {**knobs, "lam": 0.6} | ({"weights": WEIGHTS} if count > 1 else {})
    weight = WEIGHTS if count > 1 else [1.0]
    feed_masks(monkeypatch)
    given = tensors(shape, count)
    expected = merge_tensors(given, name, parameters={**theirs, "lambda": 0.6, "weight": weight}, base_index=0)
    close(ours(name, given, knobs), expected)


@needs_mergekit
@pytest.mark.parametrize(
    ("name", "edges", "theirs"),
    [
        ("ties", (0.4,), {"density": 0.4}),
        ("breadcrumbs", (0.1, 0.6), {"density": 0.5, "gamma": 0.1}),
        ("breadcrumbs_ties", (0.1, 0.6), {"density": 0.5, "gamma": 0.1}),
    ],
)
def test_changes_of_equal_magnitude_at_a_threshold_are_all_that_differs(
    name: str, edges: tuple[float, ...], theirs: dict[str, Any]
) -> None:
    from mergekit.merge_methods.api import merge_tensors

    start, far = (one.bfloat16().float() for one in tensors((64, 48), 1))  # as models that are stored in bfloat16
    tuned = (start + 0.01 * far).bfloat16().float()
    sizes = (tuned - start).abs()
    ranked = sizes.flatten().sort(descending=True).values
    at_an_edge = torch.zeros_like(sizes, dtype=torch.bool)
    for edge in edges:
        last, next_one = ranked[int(edge * len(ranked)) - 1 :][:2]
        assert last == next_one  # or nothing is left to choose
        at_an_edge |= sizes == last
    expected = merge_tensors([start, tuned], name, parameters={**theirs, "weight": [1.0]}, base_index=0)
    found = ours(name, [start, tuned], {**theirs, "lam": 1.0})
    close(found[~at_an_edge], expected[~at_an_edge])
    assert ((found != start) & at_an_edge).sum() == ((expected != start) & at_an_edge).sum() > 0
    assert not torch.equal(found, expected)


@needs_mergekit
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_other_shared_methods_agree(name: str, shape: tuple[int, ...]) -> None:
    from mergekit.merge_methods.api import merge_tensors

    if shape == (1,) and name == "sce":
        pytest.skip("mergekit keeps nothing")
    count, knobs, theirs = OTHERS[name]
    given = tensors(shape, count)
    if name == "passthrough":
        expected = merge_tensors(given[1:], name, parameters=theirs)
    else:
        expected = merge_tensors(given, name, parameters=theirs, base_index=None if name == "karcher" else 0)
    close(ours(name, given, knobs), expected)


@needs_mergekit
@pytest.mark.parametrize("name", BY_ROWS)
def test_what_works_by_rows_agrees(name: str) -> None:
    from mergekit.merge_methods.api import merge_tensors

    count, knobs, theirs = BY_ROWS[name]
    given = tensors((24, 16), count)
    close(ours(name, given, knobs), merge_tensors(given, name, parameters=theirs, base_index=0))


@needs_mergekit
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_linear_agrees(lam: float) -> None:
    from mergekit.merge_methods.api import merge_tensors

    given = tensors((24, 16), 2)
    shares = [1 - lam, lam * 0.35, lam * 0.65]
    expected = merge_tensors(given, "linear", parameters={"weight": shares})
    close(ours("linear", given, {"lam": lam, "weights": WEIGHTS}), expected)


@needs_peft
@pytest.mark.parametrize("election", ["total", "frequency"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (64, 48)], ids=str)
def test_ties_is_pefts_with_its_election_and_divisor(election: Any, shape: tuple[int, ...]) -> None:
    from peft.utils.merge_utils import ties

    given = tensors(shape, 3)
    deltas = [one - given[0] for one in given[1:]]
    expected = ties(deltas, torch.tensor([0.5, 1.0, 0.8]), 0.4, election)
    knobs = {"density": 0.4, "election": election, "normalize": "count", "weights": [0.5, 1.0, 0.8], "lam": 1.0}
    close(ours("ties", given, knobs), given[0] + expected)


@needs_peft
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_is_pefts_with_the_same_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.utils import merge_utils

    given = tensors((64, 48), 2)
    feed_masks(monkeypatch)
    deltas = [one - given[0] for one in given[1:]]
    expected = getattr(merge_utils, name)(deltas, torch.tensor(WEIGHTS), 0.4)
    election = {"election": "total", "normalize": "count"} if name == "dare_ties" else {}
    close(ours(name, given, {"density": 0.4, "weights": WEIGHTS, "lam": 1.0} | election), given[0] + expected)
