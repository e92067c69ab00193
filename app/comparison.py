"""A comparison of strategies as means over its seeds, and DualSelect against its bars. Pure; no Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app import text
from app.tree import Tree, el, fold, group, table
from backend.types import AXES, Score

MARKS = {True: ("yes", "right"), False: ("no", "wrong")}


def card(found: Mapping[str, Any]) -> Tree:
    """What `Studio.comparison_json` says, as a table of the strategies and a folded list of the bars."""
    arms = found["strategies"]
    axes = [axis for axis in AXES if any(axis in arm["scores"] for arm in arms)]
    seeds = max((len(arm["seeds"]) for arm in arms), default=0)
    head = ["Strategy", *(text.AXES[axis][0] for axis in axes), "Time"]
    rows = [_row(arm, axes, found["front"]) for arm in arms]
    said = f"Run {found['run']}: mean over {seeds} training seeds" if seeds > 1 else f"Run {found['run']}: one seed"
    title = el("p", el("b", said), ", with 95 % intervals over seeds and prompts", cls="s-quiet")
    means = table(head, rows, caption="Strategies, mean over seeds", cls="means")
    return group([title, means, _verdict(found), _differences(found, axes)])


def _row(arm: Mapping[str, Any], axes: list[str], front: list[str]) -> Tree:
    name = el("th", arm["name"], scope="row")
    if arm["name"] in front:
        name.append(el("span", "front", cls="badge front"))
    cells = [_cell(arm["scores"].get(axis)) for axis in axes]
    spent = arm.get("training_seconds") or []
    return el("tr", name, *cells, el("td", f"{sum(spent) / len(spent):.0f} s" if spent else "–", cls="number"))


def _cell(data: Mapping[str, Any] | None) -> Tree:
    score = Score.from_json(dict(data)) if data else None
    if score is None or score.value is None:
        return el("td", "–", cls="number")
    value = f"{100 * score.value:.1f}\u00a0%"
    return el("td", value, el("small", text.interval(score)), cls="number", title=f"n = {score.n}")


def _verdict(found: Mapping[str, Any]) -> Tree | str:
    """The bars whose rival was measured."""
    told = found["verdict"].items()
    bars = [_bar(name, bar) for name, bar in told if bar["passed"] is not None or bar.get("within_chance")]
    return fold("Where DualSelect stands", el("ul", *bars), key=f"verdict-{found['run']}") if bars else ""


def _differences(found: Mapping[str, Any], axes: list[str]) -> Tree | str:
    """DualSelect minus each of the others; what is beyond chance is bold."""
    rows = [
        el("tr", el("th", name, scope="row"), *(_gap(gaps.get(axis)) for axis in axes))
        for name, gaps in found["differences"].items()
    ]
    if not rows:
        return ""
    head = ["DualSelect minus", *(text.AXES[axis][0] for axis in axes)]
    said = "Points, paired over prompts, with 95 % intervals over seeds and prompts; bold is beyond chance."
    shown = table(head, rows, caption="DualSelect minus each other strategy", cls="means")
    return fold(
        "What tells DualSelect from the others", el("p", said, cls="s-quiet"), shown, key=f"gaps-{found['run']}"
    )


def _gap(gap: Mapping[str, float] | None) -> Tree:
    if gap is None:
        return el("td", "–", cls="number")
    value = f"{gap['value']:+.1f}".replace("-", "−")
    interval = f"{gap['low']:.1f} to {gap['high']:.1f}".replace("-", "−")
    beyond = not gap["low"] <= 0 <= gap["high"]
    return el("td", el("b", value) if beyond else value, el("small", interval), cls="number")


def _bar(name: str, bar: Mapping[str, Any]) -> Tree:
    word, kind = MARKS.get(bar["passed"], ("within chance", "unsure"))
    numbers = [f"{key.replace('_', ' ')} {value:.1f}" for key, value in bar.items() if isinstance(value, float)]
    gap = bar.get("difference")
    numbers += [f"difference {gap['value']:+.1f} [{gap['low']:.1f}, {gap['high']:.1f}]"] if gap else []
    return el("li", el("span", word, cls=f"badge {kind}"), f"{name}: {', '.join(numbers).replace('-', '−') or '–'}")
