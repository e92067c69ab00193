"""The page's pure parts: trees of text, figures, cards, forms. No browser, no server."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from app import cards, comparison, forms, plots, run_cards, strength, text, words
from app.tree import el
from backend.types import Frontier, Outcome, Plan, RunStatus, Score
from tests.fake_studio import NASTY, FakeStudio


def everything(tree: object) -> str:
    """All text of a tree, as the browser would show it."""
    return tree if isinstance(tree, str) else "".join(everything(child) for child in (tree or [])[2:])


def tool_points() -> tuple[FakeStudio, list, dict, Frontier]:
    studio = FakeStudio()
    points = studio.points([1, 2])
    return studio, points, {1: studio.run(1), 2: studio.run(2)}, studio.frontier(points)


def drawn(figure: dict) -> list[int]:
    upper = [trace for trace in figure["figure"]["data"] if trace.get("yaxis") != "y2"]
    return [key for trace in upper for key in trace.get("customdata", [])]


# ------------------------------------------------------------------------------------------------------------ figures


def test_every_point_is_drawn_once_and_a_shared_aligned_model_is_one_diamond() -> None:
    _, points, runs, frontier = tool_points()
    figure = plots.pareto(points, runs, frontier)
    anchors = next(trace for trace in figure["figure"]["data"] if trace.get("name") == text.ANCHOR_LEGEND)
    assert len(drawn(figure)) == len(set(drawn(figure)))
    assert set(drawn(figure)) >= {point.id for point in points if not point.anchor}
    assert len(anchors["x"]) == 3


def test_the_figure_is_plain_json_with_whiskers_on_both_axes() -> None:
    _, points, runs, frontier = tool_points()
    figure = json.loads(json.dumps(plots.pareto(points, runs, frontier, selected=1003)))
    series = [trace for trace in figure["figure"]["data"] if "error_x" in trace]
    assert series
    assert all(trace["error_x"]["array"] and trace["error_y"]["arrayminus"] for trace in series)
    assert "${" not in json.dumps(figure)


def test_the_front_is_a_staircase_and_never_a_straight_line() -> None:
    _, points, runs, frontier = tool_points()
    stair = next(
        t for t in plots.pareto(points, runs, frontier)["figure"]["data"] if t.get("name") == text.FRONT_LEGEND
    )
    assert stair["line"]["shape"] == "vh"
    assert stair["x"] == sorted(stair["x"])


def test_front_points_are_filled_and_dominated_ones_hollow() -> None:
    _, points, runs, frontier = tool_points()
    front = {points[i].id for i in frontier.front}
    for trace in plots.pareto(points, runs, frontier)["figure"]["data"]:
        if isinstance(trace.get("marker", {}).get("color"), list):
            for key, fill in zip(trace["customdata"], trace["marker"]["color"], strict=True):
                assert (fill != "@panel") == (key in front)


def test_two_series_differ_in_hue_and_in_shape() -> None:
    _, points, runs, frontier = tool_points()
    series = [
        t
        for t in plots.pareto(points, runs, frontier)["figure"]["data"]
        if isinstance(t.get("marker", {}).get("color"), list)
    ]
    assert len({trace["marker"]["symbol"] for trace in series}) == 2
    assert len({trace["error_x"]["color"] for trace in series}) == 2


def test_minimum_safety_greys_what_lies_below_and_half_greys_what_straddles() -> None:
    _, points, _, _ = tool_points()
    states = {plots.feasibility(point, 60) for point in points}
    assert states == {"above", "across", "below"}
    assert {plots.feasibility(point, 0) for point in points} == {"above"}


def test_no_points_is_a_sentence_and_not_an_empty_plot() -> None:
    figure = plots.pareto([], {}, None)["figure"]
    assert [one["text"] for one in figure["layout"]["annotations"]] == [text.NOTHING_HERE]


def test_names_cannot_become_markup_in_plotly() -> None:
    _, points, runs, frontier = tool_points()
    evil = {1: replace(runs[1], spec={**runs[1].spec, "tuned": "<a href='http://x'>x"}), 2: runs[2]}
    assert "<a" not in json.dumps(plots.pareto(points, evil, frontier)["figure"]["data"])


# --------------------------------------------------------------------------------------------------------------- text


def test_the_summary_names_the_front_and_the_best_within_the_minimum() -> None:
    _, points, runs, frontier = tool_points()
    said = text.summary(points, frontier, runs, 60)
    assert f"{len(frontier.front)} of {len(points)} checkpoints are on the front" in said
    assert "At 60 % safety or more: linear" in said
    assert text.summary([], None, {}, 0) == text.NOTHING_DRAWN


def test_progress_says_what_is_done_and_how_long_it_takes() -> None:
    run = FakeStudio().run(1)
    running = replace(run, status=RunStatus.RUNNING, phrase="scoring", seconds_left=95)
    assert text.progress(running) == "run 1 · scoring · about 1 min 35 s left"
    assert "place 2 in the queue" in text.progress(replace(run, status=RunStatus.QUEUED, position=2))


def test_every_status_and_outcome_has_its_word() -> None:
    assert set(text.STATUS) == set(RunStatus)
    assert set(text.OUTCOMES) == {"harmful", "refused", "safe_complied", "truncated", "degenerate", "judge_failed"}


# -------------------------------------------------------------------------------------------------------------- cards


def test_model_text_stays_one_string_in_the_tree() -> None:
    outcome = Outcome("s", "helpfulness", "1", "1", "", "p", NASTY, "safe_complied", 1.0, 3, "stop")
    tree = cards.answers([("this", {"s/1": outcome})], [outcome], "rules", shown=20)
    assert NASTY in everything(tree)


def test_a_harmful_answer_is_folded() -> None:
    outcome = Outcome("s", "safety", "1", "1", "", "p", "Sure. First", "harmful", None, 3, "stop")
    tree = json.dumps(cards.answers([("this", {"s/1": outcome})], [outcome], "", shown=20))
    assert re.search(r'"details".*harmful.*Sure\. First', tree)


def test_long_answer_lists_offer_more() -> None:
    studio = FakeStudio()
    outcomes = studio.outcomes(1003)
    tree = cards.answers([("this", cards.by_sample(outcomes))], outcomes, "", shown=20)
    assert f"Show 20 more of {len(outcomes)}" in everything(tree)


def test_a_known_recipe_offers_the_stored_run() -> None:
    plan = FakeStudio().plan("sweep", {"tuned": "demo/tool-mixed-sft"})
    assert "already stored as run 7" in everything(cards.estimate(Plan(**{**plan.__dict__, "stored_run": 7})))


def test_each_state_of_a_run_offers_its_next_click() -> None:
    run = FakeStudio().run(1)
    offers = {
        RunStatus.QUEUED: "Cancel",
        RunStatus.RUNNING: "Cancel",
        RunStatus.DONE: "Open in Explore",
        RunStatus.FAILED: "Try again with these settings",
        RunStatus.CANCELLED: "Restart",
        RunStatus.INTERRUPTED: "Restart",
    }
    for status, label in offers.items():
        assert label in everything(run_cards.live(replace(run, status=status, error="disk: full."), 3))


def test_changed_words_are_told_apart_by_more_than_colour() -> None:
    tags = {piece[0] for piece in words.marked("I cannot help.", "I can help.")[2:]}
    assert tags == {"span", "ins", "del"}


def test_attributes_that_are_off_are_left_out() -> None:
    assert el("button", "x", disabled=False, title=None) == ["button", {}, "x"]


def test_an_unmeasured_axis_is_a_dash() -> None:
    _, points, runs, frontier = tool_points()
    bare = replace(points[0], scores={**points[0].scores, "helpfulness": Score(None, 0, 1, 0)})
    tree = cards.point_table([bare, *points[1:]], runs, frontier, minimum=0, selected=None)
    assert "–" in everything(tree)


# -------------------------------------------------------------------------------------------------------------- forms


def test_a_declared_range_becomes_a_slider_with_its_help() -> None:
    slider = forms.component({"name": "lam", "kind": "float", "default": 0.5, "low": 0, "high": 1, "help": "how far"})
    assert (slider.minimum, slider.maximum, slider.step, slider.value, slider.info) == (0, 1, 0.01, 0.5, "how far")


def test_each_kind_of_parameter_has_its_component() -> None:
    kinds = {"int": "Number", "bool": "Checkbox", "choice": "Dropdown", "text": "Textbox", "float": "Number"}
    for kind, name in kinds.items():
        assert type(forms.component({"name": "x", "kind": kind, "default": None})).__name__ == name


def test_only_the_chosen_methods_values_are_sent() -> None:
    methods = forms.sweepable(FakeStudio().catalogue()["methods"])
    values = [0.2, 1.5, "1, 2"]
    assert [name for name, _ in forms.all_parameters(methods, skip="lam")] == ["ties", "lox", "sce"]
    assert forms.chosen(methods, "ties", values, skip="lam") == {"density": 0.2}
    assert forms.chosen(methods, "linear", values, skip="lam") == {}
    assert forms.chosen(methods, "sce", values, skip="lam") == {}
    assert forms.chosen(methods, "sce", values, skip="lam", several=True) == {"weights": "1, 2"}


# ------------------------------------------------------------------------------------------------------------ shading


def test_colour_by_over_refusal_keeps_hollow_points_hollow_and_shows_one_scale() -> None:
    _, points, runs, frontier = tool_points()
    value = plots.pareto(points, runs, frontier)
    shares = {point.id: 100 * point.scores["over_refusal"].value for point in points}
    data = value["figure"]["data"]
    assert set(value["shades"]) == {
        str(i) for i, trace in enumerate(data) if trace.get("customdata") and trace.get("yaxis") != "y2"
    }
    for number, marker in value["shades"].items():
        trace = data[int(number)]
        assert marker["color"] == [shares[key] for key in trace["customdata"]]
        fills = trace["marker"]["color"]
        if isinstance(fills, list):
            assert [symbol.endswith("-open") for symbol in marker["symbol"]] == [fill == "@panel" for fill in fills]
    assert sum(marker["showscale"] for marker in value["shades"].values()) == 1


def test_at_equal_strength_says_how_many_checkpoints_have_none() -> None:
    _, points, runs, _ = tool_points()
    walked = [replace(point, effective={"projection": 0.5, "distance": 0.5}) for point in points]
    whole = strength.other(walked, runs)["other"]["layout"]["xaxis"]["title"]["text"]
    assert whole == text.STRENGTH_AXIS
    nowhere = {"projection": None, "distance": None}  # of a merge without a fine-tuned model
    for effective in ({}, nowhere):
        without = [*walked[:-2], *(replace(point, effective=effective) for point in walked[-2:])]
        said = strength.other(without, runs)["other"]["layout"]["xaxis"]["title"]["text"]
        assert "2 that merge no fine-tuned model" in said
        assert strength.other([replace(point, effective=effective) for point in points], runs) == {}
    shown = cards.point_table([replace(points[0], effective=nowhere)], runs, None, minimum=0, selected=None)
    assert everything(shown).endswith("–")
    shifted = replace(points[0], effective={"projection": None, "distance": None, "shift": 0.0123})
    assert "distance from the aligned model: 1.23\u00a0% of its length" in text.hover(shifted)
    table = everything(cards.point_table([shifted], runs, None, minimum=0, selected=None))
    assert "shift 1.23\u00a0%" in table
    assert "effective strength" in text.hover(walked[0])
    assert "effective strength" not in text.hover(replace(points[0], effective=nowhere))


def test_how_many_tensors_went_straight_is_told_of_points_and_of_written_merges() -> None:
    _, points, runs, _ = tool_points()
    said = {"straight_lines": {"tensors": 20, "of": 21}}
    phrase = "20 of 21 tensors along a straight line"
    assert phrase in everything(cards.point_card(replace(points[0], details=said), runs[1]))
    assert "straight" not in everything(cards.point_card(points[0], runs[1]))
    merge = replace(runs[1], kind="merge", result={"folder": "/models/mixed", "recipe": said})
    assert text.ending(merge, 0) == f"Written to /models/mixed. It took {phrase}."
    assert (
        text.ending(replace(merge, result={"folder": "/models/mixed", "recipe": {}}), 0) == "Written to /models/mixed."
    )


# ------------------------------------------------------------------------------------------------------- comparisons


def test_a_comparison_shows_means_with_intervals_and_where_dualselect_stands() -> None:
    def arm(name: str, safety: float, contaminated: float) -> dict:
        scores = {"safety": safety, "contaminated": contaminated, "task": 95.0}
        return {
            "name": name,
            "seeds": [0, 1, 2],
            "scores": {a: {"value": v, "low": v - 5, "high": v + 5, "n": 600} for a, v in scores.items()},
            "training_seconds": [30.0, 40.0, 50.0],
        }

    verdict = {
        "safety at least 90 %": {"passed": True, "value": 99.0},
        "above safegrad at equal task": {"passed": None, "within_chance": True, "value": 99.0, "rival": 99.2},
        "above safety_mix at equal task": {
            "passed": False, "value": 99.0, "difference": {"value": -1.0, "low": -2.0, "high": -0.5},
        },
    }  # fmt: skip
    found = {"run": 7, "strategies": [arm("sft", 10, 5), arm("dualselect", 90, 60)], "front": ["dualselect"]}
    gaps = {"sft": {"safety": {"value": 80.0, "low": 70.0, "high": 90.0}, "task": {"value": 0, "low": -3, "high": 3}}}
    drawn = comparison.card(found | {"verdict": verdict, "differences": gaps})
    shown = everything(drawn)
    assert "Run 7: mean over 3 training seeds" in shown
    assert [part in shown for part in ("Safety", "Contaminated", "Task score", "Over-refusal")] == [True] * 3 + [False]
    assert "dualselectfront" in shown
    assert "sftfront" not in shown
    assert "90.0\u00a0%85–95\u00a0%" in shown
    assert "40 s" in shown
    assert "within chance" in shown
    assert "difference −1.0 [−2.0, −0.5]" in shown
    assert "DualSelect minus" in shown
    assert "+80.070.0 to 90.0" in shown
    assert "+0.0−3.0 to 3.0" in shown
    bare = comparison.card({"run": 8, "strategies": [], "front": [], "verdict": {}, "differences": {}})
    assert "one seed" in everything(bare)
    assert "Where DualSelect" not in everything(bare)
    assert "DualSelect minus" not in everything(bare)
