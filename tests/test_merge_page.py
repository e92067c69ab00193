"""The Merge page's form, search, map and overlay as functions, over the scripted studio."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from app import cards, forms, heatmap, plots, series, strength, text
from app.pages.merge_form import Fields
from backend.errors import UserError
from backend.types import LayerChange, RunStatus
from tests.fake_studio import FakeStudio
from tests.test_app_pages import Page, errors, everything


@pytest.fixture(scope="module")
def page() -> Page:
    return Page()


def spec(page: Page, kind: str = "sweep", **changes: Any) -> dict[str, Any]:
    return page.merge.fields.spec(kind, Fields.of(page.form(**changes)))


def shown(page: Page, method: str, grid: str = "0:1:11", more: list[str] | None = None) -> dict[str, dict[str, Any]]:
    form = page.merge.fields
    names = ["method", "tuned", "more", *form.extras, "calibration", "grid", "second", "second_grid", "lam"]
    names += [f"knobs of {name}" for name in form.groups] + [f"weights of {name}" for name in form.several]
    updates = form.show(method, grid, more or [])
    assert len(updates) == len(form.shown)
    return dict(zip(names, updates, strict=True))


def test_fields_appear_only_for_the_methods_that_need_them(page: Page) -> None:
    def seen(method: str, **more: Any) -> set[str]:
        return {name for name, update in shown(page, method, **more).items() if update.get("visible")}

    assert seen("linear") == {"tuned", "lam"}
    assert seen("ties") == {"tuned", "lam", "knobs of ties"}
    assert seen("safe_lora") == {"tuned", "lam", "raw"}
    assert seen("sce") == {"tuned", "lam", "more"}
    assert seen("sce", more=["demo/code-clean-sft"]) == {"tuned", "lam", "more", "weights of sce"}
    assert seen("lox") == {"raw", "knobs of lox"}
    assert seen("safe_delta") == {"tuned", "lam", "calibration"}


def test_the_grid_follows_the_methods_number_unless_it_was_changed(page: Page) -> None:
    update = shown(page, "lox")["grid"]
    assert (update["label"], update["value"]) == ("Steps of extrapolate", "0:3:11")
    assert "value" not in shown(page, "ties", grid="0, 0.5")["grid"]


def test_a_method_names_its_paper_and_the_grid_says_what_its_number_means(page: Page) -> None:
    update = shown(page, "ties")["method"]
    assert update["info"] == "Trim, elect, merge. Paper: [arXiv:2412.19512](https://arxiv.org/abs/2412.19512)."
    assert shown(page, "ties")["grid"]["info"].startswith("how far to walk, no unit Write start:stop:count")
    assert shown(page, "lox")["grid"]["info"].endswith("from 0 to 3.")


def test_what_is_wrong_with_a_knob_is_said_below_the_knobs(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str, spec: dict[str, Any]) -> None:
        raise UserError("weights", got=spec["parameters"]["weights"], allowed="one number for each of the 2")

    monkeypatch.setattr(page.studio, "plan", refuse)
    form = page.form(method="sce", more=["demo/code-clean-sft"], weights="1, 2, 3")
    said = errors(page, page.merge.check(*form)[2:])
    assert said == {"parameters": "weights: got '1, 2, 3'; allowed is one number for each of the 2."}


def test_a_list_shows_how_it_is_written_and_a_swept_number_that_it_is_for_one_merge(page: Page) -> None:
    fields = page.merge.fields
    declared = forms.all_parameters(fields.methods, skip="lam")
    by_name = {p["name"]: one for (_, p), one in zip(declared, fields.values, strict=True)}
    assert by_name["weights"].placeholder == "for example 1, 0.5"
    assert by_name["extrapolate"].info == text.ONE_MERGE_ONLY
    assert by_name["density"].info == "share of entries kept"


def test_the_request_says_nothing_of_what_the_method_does_not_take(page: Page) -> None:
    extra = {"raw": "demo/unaligned", "more": ["demo/code-clean-sft"], "weights": "1, 2"}
    assert {"raw", "unaligned", "safe"} & set(spec(page, **extra)) == set()
    assert spec(page, method="safe_lora", **extra)["raw"] == "demo/unaligned"
    assert spec(page, method="safe_delta")["calibration"] == "demo/references"
    assert "calibration" not in spec(page)
    several = spec(page, method="sce", **extra)
    assert several["tuned"] == ["demo/tool-mixed-sft", "demo/code-clean-sft"]
    assert several["parameters"] == {"weights": "1, 2"}
    assert spec(page, method="lox", **extra)["tuned"] == []
    assert "lam" not in spec(page, "merge", method="lox", **extra)["parameters"]


def test_a_pair_that_is_not_the_demos_is_measured_on_plain_prompts_unless_a_person_chose(page: Page) -> None:
    plain = "plain_safety, plain_over_refusal, plain_helpfulness"
    for kind in ("sweep", "search"):
        assert "suites" not in spec(page, kind)
        assert spec(page, kind, aligned="org/model")["suites"] == plain
        assert spec(page, kind, suites="own", own_suites="plain_safety")["suites"] == "plain_safety"
    assert "suites" not in spec(page, aligned="org/model", suites="micro-world")
    assert "suites" not in spec(page, "merge", aligned="org/model")
    wrong = page.form(suites="own", own_suites="plain_safty")
    assert "plain_safety" in errors(page, page.merge.check(*wrong)[2:])["suites"]
    assert [page.merge.fields.measured.show(one)["visible"] for one in ("plain", "own")] == [False, True]


def test_the_tokenizer_may_come_from_the_fine_tuned_model(page: Page) -> None:
    assert spec(page, "merge", donor="fine_tuned")["donor"] == spec(page, donor="fine_tuned")["donor"] == "fine_tuned"
    assert "donor" not in spec(page, method="lox", donor="fine_tuned")
    assert "donor" not in spec(page, "search", donor="fine_tuned")
    page.merge.check(*page.form(donor="fine_tuned"))
    assert page.studio.donor == "fine_tuned"  # the findings are those of the merge that is asked for


def test_a_plan_says_which_prompts_it_measures_on(settings: Any) -> None:
    from backend.api import Studio

    studio = Studio(settings)
    plain = ", ".join(one["name"] for one in studio.catalogue()["suites"] if one["plain"] and one["axis"] != "task")
    request = {"aligned": "demo/aligned", "tuned": "demo/code-mixed-sft", "task": "code", "suites": plain}
    plan = studio.plan("sweep", request)
    studio.close()
    said = everything(cards.estimate(plan))
    assert "11 checkpoints: λ = 0, " in said
    assert "11 checkpoints: t = 0, " in everything(cards.estimate(plan, "t"))
    for name in ("plain_safety", "plain_over_refusal", "plain_helpfulness", "plain_code"):
        assert f"{name} (" in said


def test_a_second_number_makes_a_grid_and_the_estimate_counts_it(page: Page) -> None:
    update = page.merge.fields.show_second("ties", "density")
    assert (update["visible"], update["value"]) == (True, "0.1:0.9:3")
    form = page.form(method="ties", grid="0:1:6", second="density", second_grid="0.1:0.9:3")
    assert page.merge.fields.spec("sweep", Fields.of(form))["grid"] == "lam=0:1:6, density=0.1:0.9:3"
    _, estimate, *slots = page.merge.check(*form)
    assert "18 checkpoints (6 × 3)" in everything(estimate)
    assert not errors(page, slots)


def test_one_merge_says_what_it_takes_and_what_is_wrong_before_its_button_is_pressed(page: Page) -> None:
    def seen(**changes: Any) -> list[str]:
        return [everything(one) for one in page.merge.check_merge(True, *page.form(**changes))]

    above, lam, out = seen()
    assert above.startswith("About 9 s, ")
    assert "checkpoint" not in above  # it has no grid
    assert (lam, out) == ("", "")
    above, lam, out = seen(out="/taken")
    assert (above, lam, out) == ("", "", "out: /taken exists and is not empty. Name a new folder.")
    above, lam, out = seen(lam=1.75)
    assert (above, lam[:13], out) == ("", "lam: got 1.75", "")
    above, lam, out = seen(tuned="nowhere")
    assert above.startswith("tuned: no folder 'nowhere'")
    assert (lam, out) == ("", "")


def test_the_strength_of_one_merge_may_be_typed_past_both_models(page: Page, settings: Any) -> None:
    from backend.api import Studio

    field = page.merge.fields.lam
    assert [field.preprocess(lam) for lam in (-0.5, 0.37, 1.5)] == [-0.5, 0.37, 1.5]
    studio = Studio(settings)
    request = {"aligned": "demo/aligned", "tuned": "demo/code-mixed-sft", "method": "linear"}
    for lam in (-0.5, 1.5):
        assert studio.plan("merge", request | {"parameters": {"lam": lam}}).spec["parameters"]["lam"] == lam
    with pytest.raises(UserError, match=r"lam: got 1\.75; allowed is a number from -0\.5 to 1\.5"):
        studio.plan("merge", request | {"parameters": {"lam": 1.75}})
    studio.close()


def test_the_check_of_a_sweep_leaves_alone_what_is_said_of_one_merge(page: Page) -> None:
    for form in (page.form(out="/taken"), page.form(grid="0:9:3")):
        slots = dict(zip(page.merge.errors, page.merge.check(*form)[2:], strict=True))
        assert [slots["lam"], slots["out"]] == [gr.skip(), gr.skip()]


def test_one_merge_is_planned_only_while_its_form_is_open() -> None:
    class Counting(FakeStudio):
        planned = 0

        def plan(self, kind: str, spec: Any) -> Any:
            self.planned += 1
            return super().plan(kind, spec)

    page = Page()
    page.merge.studio = studio = Counting()
    assert page.merge.check_merge(False, *page.form()) == [gr.skip()] * 3
    assert studio.planned == 0
    page.merge.check_merge(True, *page.form())
    assert studio.planned == 1


def test_unfolding_one_merge_opens_it_before_it_is_planned_and_folding_closes_it(page: Page) -> None:
    events = {event: fn for fn in page.blocks.fns.values() for event in fn.targets}
    opening, closing = (events[page.merge.writing._id, event] for event in ("expand", "collapse"))
    for event, is_open in ((opening, True), (closing, False)):
        assert event.fn() is is_open
        assert event.outputs == [page.merge.is_writing]
    (planned,) = [one for one in page.blocks.fns.values() if one.trigger_after == opening._id]
    assert planned.fn == page.merge.check_merge


def test_every_field_of_one_merge_asks_for_its_preview_again(page: Page) -> None:
    opened, asked = [one for one in page.blocks.fns.values() if one.fn == page.merge.check_merge]
    form = page.merge.fields
    assert opened.inputs == asked.inputs == [page.merge.is_writing, *form.inputs]
    triggers = {trigger for trigger, _ in asked.targets}
    wanted = [form.aligned, form.tuned, form.more, form.method, form.donor, form.calibration, *form.extras.values()]
    wanted += [*form.values, form.lam, form.out, form.seed]
    assert triggers == {one._id for one in wanted}


def test_every_method_of_the_real_catalogue_is_offered_with_its_needs(settings: Any) -> None:
    from backend.api import Studio

    studio = Studio(settings)
    catalogue = studio.catalogue()["methods"]
    studio.close()
    methods = forms.sweepable(catalogue)
    assert len(methods) == len(catalogue)
    assert methods[0]["name"] == "linear"
    labels = {method["name"]: forms.method_label(method) for method in methods}
    assert labels["safemerge"] == "safemerge · with raw and safe model"
    assert labels["model_stock"] == "model_stock · two or more fine-tunes"
    grids = {method["name"]: forms.first_grid(method) for method in methods}
    assert grids["linear"] == grids["ties"] == "0:1:11"
    assert (grids["lox"], grids["resta"], grids["nearswap"][:17]) == ("0:3:11", "0:2:11", "0, 0.0001, 0.0003")
    assert all(other in m["grids"] for m in methods for _, other in forms.second_numbers(m)[1:])
    assert set(text.EXTRAS) == {role for method in methods for role in method["extras"]}


# ------------------------------------------------------------------------------------ search


def test_a_search_starts_runs_and_ends_with_its_verdict() -> None:
    page = Page()
    started = page.merge.starter("search")(None, *page.form())
    watching = started[-3]
    page.now = 12.5
    live, plot = page.merge.view(watching)
    assert "12 of 15" in everything(live)
    assert len({trace["name"] for trace in plot["figure"]["data"] if "error_x" in trace}) >= 2
    page.now = 60.0
    live, _ = page.merge.view(watching)
    assert "difference is within chance" in everything(live)
    assert "+0.7 points, 95 % interval -2.6 to +3.7" in everything(live)


def test_a_search_request_has_its_budget_and_keeps_the_uniform_steps(page: Page) -> None:
    asked = spec(page, "search", grid="0:1:5", minutes=2)
    assert (asked["grid"], asked["minutes"], asked["trials"]) == ("0:1:5", 2, 4)
    assert "grid" not in spec(page, "search", grid="density=0:1:5", method="ties")
    wrong = page.merge.starter("search")(None, *page.form(tuned="nowhere"))
    assert "tuned" in errors(page, wrong[2 : 2 + len(page.merge.errors)])


def test_only_one_half_of_a_search_is_drawn() -> None:
    studio = FakeStudio()
    run, points = studio.run(1), studio.points([1])[:4]
    parts = ("validation", "validation", "held-out", "held-out")
    halves = [replace(point, details={"half": part}) for point, part in zip(points, parts, strict=True)]
    assert series.settled(halves, {1: run}) == halves[2:]
    assert series.settled(halves, {1: replace(run, status=RunStatus.RUNNING)}) == halves[:2]
    assert series.settled(points, {1: run}) == points


# ------------------------------------------------------------------------------------ several runs on one plot


def overlaid() -> tuple[FakeStudio, list, dict]:
    studio = FakeStudio()
    for method in ("linear", "ties"):
        studio.submit("sweep", {"method": method, "tuned": "demo/tool-mixed-sft"})
    runs = {run: studio.run(run) for run in (4, 5)}
    return studio, studio.points([4, 5]), runs


def test_methods_are_told_apart_by_name_hue_and_shape() -> None:
    _, points, runs = overlaid()
    found = series.series_of(points, runs)
    assert [one.name for one in found] == ["linear, run 4", "ties, run 5"]
    assert len({(one.hue, one.shape) for one in found}) == 2


def test_no_two_of_many_series_look_alike() -> None:
    _, points, runs = overlaid()
    many = [replace(points[0], id=number, method=f"method {number}") for number in range(40)]
    assert len({(one.hue, one.shape) for one in series.series_of(many, runs)}) == 40


def test_a_grid_over_two_numbers_is_several_paths() -> None:
    studio = FakeStudio()
    grid = {"method": "ties", "grid": {"lam": [0.0, 0.5, 1.0], "density": [0.2, 0.8]}}
    run = studio.submit("sweep", grid)
    paths = series.paths_of(studio.points([run.id]))
    assert [[point.coefficients["lambda"] for point in path] for path in paths] == [[0.0, 0.5, 1.0]] * 2
    figure = plots.pareto(studio.points([run.id]), {run.id: studio.run(run.id)}, None)["figure"]
    line = next(trace for trace in figure["data"] if trace.get("mode") == "lines")
    assert line["x"].count(None) == 1


def test_at_equal_strength_the_axis_is_the_projection() -> None:
    _, points, runs = overlaid()
    value = json.loads(json.dumps(strength.other(points, runs)))
    drawn = [trace for trace in value["other"]["data"] if trace["mode"] == "markers"]
    assert {key for trace in drawn for key in trace["customdata"]} == {point.id for point in points}
    ties = next(trace for trace in drawn if trace["name"].startswith("ties"))
    assert max(ties["x"]) == pytest.approx(0.7**0.5)
    assert strength.other([replace(point, effective={}) for point in points], runs) == {}
    table = everything(cards.point_table(points, runs, None, minimum=0, selected=None))
    assert "Strength" in table
    assert "0.84" in table


def test_finished_sweeps_on_the_same_prompts_are_drawn_beside_the_watched_one() -> None:
    page = Page()
    suites = {"suites": {"safety": {"axis": "safety", "hash": "1"}}, "judges": {"rules": "1"}}
    ids = []
    for method in ("ties", "linear"):
        run = page.studio.submit("sweep", {"method": method, "tuned": "demo/tool-mixed-sft"})
        page.studio.rows[run.id] = replace(run, recipe=run.recipe | suites)
        ids.append(run.id)
        page.now += 60
    names = {trace.get("name") for trace in page.merge.view(ids[1])[1]["figure"]["data"]}
    assert {f"ties, run {ids[0]}", f"linear, run {ids[1]}"} <= names
    other = {"suites": {"safety": {"axis": "safety", "hash": "2"}}, "judges": {"rules": "1"}}
    page.studio.rows[ids[0]] = replace(page.studio.run(ids[0]), recipe=page.studio.run(ids[0]).recipe | other)
    names = {trace.get("name") or "" for trace in page.merge.view(ids[1])[1]["figure"]["data"]}
    assert not any("ties" in name for name in names)
    said = cards.summary(page.studio.points(ids), page.studio.frontier(page.studio.points(ids)), page.studio.rows, 0)
    assert text.DIFFERENT_PROMPTS in everything(said)


# ------------------------------------------------------------------------------------ the map


def test_the_map_has_layers_down_modules_across_and_gaps_where_nothing_is() -> None:
    changes = FakeStudio().task_vector("demo/aligned", "demo/x")
    figure = json.loads(json.dumps(heatmap.heatmap(changes)))["figure"]
    (cells,) = figure["data"]
    assert cells["x"] == ["q", "k", "v", "o", "gate", "up", "down", "norms", "embed"]
    assert cells["y"] == ["outside", "layer 0", "layer 1", "layer 2", "layer 3"]
    assert cells["z"][0] == [None] * 7 + [0, 0]
    assert cells["z"][4][6] == pytest.approx(56)
    ways = heatmap.heatmap(changes, "cosine")["figure"]["data"][0]
    assert ways["zmin"] == -ways["zmax"] == pytest.approx(-0.15)
    assert ways["z"][1][7] is None


def test_the_map_says_what_moved_most_and_what_did_not() -> None:
    said = text.moved_most(FakeStudio().task_vector("demo/aligned", "demo/x"))
    assert said == "Largest change: down, layer 3, by 56 % of its length. Not moved at all: embed, norms."
    assert text.moved_most([LayerChange(0, "q", 0.0, None, 5)]) == "The two models have the same weights."


def test_the_map_is_asked_for_and_a_wrong_pair_is_a_sentence(page: Page) -> None:
    first, second = page.merge.layers.show("demo/aligned", "demo/tool-mixed-sft", "cosine")
    assert "Reading" in everything(first[0])
    assert second[2]["value"]["figure"]["data"][0]["type"] == "heatmap"
    *_, last = page.merge.layers.show("demo/aligned", "nowhere", "distance")
    assert "Pick one of the list" in everything(last[0])
    assert last[2]["visible"] is False
