"""Every task plug-in on its own examples, and on the gold answers of the suite it scores."""

import pytest

from backend.registry import tasks
from backend.settings import ASSETS

PLUGINS = list(tasks)
EXAMPLES = [(plugin, *example) for plugin in PLUGINS for example in plugin.facts["examples"]]


@pytest.mark.parametrize(("plugin", "row", "answer", "expected"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_a_task_scores_its_examples_as_it_says(plugin, row, answer, expected):
    assert plugin.function(row, answer) == expected


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_task_brings_right_and_wrong_examples_and_an_empty_answer(plugin):
    scores = {score for _, _, score in plugin.facts["examples"]}
    assert {0.0, 1.0} <= scores
    assert any(answer == "" for _, answer, _ in plugin.facts["examples"])
    assert plugin.facts["metric"]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_task_names_a_suite_of_the_demo(plugin):
    assert (ASSETS / "demo" / "suites" / f"{plugin.facts['suite']}.jsonl").is_file()


def test_a_tool_call_with_code_in_it_is_never_evaluated(tmp_path):
    trap = tmp_path / "trap"
    answer = f"set_alarm(hour=open({str(trap)!r}, 'w').write('x'), minute=30)"
    assert tasks.get("tool").function({"target": "set_alarm(hour=7, minute=30)"}, answer) == 0.0
    assert not trap.exists()


def test_a_deeply_nested_call_is_wrong_and_no_crash():
    assert tasks.get("tool").function({"target": "f(a=1)"}, "f(a=" + "(" * 5000 + ")") == 0.0
