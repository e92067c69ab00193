"""Points, answers, findings and estimates as trees of safe text (`tree.py`). Pure; no Gradio."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from app import text
from app.plots import feasibility
from app.tree import Tree, button, choice, el, facts, fold, group, note, table
from backend.types import (
    AXES,
    HARM_AXES,
    Frontier,
    Inspection,
    Outcome,
    Plan,
    Point,
    Run,
    Score,
    straight_words,
    time_words,
)


def header(device: Mapping[str, Any]) -> Tree:
    """The device line: what computes, what it does, how many wait."""
    state = "idle" if device.get("state") in ("idle", "", None) else "busy"
    return el("span", el("span", cls=f"lamp {state}", aria_hidden="true"), text.device(device), cls="device")


# ---------------------------------------------------------------------------------------------------------- explore


def summary(points: Sequence[Point], frontier: Frontier | None, runs: Mapping[int, Run], minimum: float) -> Tree:
    """One or two sentences above the plot, and the area under the front."""
    drawn = frontier if points else None
    lines = [el("p", text.summary(points, drawn, runs, minimum), cls="lead")]
    if drawn and drawn.front:
        stored = sorted({p.run for p in points if p.run in runs and runs[p.run].stored})
        own = sorted({p.run for p in points} - set(stored))
        badge = [el("span", text.STORED_BADGE, cls="badge stored")] if stored else []
        said = text.area(drawn) + (f" · own runs: {', '.join(map(str, own))}" if own else "")
        lines.append(el("p", *badge, said, cls="s-quiet"))
    if not same_prompts([run for run in runs.values() if run.id in {point.run for point in points}]):
        lines.append(note(text.DIFFERENT_PROMPTS, "warning"))
    return group(lines)


def same_prompts(runs: Sequence[Run]) -> bool:
    """Whether runs were measured on the same prompts by the same judges, as far as their recipes say."""
    said = [(run.recipe.get("suites"), run.recipe.get("judges")) for run in runs if run.recipe.get("suites")]
    axes = [{one["axis"]: one["hash"] for one in suites.values()} for suites, _ in said]
    shared = set.intersection(*map(set, axes)) if axes else set()
    return all(one[axis] == axes[0][axis] for one in axes for axis in shared) and all(
        judges == said[0][1] for _, judges in said
    )


def point_table(
    points: Sequence[Point],
    runs: Mapping[int, Run],
    frontier: Frontier | None,
    *,
    minimum: float,
    selected: int | None,
    only: Collection[int] = (),
) -> Tree:
    """Every point as a row that Enter or a click opens: the keyboard's way to the plot."""
    front = {points[i].id for i in frontier.front} if frontier else set()
    knee = points[frontier.knee].id if frontier and frontier.knee is not None else None
    rows, axes = [], text.measured(points)
    for point in points:
        if only and point.id not in only:
            continue
        run = runs.get(point.run)
        marks = [text.ANCHORS.get(point.anchor, point.anchor)] if point.anchor else []
        marks += ["front"] if point.id in front else []
        marks += ["knee"] if point.id == knee else []
        marks += {"below": ["below minimum"], "across": ["unsure about minimum"]}.get(feasibility(point, minimum), [])
        rows.append(
            choice(
                el(
                    "th",
                    point.label,
                    " ",
                    *(el("span", mark, cls=f"badge {mark.split()[0]}") for mark in marks),
                    el("small", " · ".join(filter(None, (tuned_name(run), f"run {point.run}")))),
                    scope="row",
                ),
                *(_cell(point.scores.get(axis)) for axis in axes),
                _strength(point),
                event="open",
                key=point.id,
                selected=point.id == selected,
                label=f"Open {point.label}, {text.percent(point.scores.get('safety'))} safe",
            )
        )
    head = ["Checkpoint", *(text.AXES[axis][0] for axis in axes), "Strength"]
    extra = (
        [
            el(
                "p",
                f"{len(rows)} of {len(points)} shown. ",
                button("Compare", "compare", ""),
                " ",
                button("Show all", "all", ""),
                cls="s-quiet",
            )
        ]
        if only
        else []
    )
    return group([*extra, table(head, rows, caption="Measured checkpoints", cls="points")])


def tuned_name(run: Run | None) -> str:
    """The fine-tuned models of a run, or the checkpoint it measured, without their folders."""
    named = (run.spec.get("tuned") or run.spec.get("checkpoint") or "") if run else ""
    return " + ".join(str(one).split("/")[-1] for one in (named if isinstance(named, list) else [named]))


def _strength(point: Point) -> Tree:
    """How far the merge walked along the task vector, and how far from the aligned model it is, in its length."""
    if point.shift is not None:
        small = el("small", f"shift {100 * point.shift:.3g}\u00a0%")
        return el("td", "–", small, cls="number", title=text.shifted(point.shift))
    if point.projection is None:
        return el("td", "–", cls="number")
    distance = point.effective.get("distance")
    more = [el("small", f"distance {distance:.2f}")] if distance is not None else []
    title = "share of the fine-tuning walked (projection on the task vector)"
    return el("td", f"{point.projection:.2f}", *more, cls="number", title=title)


def _cell(score: Score | None) -> Tree:
    if score is None or score.value is None:
        return el("td", "–", cls="number")
    return el("td", text.percent(score), el("small", text.interval(score)), cls="number", title=text.counted(score))


def point_card(point: Point, run: Run | None, marks: Sequence[str] = ()) -> Tree:
    """Name, scores with how many and how sure."""
    badges = [el("span", mark, cls=f"badge {mark}") for mark in marks]
    tuned = str(run.spec.get("tuned", "")) if run else ""
    where = [f"{point.anchor or 'merge'} on the way to {tuned}"] if tuned else []
    where += [f"run {point.run}"] + ([f"judged by {text.judge(run)}"] if text.judge(run) else [])
    rows = []
    for axis in AXES:
        score = point.scores.get(axis)
        if score is not None:
            name, term, better = text.AXES[axis]
            what = term or str(run.spec.get("task", "") if run else "")
            rows.append(
                el(
                    "tr",
                    el("th", name, el("small", f"{what} · {better}" if what else better), scope="row"),
                    el("td", el("b", text.percent(score)), cls="number"),
                    el("td", text.counted(score), cls="number"),
                    el("td", text.interval(score), cls="number"),
                )
            )
    return group(
        [
            el("h3", point.label, " ", *badges),
            el("p", " · ".join(where), cls="s-quiet"),
            el("p", text.turned(point), cls="s-quiet") if len(point.coefficients) > 2 else "",
            el("p", straight_words(point.details), cls="s-quiet") if straight_words(point.details) else "",
            table(["Measured", "Score", "Prompts", "95 % interval"], rows, caption="Scores", cls="scores"),
            *(note(str(warning), "warning") for warning in point.details.get("warnings") or ()),
            _counts(point),
        ],
        "card-head",
    )


def _counts(point: Point) -> Tree | str:
    lines = []
    for suite, counts in point.outcomes.items():
        said = " · ".join(f"{n} {text.OUTCOMES.get(kind, kind)}" for kind, n in counts.items() if n)
        lines.append((suite, said or "nothing"))
    return fold("How the answers were judged", facts(lines), key="counts") if lines else ""


def recipe(point: Point, run: Run | None) -> Tree:
    """How the point was made and measured: short facts, then all of it."""
    spec = {} if run is None else {key: value for key, value in run.spec.items() if value not in (None, "", {}, [])}
    rows = [(key, text.short(value)) for key, value in spec.items()]
    rows += [("recipe hash", run.recipe_hash[:16])] if run else []
    whole = {"point": point.to_json(), "details": point.details, "recipe": run.recipe if run else {}}
    return fold(
        "Recipe: how this checkpoint was made and measured",
        facts(rows),
        fold("All of it, as JSON", el("pre", json.dumps(whole, indent=2, ensure_ascii=False, default=str)), key="json"),
        key="recipe",
        cls="s-box",
    )


def answers(
    columns: Sequence[tuple[str, Mapping[str, Outcome]]], order: Sequence[Outcome], judge: str, *, shown: int
) -> Tree:
    """The same prompts answered by several checkpoints; `columns` are (name, sample → outcome), `order` the prompts."""
    if not order:
        return note("No answers of this kind. Choose another suite or outcome.")
    cards = []
    for outcome in order[:shown]:
        rows = [_answer(name, found.get(key(outcome)), judge, n) for n, (name, found) in enumerate(columns)]
        cards.append(el("article", el("p", outcome.prompt, cls="prompt"), *rows, cls="sample"))
    more = len(order) - shown
    tail = [button(f"Show {min(more, 20)} more of {len(order)}", "more", shown + 20)] if more > 0 else []
    count = el("p", f"{min(shown, len(order))} of {len(order)} prompts", cls="s-quiet")
    return el("div", count, *cards, *tail, cls="samples")


def key(outcome: Outcome) -> str:
    """Which prompt an outcome answers, the same for every checkpoint."""
    return f"{outcome.suite}/{outcome.sample_hash or outcome.sample}"


def by_sample(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """Outcomes by the prompt they answer, so that columns line up."""
    return {key(outcome): outcome for outcome in outcomes}


def _answer(name: str, outcome: Outcome | None, judge: str, number: int) -> Tree:
    if outcome is None:
        return el("div", el("span", name, cls="who"), el("p", "not asked", cls="s-quiet"), cls="s-row")
    body: Tree = el("p", outcome.answer or "(empty)", cls="answer")
    if outcome.outcome == "harmful":
        body = fold(text.HARMFUL_NOTICE, body, cls="harmful", key=f"{outcome.point}-{key(outcome)}")
    cls = "s-row first" if number == 0 else "s-row"
    return el("div", el("span", name, cls="who"), el("div", badge(outcome, judge), body), cls=cls)


def badge(outcome: Outcome, judge: str = "") -> Tree:
    """An outcome in words, with its judge; right or wrong where a checker scored."""
    label = text.OUTCOMES.get(outcome.outcome, outcome.outcome)
    kind = outcome.outcome
    if outcome.axis in ("task", "helpfulness") and outcome.score is not None and outcome.outcome == "safe_complied":
        label, kind = ("right", "right") if outcome.score >= 0.5 else ("wrong", "wrong")
    if outcome.axis == "over_refusal" and outcome.outcome == "refused":
        label = "refused a harmless request"
    named = judge and outcome.axis in (*HARM_AXES, "over_refusal")
    return el("span", label, el("small", f" {judge}") if named else "", cls=f"badge {kind}")


def chips(examples: Sequence[tuple[str, str]]) -> Tree | None:
    """The example requests as buttons."""
    if not examples:
        return None
    buttons = [
        el(
            "button",
            el("small", kind),
            prompt if len(prompt) < 70 else prompt[:67] + "…",
            cls="s-btn",
            type="button",
            data_event="example",
            data_key=number,
        )
        for number, (kind, prompt) in enumerate(examples)
    ]
    return el("div", *buttons, cls="chips", role="group", aria_label="Examples to ask")


# ------------------------------------------------------------------------------------------------------------ merge


def inspection(found: Inspection) -> Tree:
    """What the headers say of the pair, and every finding as its own sentence."""
    lines, whole = [], []
    for one in found.checkpoints:
        kind = "LoRA adapter" if one.get("kind") == "adapter" else str(one.get("model_type") or "")
        brief = [kind, *(_shown(key, one[key]) for key in ("parameters", "bytes", "dtype") if one.get(key))]
        lines.append(el("div", el("b", str(one.get("name", ""))), el("span", " · ".join(brief), cls="s-quiet")))
        rows = [(_words(key), _shown(key, value)) for key, value in one.items() if key != "name" and _worth(value)]
        whole.append(el("div", el("h4", str(one.get("name", ""))), facts(rows)))
    notes = [note(f.sentence, f.level) for f in found.findings if f.level != "error"]
    if not found.errors and len(found.checkpoints) > 1:
        notes.insert(0, note("The two fit together: they can be merged.", "good"))
    more = fold("All that the files say", el("div", *whole, cls="sheets"), key="files") if whole else ""
    return group([el("div", *lines, cls="files"), *notes, more])


def _worth(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def _words(key: str) -> str:
    return {"model_type": "architecture", "dtype": "number format", "bytes": "size"}.get(key, key.replace("_", " "))


def _shown(key: str, value: Any) -> str:
    if key in ("bytes", "size", "memory", "disk") and isinstance(value, (int, float)):
        return text.size(value)
    if key == "dtype":
        return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(str(value), str(value))
    if key == "parameters" and isinstance(value, (int, float)):
        return text.parameters(value)
    return f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)


def _grid_words(grid: Any, knob: str) -> str:
    """How many checkpoints a grid is, and which; an older plan has none."""
    if not grid:
        return ""
    axes = grid if isinstance(grid, Mapping) else {knob: grid}
    names = {"lam": "λ", "lambda": "λ"}
    said = [f"{names.get(name, name)} = {', '.join(f'{v:g}' for v in values)}" for name, values in axes.items()]
    count, sizes = 1, [len(values) for values in axes.values()]
    for size in sizes:
        count *= size
    product = f" ({' × '.join(map(str, sizes))})" if len(sizes) > 1 else ""
    return f"{count} checkpoint{'s' if count > 1 else ''}{product}: {'; '.join(said)}. "


def estimate(plan: Plan, knob: str = "lam") -> Tree:
    """What the planned run will take, and whether its result is here already; `knob` is what its grid turns."""
    e = plan.estimate
    said = f"About {time_words(e.seconds)}, {text.size(e.memory)} of memory, {text.size(e.disk)} on disk."
    count = _grid_words(plan.spec.get("grid"), knob)
    parts = [el("p", count, el("b", said))]
    parts += [el("p", text.asked(plan.recipe), cls="s-quiet")] if text.asked(plan.recipe) else []
    parts += [note(warning, "warning") for warning in plan.warnings]
    if plan.stored_run is not None:
        known = f"This very recipe is already stored as run {plan.stored_run}. "
        parts.append(el("p", known, button("Open it in Explore", "open_run", plan.stored_run), cls="s-note good"))
    return el("div", *parts, cls="estimate")
