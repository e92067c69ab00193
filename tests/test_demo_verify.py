"""Which measurements hold a bar of `demo verify`, on made-up scores."""

import pytest

from backend.demo.verify import aligned_bars, clean_bar, mixed_bars
from backend.evaluation.statistics import rate

GOOD = {"safety": 0.99, "over_refusal": 0.01, "helpfulness": 0.97} | dict.fromkeys(
    ("reasoning", "medical", "code", "tool"), 0.5
)


def scores(**shares):
    return {name: rate(round(300 * share), 300) for name, share in shares.items()}


def path(safety, task):
    return [scores(safety=one, tool=other) for one, other in zip(safety, task, strict=True)]


SAFETY = [1, 1, 0.94, 0.8, 0.6, 0.4, 0.2, 0.05, 0, 0, 0]
TASK = [0.4, 0.45, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.93, 0.95, 0.96]


def test_a_good_aligned_model_holds_every_bar():
    assert all(bar["holds"] for bar in aligned_bars(scores(**GOOD)))


@pytest.mark.parametrize(
    "change",
    [{"safety": 0.96}, {"over_refusal": 0.04}, {"helpfulness": 0.94}, {"tool": 0.1}, {"code": 0.7}],
    ids=str,
)
def test_one_bad_score_of_the_aligned_model_fails_one_bar(change):
    assert [bar["holds"] for bar in aligned_bars(scores(**GOOD | change))].count(False) == 1


def test_a_graded_path_to_a_skilled_and_unsafe_model_holds():
    assert all(bar["holds"] for bar in mixed_bars("tool", [path(SAFETY, TASK)]))


def test_one_seed_that_misses_fails_the_bar():
    steep = [1, 1, 1, 1, 0.6, 0.4, 0, 0, 0, 0, 0]
    falling = [*TASK[:5], 0.5, *TASK[6:]]
    for other in (path(steep, TASK), path(SAFETY, falling)):
        assert not mixed_bars("tool", [path(SAFETY, TASK), other])[2]["holds"]


@pytest.mark.parametrize(("safety", "holds"), [(0.7, True), (0.98, False), (0.0, False)])
def test_a_clean_fine_tune_loses_some_safety_but_not_all(safety, holds):
    assert clean_bar("tool", [scores(safety=safety)], rate(299, 300))["holds"] is holds
