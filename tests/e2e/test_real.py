"""The main job in a browser, with real models: sweep, reload, click, read; cancel; a live λ."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Page, expect

from tests.e2e.test_page import PLOT, click_point, stays_home, tab

FIRST_WORDS_SECONDS = 3.0  # loose: a busy machine; the target is 0.3 and measured in benchmarks/


def start_sweep(page: Page, url: str, *, seed: str, tuned: str = "demo/tool-mixed-sft") -> str:
    """Start from the Merge page with the quick preset; returns the run's number."""
    page.goto(f"{url}/?view=merge")
    expect(page.locator("#estimate")).to_contain_text("11 checkpoints")
    chosen = page.get_by_label("Fine-tuned model (λ = 1)").and_(page.locator("#component-0 *, input")).first
    if chosen.input_value() != tuned:
        chosen.fill(tuned)
        page.keyboard.press("Enter")
    page.get_by_label("Seed").first.fill(seed)
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Start sweep").click()
    expect(page.locator("#live progress")).to_be_visible()
    return re.search(r"run (\d+)", page.locator("#live .phrase").inner_text()).group(1)


def landed(page: Page) -> int:
    return int(page.locator("#live-plot .stage").get_attribute("data-points") or 0)


def test_the_main_job_from_a_sweep_to_the_generations_behind_a_point(page: Page, real_url: str) -> None:
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    run = start_sweep(page, real_url, seed="0")
    page.wait_for_function("() => Number(document.querySelector('#live-plot .stage').dataset.points) >= 2")
    before = landed(page)
    page.reload()
    expect(page.locator("#live h3")).to_be_visible()
    expect(page.locator("#live")).to_contain_text(re.compile(rf"run {run}\b|Finished"))
    page.wait_for_function(f"() => Number(document.querySelector('#live-plot .stage').dataset.points) >= {before}")
    expect(page.locator("#live")).to_contain_text("Finished: 11 checkpoints measured.")
    page.locator("#live").get_by_role("button", name="Open in Explore").click()
    expect(page.locator("#points tbody tr")).to_have_count(11)
    keys = page.locator("#points tbody tr").evaluate_all("rows => rows.map(row => Number(row.dataset.key))")
    click_point(page, keys[4])
    expect(page.locator("#detail h3")).to_contain_text("λ = 0.4")
    expect(page.locator("#points tr.selected")).to_have_attribute("data-key", str(keys[4]))
    answers = page.locator("#answers .sample").first
    expect(answers.locator(".who")).to_have_text(["λ = 0.4", "aligned", "fine-tuned"])
    expect(answers.locator(".prompt")).not_to_be_empty()
    expect(page.locator(f"{PLOT} .scatterlayer .errorbar").first).to_be_attached()
    stays_home(page, real_url)


def test_a_running_sweep_is_cancelled_from_the_page(page: Page, real_url: str) -> None:
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    start_sweep(page, real_url, seed="1")
    expect(page.locator("#live")).to_contain_text("running")
    page.locator("#live").get_by_role("button", name="Cancel").click()
    began = time.monotonic()
    expect(page.locator("#live")).to_contain_text("cancelled")
    assert time.monotonic() - began < 10
    tab(page, "Runs")
    expect(page.locator("#runs tbody tr").first).to_contain_text("cancelled")


def test_a_live_lambda_streams_and_answers_soon(page: Page, real_url: str) -> None:
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(f"{real_url}/?view=compare")
    expect(page.locator("#device .device")).to_contain_text("idle")
    page.get_by_label("Request").and_(page.locator("textarea")).fill("Please tell me how to burn a candle.")
    page.get_by_role("button", name="Ask all three").click()
    expect(page.locator("#compare-status")).to_contain_text("First words after")
    for name in ("aligned", "fine-tuned", "merged"):
        expect(page.locator(f'#columns [data-name="{name}"] .answer')).not_to_be_empty()
    slider = page.get_by_label(re.compile("Merge: how far"))
    began = time.monotonic()
    slider.fill("0.65")
    merged = page.locator('#columns [data-name="merged"]')
    expect(merged.locator("h4")).to_contain_text("λ = 0.65")
    expect(merged.locator(".answer")).not_to_be_empty()
    assert time.monotonic() - began < FIRST_WORDS_SECONDS
    expect(page.locator("#compare-status")).to_contain_text("First words after")
    stays_home(page, real_url)
