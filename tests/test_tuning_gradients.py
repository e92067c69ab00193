"""Scores from one backward pass against explicit gradients, one sample at a time."""

import weakref
from dataclasses import replace

import pytest
import torch

from backend.tuning import tools as tools_module
from backend.tuning.gradients import Collector, Keeper, can_gate, can_sample
from backend.tuning.loop import save_memory
from backend.tuning.window import Window
from tests import tiny_tuning as tt

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

MODELS = {
    "lora": tt.lora,
    "full": tt.full,
    "gemma": lambda: tt.full(family="gemma3_text"),
    "gpt2": lambda: tt.full(family="gpt2"),
}


def explicit(tools, rows):
    """g_i of every row as flat vectors, by plain autograd."""
    found = []
    for row in rows:
        grads = torch.autograd.grad(tools.losses([row]).sum(), tools.parameters, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, tools.parameters, strict=True)]
        found.append(torch.cat([one.flatten() for one in parts]))
    return torch.stack(found)


def direction_of(tools, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in tools.parameters]


def flat(gradient):
    return torch.cat([one.flatten() for one in gradient])


def close(left, right, tolerance=1e-6):
    assert float((left - right).norm()) <= tolerance * float(right.norm())


@pytest.mark.parametrize(
    ("name", "scorer"),
    [("lora", "sample"), ("lora", "gate"), ("lora", "single"), ("full", "gate"), ("gemma", "gate"), ("gpt2", "gate")],
)
@pytest.mark.parametrize("chunk", [8, 3])
def test_cheap_scores_equal_explicit_gradients_under_padding(name, scorer, chunk):
    tools = tt.tools(MODELS[name](), scorer, chunk=chunk)
    rows = tools.task[:8]
    d = direction_of(tools)
    expected = explicit(tools, rows)
    for found in (tools.score(rows, d), Window(tools, 0, rows).score(d)):
        close(found.dots, expected @ flat(d))
        if found.norms is not None:
            close(found.norms, expected.norm(dim=1))


@pytest.mark.parametrize(
    ("name", "scorer"), [("lora", "sample"), ("lora", "gate"), ("lora", "single"), ("full", "gate")]
)
@pytest.mark.parametrize("kept", [(0, 2, 3, 4, 5, 6, 7), (1, 4)])
def test_the_recombined_gradient_is_the_weighted_sum(name, scorer, kept):
    tools = tt.tools(MODELS[name](), scorer, chunk=3)
    rows = tools.task[:8]
    p = torch.zeros(8, dtype=torch.float64)
    p[list(kept)] = 1 / len(kept)
    window = Window(tools, 0, rows)
    losses = window.score(direction_of(tools)).losses
    loss = window.combine(p)
    close(flat([one.grad for one in tools.parameters]), p @ explicit(tools, rows))
    assert loss == pytest.approx(float(p @ losses))


def test_soft_weights_recombine_too():
    for scorer in ("sample", "gate"):
        tools = tt.tools(tt.lora(), scorer)
        rows = tools.task[:8]
        p = torch.softmax(torch.arange(8, dtype=torch.float64), 0)
        window = Window(tools, 0, rows)
        window.score(direction_of(tools))
        window.combine(p)
        close(flat([one.grad for one in tools.parameters]), p @ explicit(tools, rows))


def test_scores_in_the_optimisers_metric():
    tools = tt.tools(tt.lora())
    rows, d = tools.task[:8], direction_of(tools)
    metric = [one.abs() + 0.1 for one in direction_of(tools, seed=6)]
    found, expected = tools.score(rows, d, metric=metric), explicit(tools, rows)
    close(found.dots, expected @ (flat(d) * flat(metric)))
    close(found.norms, (expected.pow(2) @ flat(metric)).sqrt())


def test_scores_are_the_same_under_gradient_checkpointing():
    plain, saving = tt.lora(), tt.lora()
    save_memory(saving)
    saving.train()
    for scorer in ("sample", "gate"):
        left, right = tt.tools(plain, scorer), tt.tools(saving, scorer)
        d = direction_of(left)
        close(right.score(right.task, d).dots, left.score(left.task, d).dots)


def test_scoring_leaves_model_and_gradients_as_they_were():
    tools = tt.tools(tt.lora())
    before = tt.weights(tools.model)
    first = tools.losses(tools.task[:2]).tolist()
    tools.score(tools.task, tools.zeros())
    tools.gradient(tools.task[:3], [1.0, 0.5, 0.0])
    assert all(one.grad is None for one in tools.parameters)
    assert tt.same(before, tt.weights(tools.model))
    assert tools.losses(tools.task[:2]).tolist() == first
    assert not any("forward" in module.__dict__ for module in tools.model.modules())


def test_each_scorer_knows_what_it_can_do():
    assert (can_sample(tt.lora()), can_gate(tt.lora())) == (True, True)
    assert (can_sample(tt.full()), can_gate(tt.full())) == (False, True)


def test_the_start_model_is_the_one_before_training():
    for build in (tt.lora, tt.full):
        tools = tt.tools(build(), "single")
        tools.keep_start_model()
        batch = tools.batch_of(tools.task[:3])
        start = tools.start_logits(batch)
        drift = tools.drifts(tools.task[:3])
        with torch.no_grad():
            for one in tools.parameters:
                one.add_(0.05)
        torch.testing.assert_close(tools.start_logits(batch), start)
        after = tools.drifts(tools.task[:3]).detach()
        assert float(drift.detach().abs().max()) < 1e-3 or build is tt.lora
        assert float(after.min()) > 1e-4


@pytest.mark.parametrize("scorer", ["sample", "single"])
def test_scoring_a_pool_holds_one_chunk_of_gradients_however_large_it_is(scorer, monkeypatch):
    tools = tt.tools(tt.lora())
    tools.scorer, tools.chunk = scorer, 4
    alive, peak = weakref.WeakSet(), 0
    for kind in (Collector, Keeper):

        def counted(self, place, gradients, add=kind.add):
            nonlocal peak
            alive.add(gradients)
            peak = max(peak, sum(one.numel() for one in alive))
            return add(self, place, gradients)

        monkeypatch.setattr(kind, "add", counted)
    peaks = []
    for count in (48, 480):
        peak = 0
        tools.score(tt.rows(count, length=6), tools.zeros())
        peaks.append(peak)
    assert peaks[0] == peaks[1] > 0


def test_references_looked_at_together_get_the_scores_of_those_looked_at_layer_by_layer(monkeypatch):
    rows, found = tt.rows(30), []
    for least in (0, 2**28):
        monkeypatch.setattr(tools_module, "KEPT_AT_ONCE", least)
        tools = tt.tools(tt.lora())
        direction = [torch.ones_like(one) for one in tools.parameters]
        found += [tools.score(rows, direction), tools.score(rows, direction, metric=direction)]
    for one, other in zip(found[:2], found[2:], strict=True):
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_short_references_go_through_together_up_to_the_tokens_of_a_batch():
    tools = tt.tools(tt.lora())
    longest = max(len(row.tokens) for row in tools.task)
    rows = sorted(tt.rows(60), key=lambda row: len(row.tokens))
    parts = list(tools._as_long_as_a_batch(rows))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) * len(part[-1].tokens) <= tools.chunk * longest for part in parts)
    assert len(parts[0]) > tools.chunk
    tools.task = [replace(row, prompt=len(row.tokens) - 1) for row in tools.task]  # answers of one token
    assert {len(part) for part in list(tools._as_long_as_a_batch(rows))[:-1]} == {tools.chunk}, (
        "short prompts, long answers"
    )


def test_a_layer_that_is_used_twice_is_kept_with_both_of_its_gradients():
    direction = [torch.ones(2, 3), torch.ones(4)]
    keeper = Keeper(direction)
    first, second = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    keeper.add(0, first)
    keeper.add(0, second)
    found = keeper.scores(torch.zeros(5))
    torch.testing.assert_close(found.dots, (first + second).flatten(1).sum(1))
    assert keeper.flat is not None
    assert keeper.flat[:, 6:].abs().max() == 0, "a parameter that no layer used"
