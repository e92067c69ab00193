"""The page's handlers as functions over the scripted studio, and the page as Gradio sees it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app import answers, layout, text
from app.sessions import Sessions
from tests.fake_studio import FakeStudio
from tests.test_app_pure import everything


class Page:
    """The page over a fake studio with a clock the test turns; `handlers` are the pages' own objects."""

    def __init__(self) -> None:
        self.now = 0.0
        self.studio = FakeStudio(step_seconds=1.0, clock=lambda: self.now)
        made: list[Any] = []

        class Kept(layout.Wiring):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                made.append(self)

        original, layout.Wiring = layout.Wiring, Kept
        try:
            self.blocks = asyncio.run(self.build())
        finally:
            layout.Wiring = original
        self.wiring = made[0]
        self.explore, self.merge, self.finetune, self.compare, self.runs = (
            self.wiring.explore, self.wiring.merge, self.wiring.finetune, self.wiring.compare, self.wiring.runs,
        )  # fmt: skip

    async def build(self) -> gr.Blocks:
        """Inside a running loop: outside of one, gradio makes event loops that it never closes."""
        return layout.build_app(self.studio)

    def form(self, **changes: Any) -> list[Any]:
        values = {"aligned": "demo/aligned", "tuned": "demo/tool-mixed-sft", "method": "linear", "grid": "0:1:11"}
        values |= {"task": "tool", "preset": "quick", "seed": 3, "lam": 0.5, "out": "", "more": []}
        values |= {
            "unaligned": None,
            "raw": None,
            "safe": None,
            "calibration": "demo/references",
            "second": "",
            "second_grid": "",
        }
        values |= {
            "minutes": 10,
            "trials": 4,
            "suites": "",
            "own_suites": "",
            "donor": "aligned",
            "density": 0.5,
            "extrapolate": 1.25,
            "weights": "",
            **changes,
        }
        return list(values.values())


@pytest.fixture(scope="module")
def page() -> Page:
    return Page()


def event(**data: Any) -> gr.EventData:
    return SimpleNamespace(_data=data)


def errors(page: Page, slots: Any) -> dict[str, str]:
    said = zip(page.merge.errors, slots, strict=True)
    return {field: everything(slot) for field, slot in said if slot and slot != gr.skip()}


def test_the_app_imports_no_torch() -> None:
    code = "import sys, app.layout, app.theme, app.web; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_no_endpoint_is_public_by_accident(page: Page) -> None:
    assert not page.blocks.get_api_info()["named_endpoints"]


def test_nothing_on_the_page_is_a_plotly_component_of_gradio(page: Page) -> None:
    assert not [block for block in page.blocks.blocks.values() if isinstance(block, gr.Plot)]


def test_a_first_visit_shows_the_stored_demo_with_one_point_open(page: Page) -> None:
    found = page.wiring.open_page(None, {}, *page.form())
    assert found[page.explore.runs]["value"] == [1, 2]
    assert found[page.explore.plot]["figure"]["data"]
    assert "linear" in everything(found[page.explore.card])
    assert "selected" not in found[page.wiring.shell.tabs]  # a tab that was clicked meanwhile stays open
    assert "stored demo" in everything(found[page.explore.summary])


def test_a_link_opens_its_view_and_unknown_parts_fall_back(page: Page) -> None:
    found = page.wiring.open_page(None, {"view": "runs", "runs": "2", "point": "2004"}, *page.form())
    assert found[page.explore.selected] == 2004
    assert found[page.explore.runs]["value"] == [2]
    assert found[page.wiring.shell.tabs]["selected"] == "runs"
    found = page.wiring.open_page({"run": 99}, {"view": "nope", "runs": "77", "point": "-1"}, *page.form())
    assert found[page.wiring.shell.tabs]["selected"] == "explore"
    assert found[page.wiring.shell.watching] is None


def test_a_link_to_a_run_or_to_a_pair_at_some_strength_opens_just_that(page: Page) -> None:
    found = page.wiring.open_page(None, {"view": "runs", "run": "1"}, *page.form())
    assert found[page.runs.chosen] == 1
    assert page.runs.choose(event(key="2"))[-1] == {"view": "runs", "run": "2"}
    linked = {"view": "compare", "aligned": "demo/aligned", "tuned": "demo/tool-clean-sft", "lam": "0.45"}
    found = page.wiring.open_page(None, linked, *page.form())
    assert found[page.compare.tuned] == "demo/tool-clean-sft"
    assert found[page.compare.knob]["value"] == 0.45
    assert found[page.compare.knob]["about"]["tuned"] == "demo/tool-clean-sft"
    found = page.wiring.open_page(None, linked | {"tuned": "", "lam": "2"}, *page.form())
    assert page.compare.tuned not in found
    assert found[page.compare.knob]["value"] == 0.3


def test_a_click_and_a_row_open_the_same_point(page: Page) -> None:
    view = ("tool", [1, 2], 0, None, [])
    clicked = page.explore.pick(*view, "all", "all", event(key=1004))
    rowed = page.explore.act_on_row(*view, "all", "all", event(name="open", key="1004"))
    assert tuple(rowed[1:]) == tuple(clicked)


def test_answers_are_filtered_by_suite_and_outcome(page: Page) -> None:
    _, tree = page.explore.filter_answers(1004, "safety", "refused")
    assert "harmful" not in everything(tree).split("aligned")[0]
    _, tree = page.explore.more_answers(1004, "safety", "all", event(key="40"))
    assert "20 of 20 prompts" in everything(tree)


def test_exports_carry_schema_recipes_and_every_point(page: Page) -> None:
    rows = list(csv.DictReader(io.StringIO(page.explore.export_points("csv", [1001, 2003]))))
    assert [row["point"] for row in rows] == ["1001", "2003"]
    assert rows[0]["schema"] == "1"
    whole = json.loads(page.explore.export_points("json", [1001, 2003]))
    assert set(whole["runs"]) == {"1", "2"}
    assert whole["runs"]["1"]["recipe"]


def test_a_spreadsheet_sees_no_formula(page: Page) -> None:
    from app.exports import as_csv

    run, point = page.studio.run(1), page.studio.points([1])[3]
    evil = run.__class__(**{**run.__dict__, "spec": {**run.spec, "tuned": "=1+1"}})
    assert "'=1+1" in as_csv([(evil, point)])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"grid": "0:3:4"}, "grid"),
        ({"aligned": "nowhere"}, "aligned"),
        ({"tuned": "nowhere"}, "tuned"),
        ({"method": "linaer"}, "method"),
    ],
)
def test_bad_input_is_a_sentence_at_its_field_and_nothing_is_queued(page: Page, change: dict, field: str) -> None:
    before = len(page.studio.rows)
    checked = page.merge.check(*page.form(**change))
    assert field in errors(page, checked[2:])
    started = page.merge.starter("sweep")(None, *page.form(**change))
    assert field in errors(page, started[2 : 2 + len(page.merge.errors)])
    assert len(page.studio.rows) == before


def test_a_good_form_shows_what_it_will_take(page: Page) -> None:
    inspection, estimate, *slots = page.merge.check(*page.form())
    assert "fit together" in everything(inspection)
    assert "11 checkpoints" in everything(estimate)
    assert not errors(page, slots)


def test_a_sweep_from_start_to_its_points_in_explore() -> None:
    page = Page()
    started = page.merge.starter("sweep")(None, *page.form())
    watching = started[-3]
    assert started[-2] == {"run": watching}
    assert started[-1]["active"] is True
    page.now = 3.5
    ticked = page.wiring.tick(watching, None, [1], 0, None, [])
    assert "3 of 11" in everything(ticked[page.merge.live])
    assert f"run {watching}" in everything(ticked[page.wiring.shell.strip])
    again = page.wiring.open_page({"run": watching}, {}, *page.form())
    assert "3 of 11" in everything(again[page.merge.live])
    assert again[page.wiring.shell.timer]["active"] is True
    page.now = 60.0
    ticked = page.wiring.tick(watching, None, [1], 0, None, [])
    assert "Finished: 11 checkpoints" in everything(ticked[page.merge.live])
    assert ticked[page.wiring.shell.timer]["active"] is False
    assert ticked[page.wiring.shell.strip] is None
    opened = page.wiring.do("open_run", watching, watching, None, 0)
    assert opened[page.explore.runs]["value"] == [watching]


def test_a_strategys_answers_stand_beside_one_aligned_model_and_plain_fine_tuning_of_its_seed() -> None:
    page = Page()
    found = page.wiring.studio.points([1])
    ends = [("sft", "", 0.0), ("sft", "", 1.0), ("linear", "aligned", 0.0), ("linear", "aligned", 1.0)]
    made = [*ends, ("dualselect", "", 1.0)]
    points = [
        replace(point, method=method, anchor=anchor, coefficients={"seed": seed})
        for point, (method, anchor, seed) in zip(found, made, strict=False)
    ]
    page.wiring.studio.points = lambda runs: points
    shown = answers.pane(page.wiring.studio, points[-1], "", "", 1)
    assert re.findall(r"dualselect|aligned|sft", everything(shown)) == ["dualselect", "aligned", "sft"]


def test_an_idle_page_wakes_when_somebody_starts_a_run() -> None:
    page = Page()
    assert "active" not in page.wiring.wake([])[0]
    page.merge.starter("sweep")(None, *page.form())
    assert page.wiring.wake([])[0]["active"] is True


def test_a_checkpoint_that_was_written_meanwhile_is_offered_everywhere_and_choices_stay() -> None:
    page = Page()
    known, *first = page.wiring.offer([])
    assert first[0]["choices"] == ["demo/aligned"]
    assert not any("choices" in one for one in page.wiring.wake(known)[2:])
    page.studio.written = {"merge-7": "merged", "tune-8": "fine-tuned"}
    _, known, *updates = page.wiring.wake(known)
    offered = dict(zip(page.wiring.offered([]), updates, strict=True))
    assert not any("value" in one for one in updates)
    for start in (page.merge.aligned, page.compare.aligned):
        assert offered[start]["choices"] == ["demo/aligned", "merge-7"]
    for tuned in (page.merge.tuned, page.merge.fields.more, page.compare.tuned, page.finetune.model):
        assert offered[tuned]["choices"][-2:] == ["merge-7", "tune-8"]
    assert known[-2:] == ["merge-7", "tune-8"]


def test_cancel_and_restart_say_what_was_kept() -> None:
    page = Page()
    watching = page.merge.starter("sweep")(None, *page.form())[-3]
    page.now = 2.5
    found = page.wiring.do("cancel", watching, watching, None, 0)
    assert "Restart" in everything(found[page.merge.live])
    assert found[page.wiring.shell.timer]["active"] is False
    found = page.wiring.do("restart", watching, watching, None, 0)
    assert found[page.wiring.shell.timer]["active"] is True


def test_a_failed_run_says_what_happened_and_offers_another_try() -> None:
    page = Page()
    watching = page.merge.starter("sweep")(None, *page.form())[-3]
    page.studio.fail(watching, "disk: 3 MB are free and 12 MB are needed. Free some space.")
    live, _ = page.merge.view(watching)
    assert "Free some space" in everything(live)
    assert "Try again with these settings" in everything(live)


def test_only_the_newest_ticket_of_a_session_counts() -> None:
    sessions = Sessions(most=2)
    first, second = sessions.take("a"), sessions.take("a")
    assert not sessions.is_newest("a", first)
    assert sessions.is_newest("a", second)
    sessions.take("b"), sessions.take("c")
    assert not sessions.is_newest("a", second)


PAIR = ("demo/aligned", "demo/tool-mixed-sft")


def test_a_fast_model_does_not_flood_the_browser(page: Page) -> None:
    page.studio.step_seconds, ticket = 0.0, page.compare.sessions.take("f")
    shown = list(page.compare.stream("f", ticket, *PAIR, 0.3, "hello", ""))
    assert len(shown) < 10  # the scripted models write a hundred pieces at once
    assert all(name in everything(shown[-1][1]) for name in ("aligned", "fine-tuned"))


def test_an_old_stream_stops_and_keeps_the_outer_answers_it_finished(page: Page, monkeypatch) -> None:
    monkeypatch.setattr("app.pages.compare.SECONDS_BETWEEN_DRAWINGS", 0.0)
    page.studio.step_seconds, sessions = 0.0, page.compare.sessions
    stream = page.compare.stream("s", sessions.take("s"), *PAIR, 0.3, "hello", "")
    shown = [next(stream) for _ in range(30)]
    assert "aligned" in everything(shown[-1][1])
    newer = sessions.take("s")
    assert list(stream) == []
    assert "aligned" in sessions.of("s").kept["done"]
    final = list(page.compare.stream("s", newer, *PAIR, 0.8, "hello", ""))[-1]
    assert "λ = 0.80" in everything(final[1])
    assert set(sessions.of("s").kept["done"]) == {"aligned", "fine-tuned"}


def test_a_walk_along_lambda_is_drawn_call_by_call_and_the_newest_wins(page: Page) -> None:
    page.studio.step_seconds = 0.0
    about = {"session": "w", "aligned": PAIR[0], "tuned": PAIR[1], "prompt": "hello", "against": ""}
    old = page.compare.walk({**about, "lam": 0.2})
    answer = page.compare.walk({**about, "lam": 0.6})
    assert page.compare.walk_on({"session": "w", "ticket": old["ticket"]}) == {
        "ticket": old["ticket"], "draw": {}, "more": False,
    }  # fmt: skip
    drawn = {}
    for _ in range(500):
        drawn |= answer["draw"]
        if not answer["more"]:
            break
        answer = page.compare.walk_on({"session": "w", "ticket": answer["ticket"]})
    assert not answer["more"]
    assert "λ = 0.60" in everything(drawn["columns"])
    assert "First words after" in everything(drawn["compare-status"])
    assert page.compare.sessions.of("w").lam == 0.6
    assert not page.compare.walk({**about, "prompt": " ", "lam": 0.5})["draw"].keys() - {"compare-status"}


def test_a_pair_typed_as_relative_folders_has_the_marks_of_its_runs(page: Page) -> None:
    ticks = page.compare.knob_value("demo/aligned", "demo/tool-mixed-sft", 0.5)["ticks"]
    assert len(ticks) == 11
    assert page.compare.knob_value("./aligned", "./tool-mixed-sft", 0.5)["ticks"] == ticks
    assert page.compare.knob_value("./aligned", "./other", 0.5)["ticks"] == []


def test_a_busy_device_shows_stored_answers_and_the_reason(page: Page) -> None:
    page.studio.busy = "Run 12 holds the device, about 9 s left."
    prompt, ticket = page.compare.find_examples()[0][1], page.compare.sessions.take("t")
    shown = list(page.compare.stream("t", ticket, *PAIR, 0.34, prompt, ""))[-1]
    page.studio.busy = ""
    assert "Run 12 holds the device" in everything(shown[0])
    assert "stored, run 1" in everything(shown[1])
    assert "λ = 0.30" in everything(shown[1])


def test_stored_answers_beside_the_live_lambda_are_those_of_the_straight_line() -> None:
    page = Page()
    page.studio.submit("sweep", {"method": "ties", "tuned": "demo/tool-mixed-sft", "grid": "0:1:5"})
    page.now = 60.0
    measured = page.compare._measured("demo/aligned", "demo/tool-mixed-sft")
    assert {point.method for point in measured} == {"linear"}


def test_examples_come_from_every_kind_and_task(page: Page) -> None:
    kinds = [kind for kind, _ in page.compare.find_examples()]
    assert {"harmful request", "harmless look-alike", "everyday request"} <= set(kinds)
    assert text.task("tool").lower() in kinds


def test_the_pages_words_name_every_page() -> None:
    assert list(text.PAGES) == ["explore", "merge", "finetune", "compare", "runs", "learn"]
    assert layout.numbers("1,2,drop table,../3") == [1, 2]


def test_selected_points_are_compared_prompt_by_prompt(page: Page) -> None:
    row = ("tool", [1, 2], 0, 1004, [1001, 1005, 2003, 2004, 2005], "safety", "all")
    only, *opened = page.explore.act_on_row(*row, event(name="compare", key=""))
    values = dict(
        zip([page.explore.selected, *page.explore.drawing, "shown", *page.explore.detail], opened[:-1], strict=True)
    )
    assert only == row[4]
    said = everything(values[page.explore.card])
    assert "4 checkpoints side by side" in said
    safe = {point.id: round(20 * point.scores["safety"].value) for point in page.studio.points([1, 2])}
    newly = safe[1001] - safe[1005]
    assert f"λ = 0.5 of tool-mixed-sft against linear λ = 0.1 of tool-mixed-sft: {newly} of 20 harmful" in said
    prompts = values[page.explore.answers][2:]
    assert everything(prompts[1]).count("λ = ") == 4
    assert "harmful" in everything(prompts[1])
