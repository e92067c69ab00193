"""From a request to a plan: what is refused, what is hashed, what it is expected to take."""

import json
from dataclasses import replace

import pytest
import torch

from backend.api import Studio
from backend.checkpoints import space
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.inference.model import load
from backend.jobs.grids import parse_grid
from backend.jobs.planning import make_plan
from backend.settings import ASSETS, from_environment
from backend.types import RunStatus
from tests.worlds import tiny_world


@pytest.fixture
def world(settings):
    return tiny_world(settings)


@pytest.fixture
def studio(settings, world):
    studio = Studio(settings)
    yield studio
    studio.close()


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("0:1:11", [step / 10 for step in range(11)]),
        ("1:0:3", [0, 0.5, 1]),
        ("0.3", [0.3]),
        ([1, 0, 0.5, 0.5], [0, 0.5, 1]),
        (" 0 , .25 ", [0, 0.25]),
    ],
)
def test_a_grid_is_rising_and_holds_each_value_once(grid, expected):
    assert parse_grid(grid) == pytest.approx(expected)


def test_the_recipe_hash_knows_what_changes_a_result_and_nothing_else(studio, world):
    first = studio.plan("sweep", world)
    assert studio.plan("sweep", dict(reversed(world.items()))).recipe_hash == first.recipe_hash
    for change in ({"grid": "0:1:5"}, {"seed": 1}, {"preset": "standard"}, {"tuned": "lora"}):
        assert studio.plan("sweep", world | change).recipe_hash != first.recipe_hash


def test_other_weights_under_the_same_name_are_another_recipe(studio, world, settings):
    before = studio.plan("sweep", world).recipe_hash
    weights = settings.models_root / "tuned" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert studio.plan("sweep", world).recipe_hash != before


@pytest.mark.parametrize(
    ("file", "change"), [("lora/adapter_config.json", {"lora_alpha": 99}), ("aligned/chat_template.jinja", "")]
)
def test_what_stands_beside_the_weights_is_part_of_the_recipe(studio, world, settings, file, change):
    request = world | {"tuned": "lora"}
    before = studio.plan("sweep", request)
    path = settings.models_root / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change) if change else path.read_text() + "{# other #}")
    after = studio.plan("sweep", request)
    assert after.recipe_hash != before.recipe_hash
    name = file.partition("/")[0]
    assert [one["beside"] != other["beside"] for one, other in _fingerprints(before, after)] == [
        one["name"] == name for one, _ in _fingerprints(before, after)
    ]


def _fingerprints(before, after):
    return [(before.recipe[role], after.recipe[role]) for role in ("aligned", "tuned")]


def test_the_demo_is_known_by_its_weights_so_that_its_stored_runs_are_found(studio):
    plan = studio.plan("sweep", {"aligned": "demo/aligned", "tuned": "demo/code-mixed-sft"})
    assert {"name", "revision", "kind", "files"} == set(plan.recipe["aligned"]) == set(plan.recipe["tuned"])


def test_a_model_of_an_unlisted_type_is_merged_and_never_run(studio, world, settings, tmp_path):
    for name in ("aligned", "tuned"):
        path = settings.models_root / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "unheard"}))
    for kind, request, field in (
        ("sweep", world, "aligned"),
        ("search", {key: world[key] for key in ("aligned", "tuned", "suites")}, "aligned"),
        ("evaluate", {"checkpoint": "tuned", "suites": world["suites"]}, "checkpoint"),
        ("evaluate", {"checkpoint": "lora", "aligned": "aligned", "suites": world["suites"]}, "aligned"),
        ("tune", {"model": "aligned", "task_data": "demo/code-clean", "strategy": "sft"}, "model"),
        ("compare", {"model": "aligned", "task_data": "demo/code-clean"}, "model"),
    ):
        with pytest.raises(UserError, match=rf"{field}: config.json has model_type 'unheard'; allowed is cohere, "):
            studio.plan(kind, request)
    with pytest.raises(UserError, match=r"aligned: config.json has model_type 'unheard'; .* inspected and merged"):
        load(resolve("aligned", settings), device=torch.device("cpu"))
    run = studio.wait(studio.submit("merge", {"aligned": "aligned", "tuned": "tuned", "out": str(tmp_path / "o")}).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    assert json.loads((tmp_path / "o" / "config.json").read_text())["model_type"] == "unheard"


def test_a_sweep_that_names_no_grid_covers_the_range_of_its_methods_own_number(studio, world):
    request = {key: value for key, value in world.items() if key != "grid"}
    offered = {method["name"]: method["grids"] for method in studio.catalogue()["methods"]}
    for name, knob, last in (("linear", "lam", 1), ("passthrough", "scale", 2), ("nearswap", "t", 1)):
        plan = studio.plan("sweep", request | {"method": name})
        assert (len(plan.spec["grid"]), plan.spec["grid"][0], plan.spec["grid"][-1]) == (11, 0, last)
        assert plan.recipe == studio.plan("sweep", request | {"method": name, "grid": offered[name][knob]}).recipe


def test_a_search_is_of_one_fine_tuning(studio, world):
    request = {key: world[key] for key in ("aligned", "suites")} | {"tuned": ["tuned", "lora"]}
    with pytest.raises(UserError, match="tuned: a search turns what one fine-tuning changed, 2 were given"):
        studio.plan("search", request)


def test_a_plan_forecasts_time_memory_and_disk_and_writes_nothing(studio, world):
    plan = studio.plan("sweep", world)
    assert plan.estimate.seconds > 0
    assert plan.estimate.memory > 100e6
    assert plan.estimate.disk > 0
    assert plan.stored_run is None
    assert studio.runs() == [run for run in studio.runs() if run.stored]


def test_a_sweep_that_would_not_fit_in_memory_is_refused_with_both_numbers(studio, world, monkeypatch):
    monkeypatch.setattr(space, "free_memory", lambda: 50 * 2**20)
    with pytest.raises(UserError, match=r"memory: this needs .* of memory, .* are free"):
        studio.submit("sweep", world)


def test_an_unknown_field_or_kind_is_refused_with_a_suggestion(studio, world):
    with pytest.raises(UserError, match='Did you mean "tuned"'):
        studio.plan("sweep", world | {"tunde": "x"})
    with pytest.raises(UserError, match='Did you mean "sweep"'):
        studio.plan("sweeep", world)


def test_an_adapter_needs_its_base_and_cannot_be_the_aligned_side(studio, world):
    with pytest.raises(UserError, match="lora is an adapter and needs its base"):
        studio.plan("evaluate", {"checkpoint": "lora"})
    with pytest.raises(UserError, match="aligned: lora is an adapter"):
        studio.plan("sweep", world | {"aligned": "lora"})


def test_nothing_given_is_named(studio):
    with pytest.raises(UserError, match="aligned: nothing was given"):
        studio.plan("sweep", {"aligned": " ", "tuned": "x"})


def test_a_run_travels_as_a_bundle_and_is_never_doubled(studio, world, settings, tmp_path):
    run = studio.wait(studio.submit("sweep", world | {"grid": "0,1"}).id)
    bundle = studio.export_runs([run.id])
    from dataclasses import replace

    other = Studio(replace(settings, home=tmp_path / "other", database=f"sqlite:///{tmp_path / 'other' / 's.sqlite'}"))
    (taken,) = other.import_runs(bundle)
    assert other.import_runs(bundle)[0].id == taken.id
    ours, theirs = studio.points([run.id]), other.points([taken.id])
    assert [point.to_json() for point in theirs] == [point.to_json() for point in ours]
    assert [o.answer for o in other.outcomes(theirs[1].id)] == [o.answer for o in studio.outcomes(ours[1].id)]
    other.close()
    with pytest.raises(UserError, match="bundle"):
        studio.import_runs({"schema": 99})


def test_a_run_can_be_renamed_but_not_to_nothing(studio, world):
    run = studio.submit("sweep", world)
    assert studio.rename(run.id, " mine ").name == "mine"
    with pytest.raises(UserError, match="name"):
        studio.rename(run.id, " ")
    with pytest.raises(UserError, match="there is no run 99"):
        studio.cancel(99)


def test_a_grid_over_two_numbers_is_measured_at_every_pair(studio, world):
    grid = {"method": "ties", "grid": "lam=0:1:2, density=0.2,0.6", "parameters": {"density": "0.9"}}
    plan = studio.plan("sweep", world | grid)
    assert plan.spec["grid"] == {"lam": [0.0, 1.0], "density": [0.2, 0.6]}
    assert "density" not in plan.spec["parameters"]
    run = studio.wait(studio.submit("sweep", world | grid).id)
    points = studio.points([run.id])
    labels = [f"ties λ = {lam}, density = {density}" for density in (0.2, 0.6) for lam in (0, 1)]
    assert [point.label for point in points] == labels
    walked = [point.effective["projection"] for point in points]
    assert walked[0] == walked[2] == 0
    assert 0 < walked[1] < walked[3]


def test_a_number_other_than_lambda_is_swept_alone_at_the_lambda_that_is_set(studio, world):
    request = world | {"method": "ties", "grid": "density=0.5:1:2", "parameters": {"lam": 0.5}}
    plan = studio.plan("sweep", request)
    assert plan.spec["parameters"] == {"lam": 0.5}
    points = studio.points([studio.wait(studio.submit("sweep", request).id).id])
    assert [point.coefficients for point in points] == [{"density": 0.5}, {"density": 1.0}]
    assert points[1].effective["projection"] == pytest.approx(0.5, abs=1e-5)
    assert [point.anchor for point in points] == ["", ""]


@pytest.mark.parametrize(
    ("method", "grid", "sentence"),
    [
        ("ties", "densty=0:1:2", 'grid: no "densty". Did you mean "density"'),
        ("ties", "density=0:1:3", "grid: got 0.0; allowed is numbers from 0.001 to 1"),
        ("ties", "lam=0:1:20, density=0.1:1:10", "grid: got 200; allowed is at most 101 points"),
        ("della", "lam=0:1:2, density=0.01:0.5:2", "density"),
        ("linear", "lam=0:1:2, lam=0.5", "each name once"),
        ("lox", "rank=1.5,2", "grid: got 1.5; allowed is whole numbers from 0 to 1024"),
    ],
)
def test_a_grid_that_cannot_be_measured_is_refused_before_anything_runs(studio, world, method, grid, sentence):
    with pytest.raises(UserError, match=sentence):
        studio.plan("sweep", world | {"method": method, "grid": grid})


def test_plain_suites_bring_the_plain_suite_of_the_task(tmp_path):
    studio = Studio(from_environment({"STUDIO_HOME": str(tmp_path)}))
    request = {"checkpoint": "demo/aligned", "task": "code", "suites": "plain_safety, plain_over_refusal"}
    recipe = studio.plan("evaluate", request).recipe
    assert set(recipe["suites"]) == {"plain_safety", "plain_over_refusal", "plain_code"}
    assert set(recipe["judges"]) == {"rules"}
    with pytest.raises(UserError, match="Available: code, helpfulness, reasoning, tool"):
        studio.plan("evaluate", request | {"task": "medical"})


@pytest.mark.parametrize("out", ["~nobody-of-this-name/x", "x" * 300, "x" * 252, "bad\0name"])
def test_a_folder_that_cannot_be_made_is_refused_by_its_field(studio, out):
    with pytest.raises(UserError) as caught:
        studio.plan("merge", {"aligned": "aligned", "tuned": "tuned", "out": out})
    allowed = "the path of a new folder that you may write to"
    assert str(caught.value) == f"out: got {out[:200]!r}; allowed is {allowed}. Choose another folder."


@pytest.mark.parametrize(
    ("kind", "field", "change"),
    [
        ("sweep", "aligned", {"aligned": "/tmp"}),
        ("sweep", "tuned", {"tuned": "owner/model"}),
        ("sweep", "suites", {"suites": ["/etc/prompts.jsonl"]}),
        ("merge", "out", {"out": "/tmp/merged"}),
        ("merge", "calibration", {"method": "safe_delta", "calibration": "/tmp/chats.jsonl"}),
        ("tune", "task_data", {"task_data": "/tmp/rows.jsonl"}),
        ("tune", "out", {"out": "/tmp/tuned"}),
    ],
)
def test_a_public_page_takes_only_what_came_with_it(settings, kind, field, change):
    pair = {"aligned": "demo/aligned", "tuned": "demo/tool-mixed-sft"}
    request = {"model": "demo/aligned", "task_data": "demo/tool-mixed"} if kind == "tune" else pair
    public = replace(settings, public=True, demo=ASSETS / "demo")
    make_plan(public, kind, request)
    with pytest.raises(UserError, match=f"{field}: .*on a public page"):
        make_plan(public, kind, {**request, **change})
