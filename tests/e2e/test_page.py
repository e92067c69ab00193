"""What a person does in a browser, against the scripted studio. Waits for visible things, never for seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.fake_studio import NASTY, STEP_SECONDS, ClockFile

PLOT = "#pareto .stage"
DOUBLE_CLICK = 350  # ms; Plotly takes two presses within 300 ms for a double click, and that resets the zoom
AT = """(key) => {
  const stage = document.querySelector('#pareto .stage');
  for (const trace of stage.data) {
    if (trace.yaxis === 'y2' || !trace.customdata) continue;
    const i = trace.customdata.indexOf(key);
    if (i < 0) continue;
    const box = stage.getBoundingClientRect(), l = stage._fullLayout;
    const top = box.top + l._size.t + l._size.h * (1 - l.yaxis.domain[1]);
    return [box.left + l._size.l + l.xaxis.d2p(trace.x[i]), top + l.yaxis.d2p(trace.y[i])];
  }
}"""


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def open_page(page: Page, url: str, view: str = "") -> None:
    page.goto(f"{url}/{view}")
    expect(
        page.locator(f"{PLOT} .main-svg").first if "view=" not in view else page.locator("#device .device")
    ).to_be_visible()
    expect(page.locator("#device .device")).to_be_visible()


def click_point(page: Page, key: int) -> None:
    page.locator(PLOT).scroll_into_view_if_needed()
    x, y = page.evaluate(AT, key)
    page.mouse.move(x - 3, y - 3)
    page.wait_for_timeout(DOUBLE_CLICK)
    page.mouse.click(x, y)


def stays_home(page: Page, url: str) -> None:
    assert [u for u in page.strays if not u.startswith((url, "data:", "blob:"))] == []
    assert page.mistakes == []


def test_the_first_screen_has_everything_and_no_tab_asks_another_host(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    expect(page.locator(f"{PLOT} .scatterlayer .point").first).to_be_visible()
    assert page.locator(f"{PLOT} .scatterlayer .errorbar").count() > 10
    expect(page.locator("#summary")).to_contain_text("checkpoints are on the front")
    expect(page.locator("#points tbody tr")).to_have_count(22)
    expect(page.locator("#detail h3")).to_be_visible()
    for name, seen in (
        ("Merge", "#start"),
        ("Finetune", "#tune-start"),
        ("Compare", "#columns .s-column"),
        ("Runs", "#runs tbody tr"),
    ):
        tab(page, name)
        expect(page.locator(seen).first).to_be_visible()
    stays_home(page, fake_url)


def test_a_click_on_a_point_and_enter_on_its_row_open_the_same_detail(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    click_point(page, 1002)
    expect(page.locator("#detail h3")).to_contain_text("linear λ = 0.2")
    expect(page.locator("#points tr.selected")).to_have_attribute("data-key", "1002")
    by_click = page.locator("#detail").inner_text()
    page.locator('#points tr[data-key="2005"]').press("Enter")
    expect(page.locator("#detail h3")).to_contain_text("linear λ = 0.5")
    row = page.locator('#points tr[data-key="1003"]')
    row.focus()
    row.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#detail h3")).to_contain_text("linear λ = 0.2")
    expect(page.locator("#points tr.selected")).to_have_attribute("data-key", "1002")
    assert page.locator("#detail").inner_text() == by_click
    answers = page.locator("#answers .sample").first
    expect(answers.locator(".who")).to_have_text(["λ = 0.2", "aligned", "fine-tuned"])
    expect(answers.locator("details.harmful .answer").first).to_be_hidden()
    answers.locator("details.harmful summary").first.click()
    expect(answers.locator("details.harmful .answer").first).to_be_visible()


def test_a_box_filters_the_table_to_exactly_its_points(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    chosen = "{points: [{customdata: 1001}, {customdata: 2003}]}"
    page.evaluate(f"() => document.querySelector('{PLOT}').emit('plotly_selected', {chosen})")
    expect(page.locator("#points tbody tr")).to_have_count(2)
    keys = page.locator("#points tbody tr").evaluate_all("rows => rows.map(row => row.dataset.key)")
    assert sorted(keys) == ["1001", "2003"]
    page.locator("#points").get_by_role("button", name="Compare").click()
    expect(page.locator("#detail")).to_contain_text("2 checkpoints side by side")
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#points tbody tr")).to_have_count(22)


def test_a_redraw_keeps_the_zoom_and_later_clicks_give_the_right_point(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    zoomed = "() => document.querySelector('#pareto .stage').layout.xaxis.range"
    page.locator(PLOT).scroll_into_view_if_needed()
    x, y = page.evaluate(AT, 1001)
    page.mouse.move(x - 70, y - 25)
    page.mouse.down()
    page.mouse.move(x + 70, y + 90, steps=4)
    page.mouse.up()
    page.wait_for_function(f"() => ({zoomed})()[0] > 0")
    before = page.evaluate(zoomed)
    page.get_by_label("Minimum safety (%)").first.fill("60")
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_contain_text("60 % safety")
    assert page.evaluate(zoomed) == before
    click_point(page, 1001)
    expect(page.locator("#detail h3")).to_contain_text("λ = 0.1")
    assert page.evaluate(zoomed) == before


def test_points_can_be_coloured_by_over_refusal_and_back(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    button = page.locator("#pareto").get_by_role("button", name="Colour by over-refusal")
    button.click()
    expect(page.locator(f"{PLOT} .infolayer .colorbar")).to_have_count(1)
    click_point(page, 1001)
    expect(page.locator("#detail h3")).to_contain_text("λ = 0.1")
    button.click()
    expect(page.locator(f"{PLOT} .infolayer .colorbar")).to_have_count(0)
    stays_home(page, fake_url)


@pytest.mark.parametrize(
    ("button", "start"), [("PNG", b"\x89PNG"), ("SVG", b"<svg"), ("CSV", b"schema"), ("JSON", b"{")]
)
def test_the_plot_can_be_saved(page: Page, fake_url: str, button: str, start: bytes) -> None:
    open_page(page, fake_url)
    with page.expect_download() as waiting:
        page.locator("#pareto").get_by_role("button", name=button, exact=True).click()
    saved = Path(waiting.value.path()).read_bytes()
    if button == "SVG":
        assert b"svg" in saved[:200]
    else:
        assert saved.startswith(start)
    if button == "JSON":
        assert len(json.loads(saved)["points"]) == 22


def test_markup_in_an_answer_is_shown_as_its_characters(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?point=1003&runs=1")
    page.get_by_label("Prompts").click()
    page.get_by_role("option", name="helpfulness").click()
    expect(page.locator("#answers .answer").filter(has_text=NASTY).first).to_be_visible()
    assert page.locator("#answers img, #answers b").count() == 0
    stays_home(page, fake_url)


def test_a_sweep_shows_its_points_as_they_land_and_survives_a_reload(
    page: Page, fake_url: str, clock: ClockFile
) -> None:
    clock.hold()
    open_page(page, fake_url)
    tab(page, "Merge")
    expect(page.locator("#estimate")).to_contain_text("11 checkpoints")
    page.get_by_role("button", name="Start sweep").click()
    expect(page.locator("#live .live, #live .s-live")).to_contain_text("running")
    clock.turn(2.5 * STEP_SECONDS)
    page.wait_for_function("() => Number(document.querySelector('#live-plot .stage').dataset.points) >= 2")
    run = re.search(r"run (\d+)", page.locator("#live .phrase").inner_text()).group(1)
    before = float(page.locator("#live progress").get_attribute("value"))
    page.reload()
    expect(page.locator("#live .phrase")).to_contain_text(f"run {run}")
    clock.turn(2 * STEP_SECONDS)
    page.wait_for_function(f"() => Number((document.querySelector('#live progress') || {{value: 1}}).value) > {before}")
    clock.let_go()
    expect(page.locator("#live")).to_contain_text("Finished: 11 checkpoints measured.")
    page.locator("#live").get_by_role("button", name="Open in Explore").click()
    expect(page.locator("#points tbody tr")).to_have_count(11)
    expect(page.locator("#answers .sample").first).to_be_visible()
    stays_home(page, fake_url)


def test_a_page_that_was_open_notices_a_run_that_another_started(page: Page, fake_url: str, clock: ClockFile) -> None:
    clock.hold()
    open_page(page, fake_url)
    other = page.context.new_page()
    open_page(other, fake_url, "?view=merge")
    other.get_by_role("button", name="Start sweep").click()
    expect(page.locator("#strip")).to_contain_text("run")
    other.close()


def test_cancel_keeps_what_was_measured_and_restart_goes_on(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?view=merge")
    page.get_by_label("Steps of λ").fill("0:1:81")
    page.locator("[role=tabpanel]:visible").get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Start sweep").click()
    page.wait_for_function("() => Number(document.querySelector('#live-plot .stage').dataset.points) >= 1")
    page.locator("#live").get_by_role("button", name="Cancel").click()
    expect(page.locator("#live")).to_contain_text("Restart goes on from there")
    expect(page.locator("#strip .s-strip")).to_have_count(0)
    tab(page, "Runs")
    expect(page.locator("#runs tbody tr").first).to_contain_text("cancelled")
    page.locator("#runs tbody tr").first.click()
    page.locator("#run").get_by_role("button", name="Restart").click()
    expect(page.locator("#runs tbody tr").first).to_contain_text("running")
    page.locator("#run").get_by_role("button", name="Cancel").click()
    expect(page.locator("#runs tbody tr").first).to_contain_text("cancelled")


def test_bad_input_is_said_at_its_field_and_nothing_is_queued(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?view=runs")
    expect(page.locator("#runs tbody tr").first).to_be_visible()
    count = page.locator("#runs tbody tr").count()
    tab(page, "Merge")
    page.get_by_label("Steps of λ").fill("0:3:4")
    page.get_by_label("Seed").first.fill("11")
    page.keyboard.press("Tab")
    expect(page.locator("#error-grid")).to_contain_text("allowed is λ from 0 to 1")
    page.get_by_role("button", name="Start sweep").click()
    expect(page.locator("#error-grid")).to_contain_text("allowed is λ from 0 to 1")
    assert page.get_by_label("Seed").first.input_value() == "11"
    tab(page, "Runs")
    expect(page.locator("#runs tbody tr")).to_have_count(count)


def test_a_quick_drag_ends_with_the_answer_of_the_last_lambda(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?view=compare")
    expect(page.locator("#columns")).to_contain_text("stored, run 1")
    page.get_by_label("Request", exact=False).and_(page.locator("textarea")).fill("good morning")
    page.get_by_role("button", name="Ask all three").click()
    expect(page.locator("#compare-status")).to_contain_text("First words after")
    slider = page.get_by_label(re.compile("Merge: how far"))
    for value in ("0.4", "0.55", "0.7", "0.85"):
        slider.fill(value)
        page.wait_for_timeout(120)
    merged = page.locator('#columns [data-name="merged"]')
    expect(merged.locator("h4")).to_contain_text("λ = 0.85")
    expect(merged.locator(".answer")).to_contain_text("λ = 0.85 says: good morning <b>bold</b>")
    expect(page.locator("#compare-status")).to_contain_text("First words after")
    page.get_by_label("against the aligned model").check()
    expect(merged.locator("ins").first).to_be_visible()
    assert page.locator("#columns img").count() == 0
    page.get_by_label("Request", exact=False).and_(page.locator("textarea")).fill("good evening")
    slider.fill("0.25")  # a request that was typed and not yet asked is what the slider asks
    expect(merged.locator("h4")).to_contain_text("λ = 0.25")
    expect(merged).to_contain_text("says: good evening")
    expect(page.locator('#columns [data-name="aligned"]')).to_contain_text("good evening")


def test_a_link_opens_the_same_view_and_a_broken_one_the_usual_view(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?runs=2&point=2004")
    expect(page.locator("#detail h3")).to_contain_text("λ = 0.4")
    expect(page.locator("#points tbody tr")).to_have_count(11)
    click_point(page, 2006)
    expect(page.locator("#detail h3")).to_contain_text("λ = 0.6")
    page.wait_for_function("() => new URL(location.href).searchParams.get('point') === '2006'")
    open_page(page, fake_url, "?runs=999&point=x")
    expect(page.locator("#points tbody tr")).to_have_count(22)
    expect(page.get_by_text("The link names something that is not here")).to_be_visible()


def test_back_walks_through_the_tabs_and_a_link_carries_the_strength(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    page.wait_for_function("() => location.search.includes('view=explore')")
    tab(page, "Merge")
    page.wait_for_function("() => location.search.includes('view=merge')")
    tab(page, "Compare")
    page.wait_for_function("() => location.search.includes('view=compare')")
    page.get_by_label(re.compile("Merge: how far")).fill("0.45")
    page.wait_for_function("() => new URL(location.href).searchParams.get('lam') === '0.45'")
    linked = page.url
    page.go_back()
    expect(page.get_by_role("tab", name="Merge", exact=True)).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.get_by_role("tab", name="Explore", exact=True)).to_have_attribute("aria-selected", "true")
    page.go_forward()
    expect(page.get_by_role("tab", name="Merge", exact=True)).to_have_attribute("aria-selected", "true")
    page.goto(linked)
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#knob output")).to_have_text("λ = 0.45")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways(page: Page, fake_url: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    open_page(page, fake_url, f"?__theme={scheme}")
    for view, seen in (
        ("explore", f"{PLOT} .main-svg"),
        ("merge", "#start"),
        ("finetune", "#tune-start"),
        ("learn", "#tour .lesson"),
        ("compare", "#columns .s-column"),
        ("runs", "#runs tr"),
    ):
        page.goto(f"{fake_url}/?view={view}&__theme={scheme}")
        expect(page.locator(seen).first).to_be_visible()
        page.wait_for_function("() => document.documentElement.scrollWidth <= window.innerWidth")
