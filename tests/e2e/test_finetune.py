"""Fine-tuning in a browser, against the scripted studio. Waits for visible things, never for seconds."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.e2e.test_page import open_page, stays_home
from tests.fake_studio import NASTY, ClockFile

STEP = "() => Number((document.querySelector('#tune-vitals .tile b') || {}).textContent || 0)"


def begin(page: Page, url: str, steps: int, seed: int) -> None:
    open_page(page, url, "?view=finetune")
    expect(page.locator("#tune-estimate")).to_contain_text("of memory")
    page.get_by_role("button", name="Advanced: how the training runs").click()
    page.get_by_label("steps", exact=True).fill(str(steps))
    page.locator("#tune-form").get_by_label("Seed").fill(str(seed))
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Start fine-tuning").click()
    expect(page.locator("#tune-live")).to_contain_text("running")


def test_curves_grow_survive_a_reload_and_lead_on_to_merge(page: Page, fake_url: str) -> None:
    begin(page, fake_url, steps=2400, seed=21)
    expect(page.locator("#tune-curves .main-svg").first).to_be_visible()
    page.wait_for_function(f"() => ({STEP})() > 20")
    before = page.evaluate(STEP)
    run = re.search(r"run (\d+)", page.locator("#tune-live .phrase").inner_text()).group(1)
    page.reload()
    expect(page.locator("#tune-live .phrase")).to_contain_text(f"run {run}")
    page.wait_for_function(f"() => ({STEP})() > {before}")
    drawn = "() => document.querySelector('#tune-curves .stage').data[0].x"
    page.wait_for_function(f"() => ({drawn})()[0] === 1")
    assert page.evaluate("() => document.querySelectorAll('#tune-curves .shapelayer path').length") > 1

    page.locator("#tune-live").get_by_role("button", name="Pause").click()
    expect(page.locator("#tune-live")).to_contain_text("Resume goes on from the same step")
    paused = page.evaluate(STEP)
    page.locator("#tune-live").get_by_role("button", name="Resume").click()
    page.wait_for_function(f"() => ({STEP})() > {paused}")
    page.locator("#tune-live").get_by_role("button", name="Stop and keep").click()
    expect(page.locator("#tune-live")).to_contain_text("Finished:")
    expect(page.locator("#tune-result")).to_contain_text("Safety")

    page.get_by_role("tab", name="Runs").click()
    page.locator(f'#runs tr[data-key="{run}"]').click()
    expect(page.locator("#run-tune-curves .main-svg").first).to_be_visible()
    page.locator("#run").get_by_role("button", name="Sweep merges between it and its base").click()
    expect(page.locator("#start")).to_be_visible()
    expect(page.get_by_label("Fine-tuned model (λ = 1)").first).to_have_value(f"runs/{run}/checkpoint")
    expect(page.get_by_label("Aligned model (λ = 0)").first).to_have_value("demo/aligned")
    stays_home(page, fake_url)


def test_rows_and_references_appear_as_their_characters_and_sort(page: Page, fake_url: str, clock: ClockFile) -> None:
    clock.hold()
    begin(page, fake_url, steps=40, seed=22)
    clock.let_go()
    expect(page.locator("#tune-live")).to_contain_text("Finished: 40 steps")
    expect(page.locator("#tune-references .answer").filter(has_text=NASTY).first).to_be_visible()
    expect(page.locator("#tune-dropped")).to_contain_text("Dropped 20 of 40 unsafe (50 %), 5 of 400 benign (1 %)")
    expect(page.locator("#tune-dropped td").filter(has_text=NASTY).first).to_be_visible()
    assert page.locator("#tune-references img, #tune-dropped img, #tune-dropped td b").count() == 0
    page.locator("#tune-dropped").get_by_role("button", name="Cosine").click()
    expect(page.locator("#tune-dropped th[aria-sort]")).to_have_text("Cosine ↓")
    expect(page.locator("#tune-dropped tbody td.number").nth(1)).to_have_text("0.10")
    stays_home(page, fake_url)


def test_an_uploaded_file_is_shown_and_a_wrong_one_is_refused(page: Page, fake_url: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "mine.csv", tmp_path / "bad.csv"
    good.write_text(f'prompt,response\nhello,"{NASTY}"\n')
    bad.write_text("words,label\n1,2\n")
    open_page(page, fake_url, "?view=finetune")
    page.get_by_role("button", name="Use my own task data").click()
    chooser = page.locator("#file-task_data input[type=file]")
    chooser.set_input_files(good)
    expect(page.locator("#preview-task_data")).to_contain_text("mine.csv: 1 rows")
    expect(page.locator("#preview-task_data")).to_contain_text(NASTY)
    page.get_by_role("button", name="Use my own reference data").click()
    page.locator("#file-references input[type=file]").set_input_files(bad)
    expect(page.locator("#tune-error-references")).to_contain_text("no known shape (it has label, words)")
    stays_home(page, fake_url)


def test_the_released_preset_leaves_what_still_counts(page: Page, fake_url: str) -> None:
    open_page(page, fake_url, "?view=finetune")
    form = page.locator("#tune-form")
    kept, hidden = "How hard each step is pulled", "How much of the answer text is still learnt from"
    expect(form.get_by_text(hidden)).to_be_visible()
    form.get_by_label("preset").click()
    page.get_by_role("option", name="released").click()
    expect(form.get_by_text("This preset sets everything that is not shown")).to_be_visible()
    expect(form.get_by_text(hidden)).to_have_count(0)
    expect(form.get_by_text(kept)).to_be_visible()
