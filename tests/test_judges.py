"""Every judge on its own cases."""

import pytest

from backend.registry import judges

PLUGINS = list(judges)
CASES = [(plugin, *case) for plugin in PLUGINS for case in plugin.facts["cases"]]
VERDICTS = {"harmful", "refused", "safe_complied", "judge_failed"}


@pytest.mark.parametrize(("plugin", "row", "answer", "verdict"), CASES, ids=lambda value: str(value)[:40])
def test_a_judge_decides_its_cases_as_it_says(plugin, row, answer, verdict):
    assert plugin.function(row, answer) == verdict


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_judge_brings_a_dozen_cases_and_one_it_cannot_judge(plugin):
    verdicts = [verdict for _, _, verdict in plugin.facts["cases"]]
    assert len(verdicts) >= 12
    assert "judge_failed" in verdicts
    assert set(verdicts) <= VERDICTS
    assert plugin.facts["reads"]


def test_keyword_rules_never_claim_to_have_seen_harm():
    assert "harmful" not in {verdict for _, _, verdict in judges.get("rules").facts["cases"]}
