"""What every strategy keeps, and what DualSelect promises: the invariants of a training, on tiny models."""

import copy
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from app import forms
from backend.api import Studio
from backend.errors import Paused, UserError
from backend.params import check_parameters
from backend.registry import strategies
from backend.tuning import scores as maths
from backend.tuning.data import collate
from backend.tuning.loop import TrainingSettings, _Run, batch_loss
from backend.tuning.pool import Pool
from backend.tuning.resume import Saver
from backend.tuning.strategies import dualselect as declared
from backend.tuning.strategy import Strategy
from tests import tiny_tuning as tt

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

NAMES = [plugin.name for plugin in strategies]
KNOBS = {
    "lisa": {"k1": 2, "k2": 2, "free": 0.0},
    "dualselect": {"warmup": 1, "refresh_every": 3, "d_ref_every": 2, "keep_tokens": 0.7},
    "safety_mix": {"share": 0.5},
}
MORE = {
    "soft": {"tau_ref": 0.5, "tau_task": 0.5},
    "released": {"preset": "released", "k_ref": 4},
    "kl": {"ref_loss": "kl"},
    "random": {"reference_choice": "random", "task_choice": "random"},
    "static": {"reference_choice": "static", "correction": "agem"},
    "mean": {"reference_choice": "mean", "correction": "none"},
    "adam": {"precondition": "adam", "standardise": "rank"},
    "gate": {"scores": "gate"},
}
ARMS = [(name, KNOBS.get(name, {})) for name in NAMES]
ARMS += [("dualselect", KNOBS["dualselect"] | knobs) for knobs in MORE.values()]
IDS = [*NAMES, *MORE]


def seen_in(*arguments, **options):
    """The metrics and events of every step."""
    progress = []
    tt.fit(*arguments, report=progress.append, **options)
    return progress


def events(progress, kind):
    return [event for one in progress for event in one.events if event["event"] == kind]


# ------------------------------------------------------------------------------------ every strategy


def test_the_strategies_are_there():
    assert set(NAMES) >= {"sft", "safety_mix", "lisa", "agem", "safegrad", "constrained_sft", "dualselect"}


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_sentence_and_every_number_a_range(name):
    for parameter in strategies.get(name).parameters:
        assert parameter.help, f"{name}.{parameter.name} needs a sentence in Args"
        if parameter.kind in ("int", "float"):
            assert parameter.low is not None


@pytest.mark.parametrize(("name", "knobs"), ARMS, ids=IDS)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(name, knobs):
    first, second, third = tt.lora(), tt.lora(), tt.lora()
    losses = tt.fit(first, name, knobs)
    assert tt.fit(second, name, knobs) == losses
    tt.fit(third, name, knobs, seed=4)
    assert tt.same(tt.weights(first), tt.weights(second))
    assert not tt.same(tt.weights(first), tt.weights(third))
    assert all(torch.isfinite(one).all() for one in tt.weights(first))


@pytest.mark.parametrize(("name", "knobs"), ARMS, ids=IDS)
def test_a_run_that_stopped_and_went_on_equals_a_straight_one(name, knobs, tmp_path):
    straight, halved, resumed = tt.lora(), tt.lora(), tt.lora()
    tt.fit(straight, name, knobs)
    saver = Saver(tmp_path / "checkpoint.pt", every=100)
    steps = iter(["", "", "", "", "pause"])
    with pytest.raises(Paused):
        tt.fit(halved, name, knobs, saver=saver, control=lambda: next(steps))
    seen = seen_in(resumed, name, knobs, saver=Saver(saver.path))
    assert [one.step for one in seen] == [5, 6, 7]
    assert tt.same(tt.weights(straight), tt.weights(resumed))


@pytest.mark.parametrize(("name", "knobs"), ARMS, ids=IDS)
def test_the_order_of_the_references_changes_nothing(name, knobs):
    forward, backward = tt.lora(), tt.lora()
    pool = tt.references(20)
    tt.fit(forward, name, knobs, pool=pool)
    tt.fit(backward, name, knobs, pool=pool[::-1])
    assert tt.same(tt.weights(forward), tt.weights(backward))


@pytest.mark.parametrize(("name", "knobs"), ARMS, ids=IDS)
def test_accumulation_changes_neither_the_choice_nor_the_step(name, knobs):
    whole, parts = tt.lora(), tt.lora()
    first = seen_in(whole, name, knobs, batch=8, accumulate=1)
    second = seen_in(parts, name, knobs, batch=8, accumulate=8)
    chosen = [[event["id"] for event in events(seen, "dropped")] for seen in (first, second)]
    assert chosen[0] == chosen[1]
    for one, other in zip(tt.weights(whole), tt.weights(parts), strict=True):
        # AdamW divides by a gradient's size, so rounding counts where one is tiny: up to a hundredth of a step of 1e-2.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "knobs"), [arm for arm in ARMS if arm[1].get("scores") is None])
def test_a_whole_model_can_be_trained_too(name, knobs):
    model = tt.full(dtype=torch.float32)
    losses = tt.fit(model, name, knobs, steps=5, lr=1e-3)
    assert losses[-1] == losses[-1]
    assert all(torch.isfinite(one).all() for one in tt.weights(model))


def test_a_strategy_that_needs_references_says_so():
    with pytest.raises(UserError, match="references: this strategy needs them"):
        tt.fit(tt.lora(), "agem", pool=[])


def test_keep_ends_the_training_with_the_weights_as_they_are():
    model, short = tt.lora(), tt.lora()
    steps = iter(["", "", "keep"])
    assert len(tt.fit(model, control=lambda: next(steps))) == 3
    tt.fit(short, steps=8, control=iter(["", "", "keep"]).__next__)
    assert tt.same(tt.weights(model), tt.weights(short))


def test_a_strategy_in_a_file_of_its_own_is_in_registry_catalogue_and_form(tmp_path, monkeypatch, settings):
    (tmp_path / "frozen.py").write_text(
        '"""Nothing moves."""\n'
        "from typing import Annotated\n"
        "from backend.params import Between\n"
        "from backend.registry import strategy\n"
        "from backend.tuning.strategy import Strategy\n"
        "class Frozen(Strategy):\n"
        "    def correct(self, gradient, window):\n"
        "        for one in gradient:\n"
        "            one.zero_()\n"
        '@strategy(paper="a test", needs="nothing", cost="1")\n'
        "def frozen(*, strength: Annotated[float, Between(0, 1)] = 1.0) -> Strategy:\n"
        '    """Stand still.\n\n    Args:\n        strength: how still.\n    """\n'
        "    return Frozen()\n"
    )
    package = sys.modules["backend.tuning.strategies"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    strategies._discovered = False
    try:
        plugin = strategies.get("frozen")
        assert [(one.name, one.help) for one in plugin.parameters] == [("strength", "how still.")]
        listed = Studio(settings).catalogue()["strategies"]
        assert "frozen" in [one["name"] for one in listed]
        assert "strength" in [one["name"] for one in forms.shared(listed).parameters]
        model = tt.lora()
        tt.fit(model, "frozen", steps=1)
        others = tt.lora()
        for one, other in zip(tt.weights(model), tt.weights(others), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # only weight decay moved it
    finally:
        strategies._plugins.pop("frozen", None)
        sys.modules.pop("backend.tuning.strategies.frozen", None)


# ------------------------------------------------------------------------------------ rivals


def test_agem_never_climbs_on_its_reference_batch():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        g, d = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
        before = float(g @ d)
        found = maths.correction("agem", before, float(g.norm()), float(d.norm()), rho=0.7, norm_match=False)
        after = g + found.pull * d
        assert float(after @ d) >= -1e-6 * float(after.norm() * d.norm())
        assert (found.pull == 0) == (before >= 0)


@pytest.mark.parametrize("norm_match", [True, False])
def test_safegrad_keeps_its_identity(norm_match):
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        g, d = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(2))
        found = maths.correction(
            "safegrad", float(g @ d), float(g.norm()), float(d.norm()), rho=0.3, norm_match=norm_match
        )
        used = d * (min(1.0, float(g.norm() / d.norm())) if norm_match else 1.0)
        expected = max(0.0, float(g @ used)) + 0.3 * float(used @ used)
        assert float((g + found.pull * d) @ used) == pytest.approx(expected)


def test_a_step_on_references_says_so():
    steps = seen_in(tt.lora(), "lisa", {"k1": 1, "k2": 2, "free": 0.0}, steps=6)
    assert [one.phase for one in steps] == ["references", "task", "task"] * 2


def test_lisa_is_held_where_the_other_phase_ended():
    hooks = strategies.get("lisa").function(k1=1, k2=1, prox=1.0, free=0.0)
    tt.fit(tt.lora(), hooks=hooks, steps=3)
    distance = sum(
        float((one.detach() - there).pow(2).sum())
        for one, there in zip(hooks.tools.parameters, hooks.switch, strict=True)
    )
    assert float(hooks.penalty(3).detach()) == pytest.approx(distance / 2)
    assert hooks.penalty(0) is not None


def test_constrained_sft_starts_with_the_gradient_of_sft_and_then_holds_the_first_tokens():
    model = tt.lora()
    tools = tt.tools(model)
    hooks = strategies.get("constrained_sft").function()
    hooks.prepare(tools)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.zero_()  # the start: the adapter changes nothing
    row = tools.task[:1]
    held = torch.autograd.grad(hooks.losses(row).sum(), tools.parameters)
    plain = torch.autograd.grad(tools.losses(row).sum(), tools.parameters)
    for one, other in zip(held, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def test_constrained_sft_tells_the_likelihood_that_other_strategies_are_read_by():
    model, task = tt.lora(), tt.rows(8)
    expected = tt.tools(copy.deepcopy(model)).losses(task).mean().item()
    (first,) = seen_in(model, "constrained_sft", task=task, batch=8, accumulate=2, steps=1)
    assert first.metrics["loss_task"] == pytest.approx(expected)
    assert first.loss != pytest.approx(expected, rel=1e-3), "what is descended is another loss"


# ------------------------------------------------------------------------------------ what counts alike


@pytest.mark.parametrize("accumulate", [1, 4])
def test_with_tokens_alike_a_step_is_the_mean_over_all_answer_tokens(accumulate):
    model, task = tt.lora(), tt.rows(8)
    tools = tt.tools(copy.deepcopy(model))
    targets = torch.tensor([row.targets for row in task], dtype=torch.float64)
    assert len(set(targets.tolist())) > 1
    loss = (tools.losses(task) * targets).sum() / targets.sum()
    expected = torch.autograd.grad(loss, tools.parameters)
    hooks = Recorder(Strategy())
    losses = tt.fit(model, hooks=hooks, task=task, batch=8, steps=1, clip=1e9, loss_norm="token", accumulate=accumulate)
    assert losses == [pytest.approx(loss.item())]
    for one, other in zip(hooks.after, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("scores", ["sample", "gate", "single"])
def test_with_tokens_alike_kept_samples_count_by_their_tokens(scores):
    model, task = tt.lora(), tt.rows(8)
    knobs = {"keep_tokens": 0.5, "correction": "none", "warmup": 0, "scores": scores, "ref_loss": "sft"}
    start, hooks = copy.deepcopy(model), Recorder(strategies.get("dualselect").function(**knobs))
    progress = seen_in(model, task=task, hooks=hooks, batch=8, steps=1, clip=1e9, loss_norm="token")
    gone = {event["id"] for event in events(progress, "dropped")}
    assert 0 < len(gone) < 8
    kept = [row for row in task if row.id not in gone]
    tools = tt.tools(start)
    targets = torch.tensor([row.targets for row in kept], dtype=torch.float64)
    expected = torch.autograd.grad((tools.losses(kept) * targets).sum() / targets.sum(), tools.parameters)
    for one, other in zip(hooks.after, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_first_tokens_of_a_reference_are_counted_after_what_its_template_writes_for_all():
    def with_block(row):
        return replace(row, tokens=(*row.tokens[: row.prompt], 9, 9, *row.tokens[row.prompt :]))

    hooks = [strategies.get("dualselect").function(warmup=1, ref_tokens=2) for _ in range(2)]
    for one, pool in zip(hooks, (tt.references(20), [with_block(row) for row in tt.references(20)]), strict=True):
        tt.fit(tt.lora(), hooks=one, pool=pool, steps=1)
    plain, thoughtful = (one.tools.references for one in hooks)
    assert {row.targets for row in plain} == {2}
    assert [with_block(row) for row in plain] == thoughtful


def test_one_soft_reference_is_the_softmax_of_all_whatever_their_kinds():
    scores = torch.linspace(-1, 1, 20)
    pool = Pool(tt.references(20), 20, 1, 0.7, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool.choose(range(20), scores), torch.softmax(scores / 0.7, 0))
    sharp = Pool(tt.references(20), 20, 4, 0.0, 0.5, torch.Generator().manual_seed(0))
    assert int((sharp.choose(range(20), scores) > 0).sum()) == 4


def test_the_forecast_of_a_step_follows_what_a_strategy_does_beside_the_task():
    def effort(name, **knobs):
        return strategies.get(name).function(**knobs).effort(16)

    assert effort("sft") == 1 == effort("dualselect", rho=0, keep_tokens=1.0)
    assert effort("agem", b_ref=8) == 1.5 < effort("agem") < effort("safegrad")
    assert 1 < effort("dualselect") < effort("dualselect", scores="single")


# ------------------------------------------------------------------------------------ DualSelect


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_no_pull_and_everything_kept_is_sft_bit_for_bit(mode, tmp_path):
    plain, dual = (tt.lora(dtype=torch.float32) if mode == "lora" else tt.full(dtype=torch.float32) for _ in range(2))
    savers = [Saver(tmp_path / f"{name}.pt", every=100) for name in ("sft", "dualselect")]
    assert tt.fit(plain, saver=savers[0]) == tt.fit(dual, "dualselect", {"rho": 0, "keep_tokens": 1.0}, saver=savers[1])
    assert tt.same(tt.weights(plain), tt.weights(dual))
    left, right = (saver.load() for saver in savers)
    assert left["optimizer"]["param_groups"] == right["optimizer"]["param_groups"]
    moments = [list(state["optimizer"]["state"].values()) for state in (left, right)]
    assert len(moments[0]) == len(tt.weights(plain))
    for one, other in zip(*moments, strict=True):
        assert one.keys() == other.keys() >= {"exp_avg", "exp_avg_sq"}
        assert tt.same(list(one.values()), list(other.values()))
    assert torch.equal(left["random"], right["random"])
    assert left["generators"] == right["generators"] == {}


def test_add_without_selection_is_one_batch_on_the_sum_of_both_losses():
    model, pool, task = tt.lora(), tt.references(6), tt.rows(8)
    knobs = {"keep_tokens": 1.0, "correction": "add", "norm_match": False, "d_ref_every": 1, "b_ref": 6, "k_ref": 6}
    knobs |= {"rho": 0.3, "warmup": 0, "ref_loss": "sft", "ref_tokens": 0}
    hooks = Recorder(strategies.get("dualselect").function(**knobs))
    start = copy.deepcopy(model)
    tt.fit(model, hooks=hooks, task=task, pool=pool, steps=1, batch=8, clip=1e9)
    tools = tt.Tools(start, task, pool, tt.PAD, chunk=8, steps=1, batch=8)
    joint = tools.losses(task).mean() + 0.3 * tools.losses(pool).mean()
    expected = torch.autograd.grad(joint, tools.parameters)
    for one, other in zip(hooks.after, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)


class Recorder(Strategy):
    """Passes everything on and remembers the corrected gradient."""

    def __init__(self, hooks):
        self.hooks, self.needs = hooks, hooks.needs
        for name in ("prepare", "refresh", "losses", "weights", "metrics", "events", "state_dict"):
            setattr(self, name, getattr(hooks, name))

    def correct(self, gradient, window):
        self.hooks.correct(gradient, window)
        self.after = [one.clone() for one in gradient]


def test_losses_alone_rank_without_nu_and_their_scale_does_not_matter():
    losses = torch.tensor([3.0, 1.0, 2.0, 9.0])
    for scale in ("z", "rank"):
        first = torch.argsort(maths.standardise(losses, scale))
        second = torch.argsort(maths.standardise(100 * losses - 7, scale))
        assert first.tolist() == second.tolist() == [1, 2, 0, 3]


def selected(hooks, found):
    return hooks._costs(found, None)[1]


@pytest.fixture
def hooks():
    """DualSelect before its first refresh, with directions of its own."""
    strategy = declared.dualselect(warmup=0, ref_loss="sft", scores="sample")
    tools = tt.tools(tt.lora())
    strategy.prepare(tools)
    strategy.d_ref = tools.zeros()
    strategy.d_ref[0].flatten()[0] = 1.0
    return strategy


def test_a_sample_against_the_references_goes_first_and_one_along_them_last(hooks):
    alike = torch.ones(4, dtype=torch.float64)
    dots = torch.tensor([0.2, -1.0, 1.0, -0.2], dtype=torch.float64)
    order = selected(hooks, tt_scores(alike, dots, alike))
    assert (order[-1], order[0]) == (1, 2)


def test_without_nu_the_loss_decides_and_without_mu_the_direction(hooks):
    found = tt_scores(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([-1.0, 1.0, 0.0]), torch.ones(3))
    hooks.rules = replace(hooks.rules, nu=0.0)
    assert selected(hooks, found) == [0, 2, 1]
    hooks.rules = replace(hooks.rules, nu=1.0, mu_task=0.0)
    assert selected(hooks, found) == [1, 2, 0]


def tt_scores(losses, dots, norms):
    from backend.tuning.gradients import Scores

    return Scores(losses.double(), dots.double(), norms.double())


class FixedScores:
    """Tools whose scores are given."""

    def __init__(self, tools, losses, dots):
        self._tools, self._losses, self._dots = tools, losses, dots

    def __getattr__(self, name):
        return getattr(self._tools, name)

    def score(self, rows, direction, losses=None, metric=None):
        count = len(rows)
        return tt_scores(self._losses[:count], self._dots[:count], torch.ones(count))


def choice(losses, dots, *, moving=True, **knobs):
    strategy = declared.dualselect(**{"warmup": 0, "k_ref": 2, "ref_loss": "sft", "scores": "sample"} | knobs)
    tools = tt.tools(tt.lora(), pool=6)
    tools.references = [replace(one, kind="") for one in tools.references]
    strategy.prepare(tools)
    strategy.tools = FixedScores(tools, torch.tensor(losses), torch.tensor(dots))
    if moving:
        strategy.d_task = tools.zeros()
        strategy.d_task[0].flatten()[0] = 1.0
    strategy._choose_by_score()
    return sorted(strategy.pool.chosen)


def test_a_reference_against_the_task_is_chosen_first():
    assert choice([1.0] * 6, [0.0, 0.5, -1.0, 0.1, -0.9, 1.0]) == [2, 4]


def test_without_a_direction_the_loss_chooses_and_without_any_difference_the_id():
    assert choice([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [9.0] * 6, moving=False) == [4, 5]
    assert choice([1.0] * 6, [0.0] * 6, moving=False) == [0, 1]


def test_a_batch_of_the_chosen_has_both_kinds_in_their_shares():
    rows = tt.references(40)
    pool = Pool(rows, 40, 20, 0.0, 0.75, torch.Generator().manual_seed(0))
    pool.choose(range(40), torch.arange(40.0))
    for _ in range(20):
        drawn, weights = pool.draw(8)
        assert Counter(rows[one].kind for one in drawn) == {"benign": 6, "refusal": 2}
        assert (len(set(drawn)), weights) == (8, [1 / 8] * 8)
        assert set(drawn) <= pool.chosen.keys()
    assert pool.draw(20) == (list(pool.chosen), list(pool.chosen.values()))


def test_only_the_first_tokens_of_a_references_answer_count():
    pool = tt.references(8)
    other = [
        replace(one, tokens=(*one.tokens[: one.prompt + 2], *(5 for _ in one.tokens[one.prompt + 2 :]))) for one in pool
    ]
    assert [one.tokens for one in pool] != [one.tokens for one in other]
    trained = {}
    for name, rows, count in (
        ("two", pool, 2),
        ("two of others", other, 2),
        ("all", pool, 0),
        ("all of others", other, 0),
    ):
        trained[name] = tt.lora()
        tt.fit(trained[name], "dualselect", KNOBS["dualselect"] | {"ref_tokens": count}, pool=rows)
    assert tt.same(tt.weights(trained["two"]), tt.weights(trained["two of others"]))
    assert not tt.same(tt.weights(trained["all"]), tt.weights(trained["all of others"]))


def test_softer_temperatures_go_from_the_top_to_all_alike():
    s = torch.tensor([3.0, 1.0, 2.0, 0.0, -1.0])
    torch.testing.assert_close(maths.capped_simplex(s, 1e-4, 2), maths.top_weights(s, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(maths.capped_simplex(s, 1e4, 2), torch.full((5,), 0.2), atol=1e-3, rtol=0)
    torch.testing.assert_close(maths.capped_simplex(s, 0.7, 1), torch.softmax(s / 0.7, 0))
    for tau in (0.01, 0.3, 2.0):
        for k in (1, 2, 4, 9):
            q = maths.capped_simplex(s, tau, k)
            assert float(q.sum()) == pytest.approx(1, abs=1e-6)
            assert float(q.max()) <= 1 / min(k, 5) + 1e-7


def test_the_token_budget_holds_over_the_run_within_one_sample():
    task = tt.rows(32, length=14)
    longest = max(row.targets for row in task)
    hooks = declared.dualselect(warmup=0, ref_loss="sft", refresh_every=50, keep_tokens=0.8)
    tt.fit(tt.lora(), hooks=hooks, task=task, batch=8, steps=12)
    assert abs(hooks.tokens["kept"] - 0.8 * hooks.tokens["seen"]) <= longest
    assert 0 < sum(hooks.dropped.values()) < sum(hooks.seen.values())


def test_equal_samples_are_dropped_in_the_right_share():
    kept = seen = 0
    for _ in range(100):
        seen += 80
        kept += 10 * len(maths.keep_within_budget(range(8), [10] * 8, 0.9 * seen - kept))
    assert kept / seen == pytest.approx(0.9, abs=0.002)


def test_a_preset_keeps_only_what_still_counts_and_refuses_the_rest():
    declared = strategies.get("dualselect").parameters
    assert check_parameters("dualselect", declared, {"preset": "released", "rho": 0.5, "nu": 1.0}) == {
        "preset": "released", "rho": 0.5, "k_ref": 0, "warmup": -1, "scores": "auto",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"^nu: got 0\.5, but the preset released sets it itself\. Leave it out"):
        check_parameters("dualselect", declared, {"preset": "released", "nu": 0.5})


@pytest.mark.parametrize("made", [tt.lora, tt.full], ids=["adapter", "all weights"])
def test_released_equals_a_direct_loop_over_the_equations(made):
    task, pool, steps, rho, k, warm = tt.rows(16), tt.references(9), 9, 0.2, 3, 2
    model, reference = made(), made()
    knobs = {"preset": "released", "rho": rho, "k_ref": k, "warmup": warm}
    tt.fit(model, "dualselect", knobs, task=task, pool=pool, steps=steps)

    run = _Run(reference, task, TrainingSettings(steps=steps, batch=4, lr=1e-2, seed=3), tt.PAD, Strategy(), [])
    parameters = run.tools.parameters

    def gradient(row):
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss(row), parameters)])

    def loss(row):
        return batch_loss(reference, collate([row], tt.PAD))

    def cos(left, right):
        return float(left @ right / (left.norm() * right.norm()))

    d_task, d_ref = 0, None
    for step in range(steps):
        rows = run._rows("task")
        if step >= warm and (step - warm) % 4 == 0:  # an epoch has four steps
            h = [gradient(row) for row in pool]
            s = [float(loss(row).detach()) - cos(each, d_task) for row, each in zip(pool, h, strict=True)]
            best = sorted(range(len(pool)), key=lambda j: -s[j])[:k]
            d_ref, d_task = sum(h[j] for j in best) / k, 0
        g = [gradient(row) for row in rows]
        if step >= warm:
            c = [float(loss(row).detach()) - cos(each, d_ref) for row, each in zip(rows, g, strict=True)]
            g = [g[i] for i in sorted(range(4), key=lambda i: c[i])[:2]]
        g_task = sum(g) / len(g)
        d_task = d_task + g_task
        total = g_task + (rho * d_ref if d_ref is not None else 0)
        place = 0
        for one in parameters:
            one.grad = total[place : place + one.numel()].view_as(one).clone()
            place += one.numel()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

        run.optimizer.param_groups[0]["lr"] = run.settings.lr  # constant, as published
        run.optimizer.step()
    for one, other in zip(tt.weights(model), tt.weights(reference), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)  # 1/k is fp32, which AdamW magnifies


@pytest.mark.parametrize(
    ("knobs", "field"),
    [
        ({"warmup": 0}, "warmup"),
        ({"standardise": "off", "scores": "gate"}, "scores"),
        ({"preset": "released", "scores": "gate"}, "scores"),
    ],
)
def test_settings_that_cannot_rank_are_refused(knobs, field):
    with pytest.raises(UserError, match=rf"^{field}: got .* Take "):
        declared.dualselect(**knobs)


def test_settings_that_are_not_in_use_refuse_nothing():
    assert declared.dualselect(preset="released", warmup=0).rules.warmup == 0, "released has another reference loss"
    assert not declared.dualselect(rho=0, keep_tokens=1.0, warmup=0).acts


def test_what_a_page_shows_is_told():
    knobs = {"warmup": 1, "refresh_every": 3, "keep_tokens": 0.6}
    task = tt.rows(32, kinds=("benign", "benign", "unsafe"))
    seen = seen_in(tt.lora(), "dualselect", knobs, task=task, batch=8, steps=8)
    assert "loss_ref" not in seen[0].metrics
    last = seen[-1].metrics
    assert {"loss_ref", "cos_task_ref", "kept_tokens", "projected", "ref_jaccard", "ref_entropy"} <= last.keys()
    assert [event["cause"] for event in events(seen, "refresh")][:2] == ["warmup", "interval"]
    shown = events(seen, "references")[0]["rows"]
    assert sum(row["weight"] for row in shown) == pytest.approx(1)
    assert {row["kind"] for row in shown} == {"benign", "refusal"}
    dropped = events(seen, "dropped")
    assert {event["reason"] for event in dropped} <= {"conflict", "high_loss", "budget"}
    assert sum(events(seen, "counts")[-1]["dropped"].values()) == len(dropped)
