"""The guided tour over the scripted studio: the numbers are those of the stored sweep, every link opens its state."""

from __future__ import annotations

import pytest

from app import lesson, text
from tests.test_app_pages import Page, event
from tests.test_app_pure import everything


@pytest.fixture(scope="module")
def page() -> Page:
    return Page()


def test_a_guess_is_compared_with_what_was_measured(page: Page) -> None:
    learn = page.wiring.learn
    half = learn.halfway()
    value = 100 * half.scores["safety"].value
    assert (half.run, half.coefficients["lambda"]) == (1, 0.5)
    assert "inside the interval" in everything(learn.measure(value))
    wrong = 100 if value < 50 else 0
    assert f"{abs(wrong - value):.0f} points off" in everything(learn.measure(wrong))
    assert text.percent(half.scores["safety"]) in everything(learn.measure(wrong))


def test_the_tour_explains_every_score_with_measured_numbers(page: Page) -> None:
    said = everything(page.wiring.learn.view())
    for word in ("attack success rate", "over-refusal", "aligned, λ = 0", "half way, λ = 0.5", "fine-tuned, λ = 1"):
        assert word in said


def test_every_link_of_the_tour_opens_its_page_in_the_state_it_talks_about(page: Page) -> None:
    shell = page.wiring.shell
    for *_, name in lesson.STEPS:
        found = page.wiring.follow(0, event(name="lesson", key=name))
        assert found[shell.tabs]["selected"] == name
    found = page.wiring.follow(0, event(name="lesson", key="explore"))
    assert (found[page.explore.selected], found[page.explore.runs]["value"]) == (1005, [1])
    found = page.wiring.follow(0, event(name="lesson", key="merge"))
    assert (found[page.merge.tuned], found[page.merge.fields.grid]) == ("demo/tool-mixed-sft", "0:1:5")
    found = page.wiring.follow(0, event(name="lesson", key="compare"))
    assert found[page.compare.aligned] == "demo/aligned"


def test_without_a_sweep_the_tour_says_so_and_keeps_its_links() -> None:
    assert everything(lesson.measured([], 50)) == lesson.NO_DATA
    assert "Open Finetune" in everything(lesson.tour([], None))
