"""A fine-tuning as trees of safe text: what it will take, how it goes, what it chose and dropped. Pure; no Gradio."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app import curves, text
from app import tuning_text as words
from app.tree import Tree, button, el, facts, fold, group, note, table
from backend.types import DataPreview, Plan, Run, RunStatus, time_words


def preview(name: str, found: DataPreview) -> Tree:
    """How many rows an uploaded file has, what the first of them say, and which cannot be used."""
    shown = []
    for row in found.first:
        kind = el("span", words.KINDS.get(row["kind"], row["kind"]), cls="badge") if row["kind"] else ""
        shown.append(
            el(
                "li",
                kind,
                el("b", _brief(row["text"])),
                el("p", _brief(row["answer"] or words.UNANSWERED), cls="s-quiet"),
            )
        )
    said = f"{name}: {found.rows:,} rows; the first {len(shown)} of them:"
    bad = note(f"Left out: {found.left_out}.", "warning") if found.left_out else ""
    return el("div", el("p", said), el("ul", *shown, cls="rows"), bad, cls="preview")


def data_set(entry: Mapping[str, Any] | None) -> Tree | None:
    """One sentence about a data set of the catalogue."""
    if entry is None:
        return None
    return el("p", f"{entry.get('rows', 0):,} rows. {entry.get('summary') or ''}", cls="s-quiet")


def nothing() -> Tree:
    """The page before the first fine-tuning."""
    return el("div", note(words.NO_RUN), el("p", "You will see:"), el("ul", *(el("li", one) for one in words.COMING)))


def estimate(plan: Plan) -> Tree:
    """What the planned fine-tuning will take, every setting it will use, and whether its result is here already."""
    e = plan.estimate
    said = f"About {time_words(e.seconds)}, {text.size(e.memory)} of memory, {text.size(e.disk)} on disk."
    parts: list[Any] = [el("p", el("b", said)), _schedule(plan.spec)]
    parts += [el("p", text.asked(plan.recipe), cls="s-quiet")] if text.asked(plan.recipe) else []
    parts += [note(warning, "warning") for warning in plan.warnings]
    if plan.stored_run is not None:
        known = f"This very recipe is already stored as run {plan.stored_run}. "
        parts.append(el("p", known, button("Show it", "watch", plan.stored_run), cls="s-note good"))
    rows = [(name.replace("_", " "), text.short(value)) for name, value in _settings(plan.spec).items()]
    parts.append(fold("Every setting this run will use", facts(rows), key="tune-settings") if rows else "")
    return el("div", *parts, cls="estimate")


def _schedule(spec: Mapping[str, Any]) -> Tree | str:
    """How long it trains, where nobody has to open the settings: an emptied field means the recommended number."""
    training = spec.get("training") or {}
    if not {"steps", "batch"} <= training.keys():
        return ""
    return el("p", words.SCHEDULE.format(**training), cls="s-quiet")


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in spec.items() if not isinstance(value, Mapping) and value not in (None, "")}
    return plain | dict(spec.get("parameters") or {}) | dict(spec.get("training") or {})


def vitals(telemetry: Mapping[str, Any]) -> Tree | None:
    """The newest numbers as tiles; one that does not apply is not there."""
    steps = telemetry.get("steps") or []
    if not steps:
        return None
    last = steps[-1]
    tiles = [_tile("step", f"{last['step']:,}", f"{last.get('tokens_seen', 0):,} tokens seen")]
    if "loss_task" in last:
        tiles.append(_tile("task loss", f"{last['loss_task']:.3g}", _gradient(last)))
    if "loss_ref" in last:
        tiles.append(_tile("reference loss", f"{last['loss_ref']:.3g}", "lower: safety is remembered"))
    if "cos_task_ref" in last:
        cosine = last["cos_task_ref"]
        tiles.append(
            _tile("cosine", f"{cosine:+.2f}", words.direction(cosine), "bad" if cosine < -words.SMALL_COSINE else "")
        )
    if "kept_tokens" in last:
        since = f"; {100 * last['kept_tokens_total']:.0f} % so far" if "kept_tokens_total" in last else ""
        tiles.append(_tile("answer text kept", f"{100 * last['kept_tokens']:.0f} %", "of this step's window" + since))
    recent = [row["projected"] for row in steps[-50:] if "projected" in row]
    if recent:
        tiles.append(_tile("conflict removed", f"{100 * sum(recent) / len(recent):.0f} %", "of the step's length"))
    if "ref_entropy" in last:
        spread = "many references count" if last["ref_entropy"] > 0.5 else "a few references dominate"
        tiles.append(_tile("spread of references", f"{last['ref_entropy']:.2f}", spread))
    speed = rate(steps)
    if speed:
        tiles.append(_tile("speed", f"{speed[0]:.3g} steps/s", f"{speed[1]:,.0f} tokens/s"))
    return el("div", *tiles, cls="tiles")


def _gradient(row: Mapping[str, Any]) -> str:
    return f"gradient norm {row['grad_norm']:.2g}" if "grad_norm" in row else ""


def _tile(name: str, value: str, more: str, cls: str = "") -> Tree:
    parts = [el("span", name, cls="name"), el("b", value), el("small", more) if more else ""]
    return el("div", *parts, cls=f"tile {cls}".strip())


def rate(steps: Sequence[Mapping[str, Any]], window: int = 20) -> tuple[float, float] | None:
    """Steps and tokens a second over the newest rows; `seconds` counts from the start, or anew after a resume.

    >>> rate([{"step": 1, "seconds": 9, "tokens_seen": 10}, {"step": 5, "seconds": 11, "tokens_seen": 50}])
    (2.0, 20.0)
    """
    rows = [row for row in steps[-window:] if "seconds" in row]
    while len(rows) > 1 and rows[0]["seconds"] > rows[-1]["seconds"]:
        rows = rows[1:]
    took = rows[-1]["seconds"] - rows[0]["seconds"] if len(rows) > 1 else 0
    if took <= 0:
        return None
    tokens = rows[-1].get("tokens_seen", 0) - rows[0].get("tokens_seen", 0)
    return (rows[-1]["step"] - rows[0]["step"]) / took, tokens / took


def references(chosen: Sequence[Mapping[str, Any]], left: Sequence[Mapping[str, Any]] = ()) -> Tree | None:
    """What protects now, new ones first, and what it replaced."""
    if not chosen:
        return None
    fresh = sum(bool(one.get("new")) for one in chosen)
    fresh_said = f"; {fresh} of them are new since the last choice." if fresh else "."
    said = f"{len(chosen)} references protect now{fresh_said}"
    ordered = sorted(chosen, key=lambda one: (not one.get("new"), -one.get("weight", 0.0)))
    shown, rest = ordered[:6], ordered[6:]
    parts: list[Any] = [el("h3", "What protects now"), el("p", said, cls="s-quiet")]
    parts.append(el("div", *map(_reference, shown), cls="refs"))
    if rest:
        parts.append(fold(f"{len(rest)} more", el("div", *map(_reference, rest), cls="refs"), key="more-refs"))
    if left:
        gone = el("div", *map(_reference, left), cls="refs gone")
        parts.append(fold(f"Replaced at the last choice: {len(left)}", gone, key="gone-refs"))
    return group(parts)


def _reference(one: Mapping[str, Any]) -> Tree:
    kind = str(one.get("kind") or "")
    badges = [el("span", words.KINDS.get(kind, kind), cls=f"badge {kind}")] if kind else []
    badges += [el("span", "new", cls="badge front")] if one.get("new") else []
    shown = {"weight": "weight", "r": "loss", "cos": "cosine", "score": "score"}
    numbers = " · ".join(f"{name} {one[key]:.2f}" for key, name in shown.items() if one.get(key) is not None)
    return el(
        "article",
        el("p", *badges),
        el("p", _brief(one.get("text", "")), cls="prompt"),
        el("p", _brief(one.get("answer", "")), cls="answer"),
        el("small", numbers),
        cls="ref",
    )


def dropped(
    rows: Sequence[Mapping[str, Any]], counts: Mapping[str, Sequence[int]], sort: str = "step", shown: int = 20
) -> Tree | None:
    """The rows that were not learnt from, with the reason; the headings sort."""
    if not rows and not counts:
        return None
    parts: list[Any] = [el("h3", "What was not learnt from"), el("p", words.dropped(counts), cls="lead")]
    warning = words.unfair(counts)
    parts += [note(warning, "warning")] if warning else []
    if rows:
        key = sort if sort in words.SORTED_BY else "step"
        ordered = sorted(rows, key=lambda row: _rank(row.get(key)), reverse=key != "reason")
        head = [_heading(column, label, key) for column, label in words.COLUMNS.items()]
        body = [_dropped_row(row) for row in ordered[:shown]]
        parts.append(table(head, body, caption="Rows that were dropped, newest 200 at most", cls="dropped"))
        if len(ordered) > shown:
            parts.append(button(f"Show all {len(ordered)}", "show", len(ordered)))
    return group(parts)


def _rank(value: Any) -> tuple[bool, Any]:
    return (isinstance(value, str), value if value is not None else float("-inf"))


def _heading(column: str, label: str, sort: str) -> Tree:
    if column not in words.SORTED_BY:
        return el("th", label, scope="col")
    order = {"aria_sort": "ascending" if column == "reason" else "descending"} if column == sort else {}
    arrow = " ↓" if column == sort else ""
    return el("th", button(f"{label}{arrow}", "sort", column, "s-sort"), scope="col", **order)


def _dropped_row(row: Mapping[str, Any]) -> Tree:
    kind, said = str(row.get("kind") or ""), str(row.get("text", ""))
    badge = el("span", words.KINDS.get(kind, kind), cls=f"badge {kind}") if kind else ""
    whole: Any = el("p", said, cls="answer")
    if len(said) > 160:
        whole = fold(_brief(said), whole, key=f"dropped-{row.get('step')}-{row.get('id')}")
    numbers = [el("td", f"{row[key]:.2f}" if key in row else "–", cls="number") for key in ("loss", "cos", "score")]
    why = words.REASONS.get(str(row.get("reason")), str(row.get("reason") or "–"))
    name = el("td", badge, whole, el("small", str(row.get("id", ""))), cls="s-name")
    return el("tr", el("th", str(row.get("step", "–")), scope="row"), name, *numbers, el("td", why))


def finished(run: Run) -> Tree | None:
    """Scores after the last step and what the data report says."""
    result = run.result or {}
    if run.status != RunStatus.DONE or not result:
        return None
    rows = []
    for axis, data in (result.get("scores") or {}).items():
        found, (name, term, better) = curves.score(data), text.AXES.get(axis, (axis, "", ""))
        said = (
            [text.percent(found), text.counted(found), text.interval(found)] if found.value is not None else ["–"] * 3
        )
        head = el("th", name, el("small", " · ".join(filter(None, (term, better)))), scope="row")
        rows.append(el("tr", head, *(el("td", one, cls="number") for one in said)))
    scores = table(["Measured", "Score", "Prompts", "95 % interval"], rows, caption="Scores", cls="scores")
    warnings = (result.get("data") or {}).get("warnings") or ()
    report = json.dumps(result.get("data") or {}, indent=2, ensure_ascii=False, default=str)
    whole = fold("Data report: which rows were used and skipped", el("pre", report), key="report")
    notes = [note(warning, "warning") for warning in warnings]
    return group([scores if rows else "", *notes, whole if result.get("data") else ""])


def _brief(value: Any) -> str:
    said = str(value)
    return said if len(said) <= 160 else said[:157] + "…"
