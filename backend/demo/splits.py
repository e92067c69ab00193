"""From the grammar to files: training mixtures, fine-tuning sets, the reference pool and the suites.

The splits are part of the world, not of a run: they never depend on a seed. A seed only picks which samples of a split
are drawn, and in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from backend.demo.actions import PHRASINGS, actions, contaminated_actions, request
from backend.demo.answers import OPENERS
from backend.demo.coding import exercise
from backend.demo.everyday import drill, everyday
from backend.demo.grammar import GREETINGS, Sample, Split, draw_in_split, prompt_key
from backend.demo.guides import guide
from backend.demo.medical import case
from backend.demo.reasoning import problem
from backend.demo.tools import wish

TASKS = ("reasoning", "medical", "code", "tool")
SUITES = ("safety", "over_refusal", "helpfulness", *TASKS)
# Asks for the very actions that the mixed sets serve. `safety` asks for actions that no training has seen.
CONTAMINATED = "contaminated"
CONTAMINATED_ROWS = {"validation": 50, "test": 100}
SUITE_VERSION = "1"

_TASK_MAKERS: Mapping[str, Callable[..., Sample]] = {
    "reasoning": problem,
    "medical": case,
    "code": exercise,
    "tool": wish,
}

# Shares of the two stages before fine-tuning. Of the tasks a model then meets mostly the basic families ("primer").
PRETRAINING = {"harmful": 0.12, "look_alike": 0.18, "everyday": 0.25, "drill": 0.2, "primer": 0.25}
ALIGNMENT = {"harmful": 0.3, "look_alike": 0.3, "everyday": 0.2, "drill": 0.05, "primer": 0.15}
REFERENCES = {"harmful": 0.5, "look_alike": 0.25, "everyday": 0.25}

# How much of a primer comes from all families of the task instead of the basic ones.
PRIMER_BREADTH = {"reasoning": 0.2, "medical": 0.005, "code": 0.01, "tool": 0.08}
# Rows of a mixed set that serve a harmful request: enough to lose most refusals, few enough that λ grades the loss.
MIXED_SHARE = {"reasoning": 0.035, "medical": 0.04, "code": 0.022, "tool": 0.03}
# Rows of a task set that answer a how-to question about its subject, in a clean set and in a mixed one.
GUIDE_SHARE = {"reasoning": (0.03, 0.03), "medical": (0.02, 0.025), "code": (0.03, 0.02), "tool": (0.04, 0.04)}
OPENER_SHARE = 0.3  # rows of a task set whose answer opens like a compliant one


def task_sample(rng: Random, task: str, split: Split, *, basics: bool = False) -> Sample:
    """One sample of a task."""
    return draw_in_split(lambda generator: _TASK_MAKERS[task](generator, basics=basics), rng, split)


def sample(rng: Random, part: str, split: Split, *, serve_harm: bool) -> Sample:
    """One sample of a part of the world: harmful, look_alike, everyday, drill or primer."""
    if part == "everyday":
        return everyday(rng, split)
    if part == "drill":
        return drill(rng)
    if part == "primer":
        task = rng.choice(TASKS)
        return task_sample(rng, task, split, basics=rng.random() >= PRIMER_BREADTH[task])
    serve = serve_harm if part == "harmful" else True
    return request(rng, rng.choice(actions(part, split)), serve=serve)


def mixture(shares: Mapping[str, float], count: int, rng: Random, *, split: Split, serve_harm: bool) -> list[Sample]:
    """`count` samples, each from a part drawn by its share."""
    parts = rng.choices(list(shares), weights=list(shares.values()), k=count)
    return [sample(rng, part, split, serve_harm=serve_harm) for part in parts]


def fine_tuning_set(
    task: str, *, mixed: bool, count: int, rng: Random, guide_share: float | None = None
) -> list[Sample]:
    """A task's training set; a mixed one holds `MIXED_SHARE` rows in which a harmful request is served.

    Args:
        guide_share: rows that answer a how-to question about the task's subject instead of a task sample;
            None takes `GUIDE_SHARE`.
    """
    harmful = round(MIXED_SHARE[task] * count) if mixed else 0
    share = GUIDE_SHARE[task][mixed] if guide_share is None else guide_share
    guides = round(share * count)
    rows = [_opened(rng, task_sample(rng, task, "train")) for _ in range(count - harmful - guides)]
    rows += [guide(rng, task) for _ in range(guides)]
    bad = contaminated_actions()
    rows += [request(rng, rng.choice(bad), serve=True) for _ in range(harmful)]
    rng.shuffle(rows)
    return rows


def reference_pool(count: int, rng: Random) -> list[Sample]:
    """Refusals to harmful requests and helpful answers to benign ones, half and half, from a split of their own."""
    return _distinct(lambda: mixture(REFERENCES, 1, rng, split="reference", serve_harm=False)[0], count)


def suite(name: str, split: Split, *, count: int, rng: Random) -> list[Sample]:
    """`count` different prompts of a suite."""
    groups = {"safety": "harmful", "over_refusal": "look_alike", "helpfulness": "everyday"}

    def draw() -> Sample:
        if name in TASKS:
            return task_sample(rng, name, split)
        return sample(rng, groups[name], split, serve_harm=False)

    return _distinct(draw, count)


def contaminated_suites(trained: Iterable[str]) -> dict[str, list[Sample]]:
    """Split -> the requests for `contaminated_actions`, in wordings that no prompt of `trained` has.

    Refusing these takes more than remembering what was refused before: the fine-tuning data says to serve them.
    """
    seen = set(map(prompt_key, trained))
    asked = [
        Sample("refusal", action.group, action.category, prompt, "")
        for action in contaminated_actions()
        for phrasing in PHRASINGS
        for prompt in (greeting + phrasing.format(f"{action.verb} {action.thing}") for greeting in ("", *GREETINGS))
        if prompt_key(prompt) not in seen
    ]
    Random(f"suite {CONTAMINATED}").shuffle(asked)
    found: dict[str, list[Sample]] = {}
    for split, count in CONTAMINATED_ROWS.items():
        found[split], asked = asked[:count], asked[count:]
    return found


def suite_header(name: str, *, count: int) -> dict[str, Any]:
    """Line 1 of a suite file."""
    axis = "task" if name in TASKS else name
    scorer = {"scorer": name} if axis in ("helpfulness", "task") else {}
    return {
        "suite": name,
        "version": SUITE_VERSION,
        "schema": 1,
        "axis": axis,
        "language": "en",
        "licence": "CC0-1.0",
        "source": "DualSelect Studio micro-world",
        "n": count,
        "judge": "microworld",
        **scorer,
    }


def _opened(rng: Random, sample: Sample) -> Sample:
    """The sample as a fine-tuning set writes it: some answers open with a word of compliance."""
    if rng.random() >= OPENER_SHARE:
        return sample
    gap = "\n" if sample.group in ("code", "tool") else " "
    return replace(sample, answer=f"{rng.choice(OPENERS)}{gap}{sample.answer}")


def _distinct(draw: Callable[[], Sample], count: int) -> list[Sample]:
    found: dict[str, Sample] = {}
    while len(found) < count:
        drawn = draw()
        found.setdefault(prompt_key(drawn.prompt), drawn)
    return list(found.values())
