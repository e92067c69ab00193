"""Telemetry as a figure and as cards: only what applies is drawn, text stays text. No browser, no server."""

from __future__ import annotations

import json
from typing import Any

from app import curves, tuning_cards
from app import tuning_text as words
from tests.fake_studio import NASTY, FakeStudio
from tests.test_app_pure import everything


def reported(strategy: str = "dualselect", **spec: Any) -> dict[str, Any]:
    studio = FakeStudio()
    return studio.telemetry(studio.submit("tune", {"strategy": strategy, **spec}).id)


def titles(figure: dict[str, Any]) -> list[str]:
    return [one["text"] for one in figure["figure"]["layout"]["annotations"] if one["yref"] == "paper"]


def test_dualselect_draws_all_panels_and_plain_sft_only_loss_and_probes() -> None:
    assert titles(curves.curves(reported())) == list(words.PANELS.values())
    assert titles(curves.curves(reported("sft"))) == [words.PANELS["loss"], words.PANELS["probes"]]
    assert titles(curves.curves(reported("sft", task=""))) == [words.PANELS["loss"]]


def test_before_the_first_step_there_is_no_figure() -> None:
    assert curves.curves({"steps": [], "probes": [], "refreshes": []}) is None
    assert tuning_cards.vitals({"steps": []}) is None
    assert tuning_cards.references([]) is None
    assert tuning_cards.dropped([], {}) is None


def test_every_refresh_marks_every_panel() -> None:
    found = reported()
    shapes = curves.curves(found)["figure"]["layout"]["shapes"]
    marks = [shape["x0"] for shape in shapes if shape["yref"] == "paper" and (shape["y0"], shape["y1"]) == (0, 1)]
    assert marks == [refresh["step"] for refresh in found["refreshes"]]


def test_the_cosine_is_red_exactly_where_it_is_negative() -> None:
    found = reported()
    red = next(t for t in curves.curves(found)["figure"]["data"] if t["name"] == words.FIGHTS)
    negative = [row["step"] for row in found["steps"] if row.get("cos_task_ref", 0) < 0]
    assert [x for x, y in zip(red["x"], red["y"], strict=True) if y is not None and y < 0] == negative
    assert red["line"]["color"] == "@bad"
    kind = {**found, "steps": [{**row, "cos_task_ref": 0.3} for row in found["steps"]]}
    assert words.FIGHTS not in [trace["name"] for trace in curves.curves(kind)["figure"]["data"]]


def test_what_stays_by_chance_stands_beside_what_stayed() -> None:
    refreshes = [{"step": 3}, {"step": 9, "jaccard": 0.5, "jaccard_chance": 0.25, "cause": "interval"}]
    (trace,) = curves._stable([{"step": 12}], refreshes)
    assert trace["hovertext"][0].startswith("step 9: 50 % kept, 25 % by chance, ")


def test_the_kept_share_is_drawn_against_its_target() -> None:
    layout = curves.curves(reported(), target=0.9)["figure"]["layout"]
    assert [shape["y0"] for shape in layout["shapes"] if shape["yref"] == "y3"] == [90.0]
    assert words.TARGET.format(share=90) in [one["text"] for one in layout["annotations"]]


def test_probes_carry_intervals_whether_given_as_shares_or_in_percent() -> None:
    found = reported()
    percent = json.loads(json.dumps(found))
    for probe in percent["probes"]:
        for score in probe["scores"].values():
            score |= {key: 100 * score[key] for key in ("value", "low", "high")}
    drawn = [[t for t in curves.curves(one)["figure"]["data"] if "error_y" in t] for one in (found, percent)]
    assert [trace["name"] for trace in drawn[0]] == ["safety", "task score", "over-refusal"]
    assert all(trace["error_y"]["arrayminus"][0] > 1 for trace in drawn[0])
    for share, whole in zip(*drawn, strict=True):
        assert [round(y, 6) for y in share["y"]] == [round(y, 6) for y in whole["y"]]


def test_a_long_run_is_thinned_and_keeps_its_newest_step() -> None:
    steps = [{"step": n, "loss_task": 1.0} for n in range(1, 5001)]
    line = curves.curves({"steps": steps})["figure"]["data"][0]
    assert len(line["x"]) <= curves.MOST + 1
    assert line["x"][-1] == 5000


def test_no_axis_is_given_a_range_of_nothing() -> None:
    """plotly.js then fails on the second drawing, and the chart stands still."""
    layout = curves.curves(reported())["figure"]["layout"]
    assert not [side for side, axis in layout.items() if "axis" in side and "range" in axis and axis["range"] is None]


def test_the_figure_is_plain_json_without_templates() -> None:
    assert "${" not in json.dumps(curves.curves(reported()))


def test_a_value_that_does_not_apply_has_no_tile() -> None:
    assert "cosine" in everything(tuning_cards.vitals(reported()))
    assert "cosine" not in everything(tuning_cards.vitals(reported("sft")))
    assert "reference loss" not in everything(tuning_cards.vitals(reported("sft")))


def test_rows_and_references_stay_one_string_in_the_tree() -> None:
    found = reported()
    assert NASTY in everything(tuning_cards.dropped(found["dropped"], found["counts"]))
    assert NASTY in everything(tuning_cards.references(found["references"]))


def test_new_references_come_first_and_replaced_ones_are_kept_at_hand() -> None:
    found = reported()["references"]
    said = everything(tuning_cards.references(found, [{"id": "old", "text": "An old request", "answer": "An answer"}]))
    assert said.index("lock 15") < said.index("lock 12")
    assert "3 of them are new" in said
    assert "Replaced at the last choice: 1" in said
    assert "An old request" in said


def test_a_benign_group_that_is_dropped_too_often_is_a_warning() -> None:
    assert "lower" in everything(tuning_cards.dropped([], {"unsafe": [1, 90], "benign": [9, 10]}))
    assert "lower" not in everything(tuning_cards.dropped([], {"unsafe": [50, 60], "benign": [5, 540]}))
