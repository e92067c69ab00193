"""RESTA and SafeMERGE against merging.md's formulas written out in NumPy's fp64, without any code of the merge."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.merging.engine import merge_one
from backend.merging.inputs import Bundle
from backend.merging.place import Place
from backend.merging.request import check_request
from backend.registry import methods

Array = NDArray[numpy.float64]


def family(shape: tuple[int, ...], seed: int, count: int) -> list[Tensor]:
    """θ0 and `count` models whose differences from it have another direction and size each."""
    generator = numpy.random.default_rng(seed)
    start = generator.normal(size=shape)
    steps = [(0.1 + 0.1 * number) * generator.normal(size=shape) for number in range(count)]
    return [torch.tensor(one, dtype=torch.float32) for one in (start, *(start + step for step in steps))]


def merged(name: str, start: Tensor, tuned: Tensor, extras: dict[str, Tensor], seed: int = 3, **given: Any) -> Array:
    method = methods.get(name)
    parameters = check_request(method, given, extras=list(extras))
    return exact(merge_one(Bundle.of(Place("layers.0.w", 1, seed), start, [tuned], extras), method, parameters))


def exact(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def close(found: Array, expected: Array) -> None:
    numpy.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (7,), (9, 14), (40, 25), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_resta_adds_gamma_times_what_alignment_added(shape: tuple[int, ...], gamma: float) -> None:
    start, tuned, unaligned = family(shape, 5, 2)
    expected = exact(tuned) + gamma * (exact(start) - exact(unaligned))
    close(merged("resta", start, tuned, {"unaligned": unaligned}, gamma=gamma), expected)


@pytest.mark.parametrize("drop", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(40, 25), (1000,)], ids=str)
def test_resta_with_drop_keeps_a_share_of_the_changes_enlarged_by_it(shape: tuple[int, ...], drop: float) -> None:
    start, tuned, unaligned = family(shape, 6, 2)
    delta, safety = exact(tuned) - exact(start), exact(start) - exact(unaligned)
    masks = []
    for gamma in (0.0, 0.7):
        found = merged("resta", start, tuned, {"unaligned": unaligned}, gamma=gamma, drop=drop)
        step = found - exact(start) - gamma * safety
        kept = numpy.abs(step) > numpy.abs(delta) / 2  # δ/(1 − p) is no smaller than δ, and what is dropped is 0
        close(step, numpy.where(kept, delta / (1 - drop), 0.0))
        masks.append(kept)
    assert (masks[0] == masks[1]).all(), "γ says nothing about what is kept"
    spread = (drop * (1 - drop) / masks[0].size) ** 0.5
    assert abs(masks[0].mean() - (1 - drop)) < 4 * spread
    other = merged("resta", start, tuned, {"unaligned": unaligned}, seed=4, gamma=0.0, drop=drop)
    assert (other != merged("resta", start, tuned, {"unaligned": unaligned}, gamma=0.0, drop=drop)).any()


def cosine_with_alignment(start: Tensor, tuned: Tensor, raw: Tensor) -> float:
    """cos(C·δ, δ) with C = V·Vᵀ/‖V‖_F written out, V = θ0 − θ_raw."""
    alignment, delta = exact(start) - exact(raw), exact(tuned) - exact(start)
    leaned = alignment @ alignment.T / numpy.sqrt((alignment**2).sum()) @ delta
    return float((leaned * delta).sum() / numpy.sqrt((leaned**2).sum() * (delta**2).sum()))


@pytest.mark.parametrize("shape", [(9, 14), (40, 25), (33, 2), (1, 6), (5, 1)], ids=str)
@pytest.mark.parametrize("shares", [{}, {"tuned_share": 0.5, "safe_share": 1.5}], ids=["shares as they are", "others"])
@pytest.mark.parametrize("lam", [0.4, 1.0])
def test_safemerge_mixes_below_its_threshold_and_leaves_the_rest(
    shape: tuple[int, int], shares: dict[str, float], lam: float
) -> None:
    start, tuned, raw, safe = family(shape, 7, 3)
    extras = {"raw": raw, "safe": safe}
    delta, safety = exact(tuned) - exact(start), exact(safe) - exact(start)
    mixed = shares.get("tuned_share", 0.8) * delta + shares.get("safe_share", 0.2) * safety
    cosine = cosine_with_alignment(start, tuned, raw)
    sides = [(cosine - 1e-4, delta), (0.0, delta)] + ([(cosine + 1e-4, mixed)] if cosine < 1 - 1e-4 else [])
    for threshold, step in sides:
        found = merged("safemerge", start, tuned, extras, lam=lam, threshold=threshold, **shares)
        close(found, exact(start) + lam * step)
    assert len(sides) == (2 if shape[0] == 1 else 3)  # what is one row is only scaled by C: its cosine is 1


def test_safemerge_mixes_only_the_matrices_that_lean_away_by_its_own_threshold() -> None:
    across, along = numpy.zeros((6, 6)), numpy.zeros((6, 6))
    across[0], along[:, 0] = 1, 1  # every row of C·δ is the sum of δ's rows over √6
    across[1] = -1
    start, raw = torch.ones(6, 6), torch.ones(6, 6) - torch.tensor(along, dtype=torch.float32)
    safe = start + 2
    for step, cosine in ((along, 1.0), (across + 0.01 * along, 0.03)):
        tuned = start + torch.tensor(step, dtype=torch.float32)
        assert cosine_with_alignment(start, tuned, raw) == pytest.approx(cosine, abs=0.03)
        expected = step if cosine > 0.35 else 0.8 * step + 0.2 * 2
        close(merged("safemerge", start, tuned, {"raw": raw, "safe": safe}), 1 + expected)


def test_safemerge_leaves_what_is_no_matrix_or_what_alignment_did_not_touch() -> None:
    for shape in ((), (7,), (3, 4, 5), (9, 14)):
        start, tuned, raw, safe = family(shape, 8, 3)
        extras = {"raw": start if len(shape) == 2 else raw, "safe": safe}
        close(merged("safemerge", start, tuned, extras, threshold=1.0), exact(tuned))
