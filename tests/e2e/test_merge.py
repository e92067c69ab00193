"""The Merge page's search, its fields that come and go, and the map of the task vector, in a browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_page import open_page, stays_home
from tests.fake_studio import ClockFile

MAP = "#layers-plot .stage"


def test_a_search_starts_with_its_button_and_ends_with_a_verdict(page: Page, fake_url: str, clock: ClockFile) -> None:
    clock.hold()
    open_page(page, fake_url, "?view=merge")
    page.get_by_label("Steps of λ").fill("0:1:3")
    page.get_by_text("Or search for a better front").click()
    page.get_by_label("Settings at most").fill("2")
    page.get_by_role("button", name="Start search").click()
    expect(page.locator("#live")).to_contain_text("running")
    clock.let_go()
    page.wait_for_function("() => Number(document.querySelector('#live-plot .stage').dataset.points) >= 1")
    expect(page.locator("#live")).to_contain_text("The difference is within chance.")
    page.locator("#live").get_by_role("button", name="Open in Explore").click()
    expect(page.locator("#points tbody tr")).to_have_count(5)
    expect(page.locator("#points")).to_contain_text("layerwise setting 5")
    stays_home(page, fake_url)


def test_fields_come_with_the_methods_that_need_them(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?view=merge")
    expect(page.get_by_role("combobox", name="Raw model")).to_have_count(0)
    page.get_by_label("Merge method").click()
    page.get_by_role("option", name="safe_lora · with raw model").click()
    expect(page.get_by_role("combobox", name="Raw model")).to_be_visible()
    page.get_by_label("Merge method").click()
    page.get_by_role("option", name="ties", exact=True).click()
    expect(page.get_by_role("combobox", name="Raw model")).to_have_count(0)
    page.get_by_label("Second number").click()
    page.get_by_role("option", name="density").click()
    expect(page.get_by_label("Values of density")).to_have_value("0.1:0.9:3")
    expect(page.locator("#estimate")).to_contain_text("33 checkpoints (11 × 3)")


def test_one_merge_says_what_it_takes_while_its_form_is_open(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?view=merge")
    fold = page.get_by_role("button", name="Or write one merge to a folder")
    fold.click()
    expect(page.locator("#merge-estimate")).to_contain_text("of memory")
    lam = page.get_by_label("λ: 0 is the aligned model")
    lam.fill("1.75")
    lam.blur()
    expect(page.locator("#error-lam")).to_contain_text("lam: got 1.75")
    lam.fill("-0.5")
    lam.blur()
    expect(page.locator("#error-lam")).to_be_empty()
    page.get_by_label("Folder").fill("/taken")
    page.get_by_label("Folder").blur()
    expect(page.locator("#error-out")).to_contain_text("out: /taken exists")
    fold.click()
    fold.click()
    expect(page.locator("#error-out")).to_contain_text("out: /taken exists")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_map_shows_where_the_fine_tune_moved(page: Page, fake_url: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, fake_url, "?view=merge")
    page.get_by_text("Where the fine-tune moved").click()
    page.get_by_role("button", name="Compare the weights").click()
    expect(page.locator("#layers-words")).to_contain_text("Largest change: down, layer 3")
    expect(page.locator(f"{MAP} .main-svg").first).to_be_visible()
    page.get_by_label("which way (cosine)").check()
    page.wait_for_function(f"() => document.querySelector('{MAP}').data[0].zmin < 0")
    assert re.match("Largest change", page.locator(MAP).get_attribute("aria-label"))
    page.wait_for_function("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_the_points_can_be_put_where_their_merge_walked_to(page: Page, fake_url: str) -> None:
    open_page(page, fake_url)
    page.get_by_role("button", name="At equal strength").first.click()
    title = "document.querySelector('#pareto .stage').layout.xaxis.title.text"
    page.wait_for_function(f"() => {title}.startsWith('Effective strength')")
    page.get_by_role("button", name="At equal strength").first.click()
    page.wait_for_function(f"() => {title}.startsWith('Task score')")
