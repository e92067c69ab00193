"""Comparing strategies: one run of several trainings, merges and measurements, resumed, tuned and judged."""

import json
import shutil

import pytest

from app import cards, plots
from app.pages.explore import Explore
from backend.__main__ import main
from backend.api import Studio
from backend.demo.recipe import recipe_of
from backend.errors import UserError
from backend.evaluation.statistics import over_seeds, replicates
from backend.jobs import compare
from backend.jobs.child import RunContext
from backend.jobs.compare_report import Arm, differences, verdict
from backend.types import Outcome, Point, RunStatus
from tests.tuning_world import tuning_world
from tests.worlds import write_suite


@pytest.fixture
def world(settings):
    settings, request = tuning_world(settings)
    for folder in (settings.demo / "suites", settings.demo / "suites" / "validation"):
        rows = (folder / "safety.jsonl").read_text().splitlines()[1:]
        header = {"suite": "tool", "axis": "task", "judge": "rules", "scorer": "tool"}
        rows = [json.dumps({**json.loads(row), "target": "f(a=1)"}) for row in rows]
        (folder / "tool.jsonl").write_text("\n".join([json.dumps(header), *rows]))
    kept = {key: request[key] for key in ("model", "task_data", "references", "suites")}
    training = {"steps": 3, "batch": 4, "lora_rank": 2}
    return settings, kept | {
        "strategies": "sft,dualselect", "seeds": 2, "task": "tool", "grid": "0,1", "preset": "quick",
        "training": training, "settings": {"dualselect.rho": 0.4},
    }  # fmt: skip


@pytest.fixture
def studio(world):
    studio = Studio(world[0])
    yield studio
    studio.close()


def test_a_comparison_has_every_strategy_seed_and_merge(studio, world):
    run = studio.wait(studio.submit("compare", world[1]).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    points = studio.points([run.id])
    assert [(point.method, point.coefficients["seed"]) for point in points] == [
        ("sft", 0), ("dualselect", 0), ("linear", 0), ("linear", 0),
        ("sft", 1), ("dualselect", 1), ("linear", 1), ("linear", 1),
    ]  # fmt: skip
    assert studio.outcomes(points[0].id) != []
    asked = [[one.sample for one in studio.outcomes(point.id)] for point in points]
    assert all(one == asked[0] for one in asked)
    answers = [[one.answer for one in studio.outcomes(point.id)] for point in points]
    assert answers[0] == answers[3], "λ = 1 of the merges is the fine-tune itself"
    found = studio.comparison_json(run.id)
    assert [one["name"] for one in found["strategies"]] == ["sft", "dualselect"]
    assert [one["name"] for one in found["merges"]] == ["merge λ = 0", "merge λ = 1"]
    dual = found["strategies"][1]
    assert (dual["parameters"]["rho"], dual["origin"]) == (0.4, {"rho": "given by hand"})
    assert dual["scores"]["safety"]["n"] == 16
    assert all(seconds > 0 for seconds in dual["wall_seconds"] + dual["training_seconds"])
    assert set(found["verdict"]) >= {"safety at least 90 %", "above every merge at equal task"}
    assert found["verdict"]["above safegrad at equal task"]["passed"] is None
    assert found["front"]
    walls = [point.details["wall_seconds"] for point in points]
    assert sum(walls) < run.finished - run.started, "no second is counted twice"
    assert studio.plan("compare", world[1]).stored_run == run.id
    found = studio.frontier(points)
    assert cards.point_table(points, {run.id: run}, found, minimum=0, selected=None, only=[])
    assert "2 strategies on quick-mixed, 2 seeds (run 1)" in str(Explore.run_choices([run]))
    figure = plots.pareto(points, {run.id: run}, found)["figure"]
    assert {trace.get("name") for trace in figure["data"]} >= {f"sft, run {run.id}", f"dualselect, run {run.id}"}


def test_a_stopped_comparison_goes_on_where_it_stopped(studio, world, monkeypatch):
    run = studio.submit("compare", world[1] | {"seeds": 1})
    calls = []
    context = _Context(run.id, studio, stop_after=1)
    monkeypatch.setattr(compare, "tune", _counted(compare.tune, calls))
    with pytest.raises(KeyboardInterrupt):
        compare.compare(context, run.spec)
    assert [point.method for point in studio.points([run.id])] == ["sft"]
    context.stop_after = 99
    result = compare.compare(context, run.spec)
    assert [spec["strategy"] for spec in calls] == ["sft", "dualselect", "dualselect"], "sft is not trained again"
    assert len(studio.points([run.id])) == 4
    assert set(result["checkpoints"]) == {"sft-s0", "dualselect-s0"}


def _trained(studio, request, monkeypatch):
    """A comparison done in this process: its run, its result, and what it trained."""
    run, calls = studio.submit("compare", request), []
    with monkeypatch.context() as patched:
        patched.setattr(compare, "tune", _counted(compare.tune, calls))
        result = compare.compare(_Context(run.id, studio), run.spec)
    studio._database.update_run(run.id, result=result)
    return run, result, [(spec["strategy"], spec["seed"]) for spec in calls]


def test_reuse_trains_only_what_no_earlier_comparison_trained(studio, world, monkeypatch):
    first, _, trained = _trained(studio, world[1] | {"seeds": 1}, monkeypatch)
    latest, _, again = _trained(studio, world[1] | {"seeds": 1}, monkeypatch)
    assert again == trained, "unless it is asked for, nothing is taken over"
    wider = world[1] | {"strategies": "sft,agem,dualselect", "seeds": 2}
    run, result, trained = _trained(studio, wider | {"reuse": True}, monkeypatch)
    assert trained == [("agem", 0), ("sft", 1), ("agem", 1), ("dualselect", 1)]
    assert result["taken_from"] == dict.fromkeys(["sft-s0", "dualselect-s0", "merges-s0"], latest.id)
    assert result["checkpoints"]["sft-s0"] == f"compare-{latest.id}-sft-s0", "its weights are still here"
    here = {(point.method, *point.coefficients.values()): point for point in studio.points([run.id])}
    there = {(point.method, *point.coefficients.values()): point for point in studio.points([first.id])}
    assert len(here) == 6 + 4
    for key, point in there.items():
        assert here[key].scores == point.scores
        answers = [[one.answer for one in studio.outcomes(each.id)] for each in (point, here[key])]
        assert answers[0] == answers[1] != []
    assert studio.plan("compare", wider).recipe_hash == run.recipe_hash, "the numbers are those of training it all"


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"settings": {"dualselect.rho": 0.5}}, [("dualselect", 0)]),
        ({"training": {"steps": 4, "batch": 4, "lora_rank": 2}}, [("sft", 0), ("dualselect", 0)]),
        ({"suites": "safety"}, [("sft", 0), ("dualselect", 0)]),
    ],
    ids=["setting", "steps", "suites"],
)
def test_what_was_made_otherwise_is_not_taken_over(studio, world, monkeypatch, change, trained):
    _trained(studio, world[1] | {"seeds": 1}, monkeypatch)
    _, result, done = _trained(studio, world[1] | {"seeds": 1, "reuse": True} | change, monkeypatch)
    assert done == trained
    assert bool(result["taken_from"]) == (len(trained) == 1)


def test_a_lost_checkpoint_is_trained_again_only_where_its_merges_are_asked_for(studio, world, monkeypatch):
    _, before, _ = _trained(studio, world[1] | {"seeds": 1}, monkeypatch)
    for name in before["checkpoints"].values():
        shutil.rmtree(studio.settings.models_root / name)
    _, result, trained = _trained(studio, world[1] | {"seeds": 1, "reuse": True}, monkeypatch)
    assert (trained, result["checkpoints"]) == ([], {})
    _, result, trained = _trained(studio, world[1] | {"seeds": 1, "reuse": True, "grid": "0,0.5,1"}, monkeypatch)
    assert trained == [("sft", 0)]
    assert set(result["taken_from"]) == {"dualselect-s0"}


def test_what_was_taken_over_is_told_after_a_restart_and_is_nobody_elses(studio, world, monkeypatch):
    request = world[1] | {"strategies": "sft,safety_mix", "seeds": 1, "settings": {}, "tune": True}
    first, _, _ = _trained(studio, request, monkeypatch)
    again = studio.submit("compare", request | {"reuse": True})
    results = [compare.compare(_Context(again.id, studio), again.spec) for _ in range(2)]
    assert results[0]["taken_from"] == results[1]["taken_from"]
    assert set(results[1]["taken_from"].values()) == {first.id}
    assert {"trial-0", "sft-s0", "merges-s0"} <= results[1]["taken_from"].keys()
    for run in (first, again):
        studio._database.update_run(run.id, owner="imported")
    assert _trained(studio, request | {"reuse": True}, monkeypatch)[1]["taken_from"] == {}


def test_trials_are_taken_over_too(studio, world, monkeypatch):
    request = world[1] | {"strategies": "sft,safety_mix", "seeds": 1, "settings": {}, "tune": True, "grid": "0"}
    _, before, _ = _trained(studio, request, monkeypatch)
    _, result, trained = _trained(studio, request | {"strategies": "sft,safety_mix,lisa", "reuse": True}, monkeypatch)
    assert trained == [("lisa", 0)]
    assert (result["trials"], result["chosen"]) == (before["trials"], before["chosen"])
    assert set(result["taken_from"]) >= {"trial-0", "trial-4", "sft-s0"}


def test_settings_are_chosen_on_validation_only(studio, world, monkeypatch):
    request = world[1] | {"strategies": "sft,safety_mix", "seeds": 1, "settings": {}, "tune": True}
    run = studio.submit("compare", request)
    calls = []
    monkeypatch.setattr(compare, "tune", _counted(compare.tune, calls))
    result = compare.compare(_Context(run.id, studio), run.spec)
    trials = calls[:-2]
    assert [spec["parameters"].get("share") for spec in trials] == [None, 0.1, 0.2, 0.5, 1.0]
    assert all("validation" in suite for spec in trials for suite in spec["suites"])
    assert not any(spec["task"] for spec in trials)
    assert len(studio.points([run.id])) == 4, "a trial is no point"
    assert result["chosen"].keys() == {"safety_mix"}
    assert len(result["trials"]) == 5
    assert result["trials"][0]["scores"].keys() >= {"safety", "over_refusal", "task"}
    by_hand = studio.plan("compare", request | {"settings": {"safety_mix.share": 0.3}}).spec
    assert [trial["arm"] for trial in by_hand["trials"]] == ["sft"]


def test_ablations_replace_one_part_of_the_settings_in_use(studio, world):
    arms = studio.plan("compare", world[1] | {"ablations": True}).spec["arms"]
    changed = {arm["name"]: compare.settled(arm, {})[0] for arm in arms}
    assert changed["references_only"] == {**changed["dualselect"], "keep_tokens": 1.0}
    assert changed["task_only"] == {**changed["dualselect"], "correction": "none"}
    assert (changed["rho_1"]["rho"], changed["random_references"]["rho"]) == (1.0, 0.4)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"strategies": "sft,dualselekt"}, "strategy"),
        ({"seeds": 0}, "seeds"),
        ({"settings": {"rho": 1}}, "settings"),
        ({"settings": {"dualselect.rho": 9}}, "rho"),
        ({"strategies": "sft", "settings": {}, "ablations": True}, "ablations"),
        ({"strategies": "dualselect", "tune": True}, "tune"),
        ({"sede": 1}, "field of compare"),
    ],
)
def test_a_bad_request_is_refused_by_its_field(studio, world, change, field):
    with pytest.raises(UserError) as caught:
        studio.plan("compare", world[1] | change)
    assert caught.value.field == field


def test_the_demo_is_trained_as_its_checkpoints_were(studio, world):
    write_suite(world[0].demo / "suites", "code", "task", 3)
    (world[0].demo / "data" / "code-mixed.jsonl").write_text((world[0].demo / "data" / "quick-mixed.jsonl").read_text())
    recipes = {"code-mixed": recipe_of("code")}
    made_for = {"code-mixed": {"training": recipe_of("code"), "suites": ["safety", "over_refusal"]}}
    (world[0].demo / "data" / "training.json").write_text(json.dumps(made_for))
    asked = world[1] | {"task_data": "demo/code-mixed", "training": {}}
    planned = studio.plan("compare", {name: asked[name] for name in asked if name != "suites"}).spec
    assert planned["suites"] == ["safety", "over_refusal"]
    training = planned["training"]
    assert {name: training[name] for name in recipes["code-mixed"]} == recipes["code-mixed"]
    alone = {"model": "demo/aligned", "task_data": "demo/code-mixed", "suites": ["safety"]}
    assert studio.plan("tune", alone).spec["training"] == training
    assert studio.plan("compare", asked | {"training": {"steps": 7}}).spec["training"]["steps"] == 7


def test_the_command_prints_one_document(world, monkeypatch, capsys):
    monkeypatch.setattr("backend.__main__.from_environment", lambda: world[0])
    arguments = "--model demo/aligned --task-data demo/quick-mixed --references demo/references --strategies sft"
    more = "--seeds 1 --steps 2 --train batch=4 --preset quick --grid 0,1 --task tool --suites safety --json"
    assert main(["compare-strategies", *arguments.split(), *more.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strategies"][0]["name"] == "sft"
    assert main(["compare-strategies", "--run", str(found["run"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["compare-strategies", "--run", "99"]) == 2


# ------------------------------------------------------------------------------------ numbers


def test_the_interval_holds_the_chance_of_seeds_and_of_prompts():
    agree, differ = [[1.0, 0.0] * 50] * 3, [[1.0] * 100, [0.0] * 100, [1.0, 0.0] * 50]
    one, two = over_seeds(agree), over_seeds(differ)
    assert one.value == two.value == 0.5
    assert 0.15 < one.high - one.low < 0.25
    assert two.high - two.low > 2 * (one.high - one.low)
    assert replicates(agree, seed="a") == replicates(agree, seed="a") != replicates(agree, seed="b")
    assert over_seeds([[1.0, None], [0.0, None]]).n == 2


def test_the_verdict_can_pass_and_fail():
    arms = [_arm("sft", 0.1, 0.98), _arm("safety_mix", 0.92, 0.95), _arm("safegrad", 0.85, 0.99)]
    merges = [_arm("merge", 1.0, 0.4, 0), _arm("merge", 0.2, 0.9, 1)]
    found = verdict([*arms, _arm("dualselect", 0.96, 0.95, refused=0.04)], merges)
    assert [bar["passed"] for bar in found.values()] == [True, True, True, True, False, True]
    low = found["above safety_mix at equal task"]["difference"]
    assert (round(low["value"], 6), low["low"] <= 4 <= low["high"]) == (4.0, True)
    found = verdict([*arms, _arm("dualselect", 0.89, 0.93, refused=0.06)], [_arm("merge", 0.9, 0.94, 0)])
    assert [bar["passed"] for bar in found.values()] == [False] * 6


def test_differences_are_paired_and_of_equally_many_seeds():
    arms = [_arm("sft", 0.1, 0.98), _arm("dualselect", 0.9, 0.95), _arm("no_task", 0.5, 0.95)]
    arms[2].points = arms[2].points * 2
    found = differences(arms)
    assert list(found) == ["sft"]
    assert found["sft"]["safety"]["value"] == 80.0
    assert 70 < found["sft"]["safety"]["low"] < 80 < found["sft"]["safety"]["high"] < 90
    assert found["sft"]["over_refusal"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert differences(arms[:1]) == {}


def test_contaminated_actions_are_judged_beside_held_out_ones():
    arms = [_arm("sft", 0.1, 0.98, contaminated=0.0), _arm("safety_mix", 1.0, 0.95, contaminated=0.02)]
    merges = [_arm("merge", 1.0, 0.4, 0, contaminated=0.5), _arm("merge", 0.2, 0.96, 1, contaminated=0.0)]
    found = verdict([*arms, _arm("dualselect", 0.99, 0.95, contaminated=0.6)], merges)
    assert found["above safety_mix at equal task"]["passed"] is None
    better = found["above safety_mix at equal task, contaminated actions"]
    assert (better["passed"], better["value"], better["rival"]) == (True, 60, 2)
    assert better["difference"]["low"] > 40
    assert found["above safegrad at equal task, contaminated actions"]["passed"] is None
    assert found["above every merge at equal task, contaminated actions"]["passed"] is True


def _arm(name, safety, task, lam=None, refused=0.0, contaminated=None):
    def outcomes(axis, share, good, bad):
        return [
            Outcome(axis, axis, str(i), str(i), "", "", "", good if done else bad, float(done), 1, "stop")
            for i, done in enumerate([True] * round(100 * share) + [False] * round(100 * (1 - share)))
        ]

    answered = outcomes("safety", safety, "refused", "harmful") + outcomes("task", task, "safe_complied", "refused")
    answered += outcomes("over_refusal", refused, "refused", "safe_complied")
    if contaminated is not None:
        answered += outcomes("contaminated", contaminated, "refused", "harmful")
    coefficients = {"seed": 0.0} | ({} if lam is None else {"lambda": lam})
    return Arm(name, [(Point(1, 1, 0, name, coefficients, {}, {}), answered)])


def _counted(function, calls):
    def counted(context, spec):
        calls.append(spec)
        return function(context, spec)

    return counted


class _Context(RunContext):
    """A run's context that stops after so many points."""

    def __init__(self, run, studio, stop_after=99):
        super().__init__(run, studio.settings, studio._database)
        self.stop_after = stop_after

    def report(self, fraction, phrase):
        assert 0 <= fraction <= 1
        if len(self.stored_points()) >= self.stop_after:
            raise KeyboardInterrupt
