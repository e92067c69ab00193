"""The tables of README say what the shipped files say."""

import json
from pathlib import Path

import pytest

from backend.api import Studio
from backend.settings import ASSETS

README = Path(__file__).resolve().parents[1] / "README.md"
BUILT = ASSETS / "demo" / "build.json"
AXES = ("safety", "over_refusal", "helpfulness")
TASKS = ("reasoning", "medical", "code", "tool")
ARM_AXES = ("safety", "contaminated", "over_refusal", "helpfulness", "task")


def cells_of(first: str) -> list[str]:
    (line,) = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.skipif(not BUILT.is_file(), reason="the demo checkpoints are not built; make demo builds them")
def test_the_scores_of_the_demo_checkpoints_are_those_recorded_by_the_build():
    scores = json.loads(BUILT.read_text(encoding="utf-8"))["scores"]
    fine_tunes = [name for name in scores if name.endswith("-sft")]
    assert len(fine_tunes) == 8
    for name in fine_tunes:
        found = [scores[name][axis] for axis in (*AXES, name.split("-")[0])]
        assert cells_of(f"`demo/{name}`") == [f"{s['value']:.0f} [{s['low']:.0f}, {s['high']:.0f}]" for s in found]
    for name in ("unaligned", "aligned"):
        found = [scores[name][axis] for axis in AXES]
        shown = [f"{s['value']:.0f} [{s['low']:.0f}, {s['high']:.0f}]" for s in found]
        tasks = ", ".join(
            f"{task} {scores[name][task]['value']:.0f}" for task in ("reasoning", "medical", "code", "tool")
        )
        assert cells_of(f"`demo/{name}`") == [*shown, tasks]


def test_the_scores_of_the_strategies_are_those_of_the_stored_comparisons(settings):
    studio = Studio(settings)
    stored = {run.name: studio.comparison_json(run.id)["strategies"] for run in studio.runs() if run.kind == "compare"}
    studio.close()
    assert len(stored) == len(TASKS) + 1
    for name, arms in stored.items():
        task, ablation = name.split("-")[0], "7 strategies" not in name
        for arm in arms:
            if not ablation and arm["name"] == "lisa":
                continue  # said in words
            start = f"`{arm['name']}`" if ablation else f"{task} | `{arm['name']}`"
            found = [arm["scores"][axis] for axis in ARM_AXES]
            shown = [f"{s['value']:.1f} [{s['low']:.1f}, {s['high']:.1f}]" for s in found]
            assert cells_of(start)[-len(shown) :] == shown
