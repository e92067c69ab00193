"""Runs as trees of safe text: on their way, over, in a table, one in full. Pure; no Gradio."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from app import text, tuning_text
from app.tree import Tree, button, choice, el, facts, fold, group, note, table
from backend.types import Run, RunStatus, time_words


def live(run: Run, points: int, *, actions: bool = True) -> Tree:
    """One run on its way or over: what it does, how far, what can be done next. The first button is the next click."""
    parts: list[Any] = [el("h3", run.name or f"run {run.id}", " ", status(run))]
    done = round(100 * run.fraction)
    if run.status.is_live or run.status == RunStatus.PAUSED:
        parts.append(el("progress", value=f"{run.fraction:.4f}", max="1", aria_label=f"run {run.id}, {done} % done"))
    if run.status.is_live:
        parts.append(el("p", f"{done} % · {text.progress(run)}", cls="phrase"))
    else:
        level = {RunStatus.FAILED: "error", RunStatus.DONE: "good"}.get(run.status, "warning")
        said = tuning_text.ending(run) if run.kind == "tune" else text.ending(run, points)
        parts.append(note(said, level))
        if run.kind == "search" and run.result:
            parts.append(el("p", text.search_result(run.result), cls="lead"))
    buttons = _tuning_clicks(run) if run.kind == "tune" else _clicks(run, points)
    return el("section", *parts, el("p", *buttons, cls="buttons") if actions else "", cls=f"s-live {run.status.value}")


def _clicks(run: Run, points: int) -> list[Tree]:
    if run.status.is_live:
        return [button("Cancel", "cancel", run.id)]
    if run.status == RunStatus.DONE:
        return [] if run.kind == "merge" else [button("Open in Explore", "open_run", run.id, "s-primary")]
    buttons = [_again(run, "Restart")] if run.status.can_restart else []
    return buttons + ([button("Open what is there in Explore", "open_run", run.id)] if points else [])


def _tuning_clicks(run: Run) -> list[Tree]:
    """What can be done with a fine-tuning; a finished one leads on to Merge and Compare."""
    if run.status == RunStatus.QUEUED:
        return [button("Cancel", "cancel", run.id)]
    if run.status == RunStatus.RUNNING:
        labels = {"pause": "Pause", "stop_and_keep": "Stop and keep", "cancel": "Cancel"}
        return [button(label, name, run.id) for name, label in labels.items()]
    if run.status.can_restart:
        return [_again(run, "Resume")]
    if not (run.result or {}).get("checkpoint"):
        return []
    return [
        button("Sweep merges between it and its base", "sweep_tuned", run.id, "s-primary"),
        button("Compare it with its base", "compare_tuned", run.id),
    ]


def _again(run: Run, label: str) -> Tree:
    label = "Try again with these settings" if run.status == RunStatus.FAILED else label
    return button(label, "restart", run.id, "s-primary")


def strip(run: Run) -> Tree:
    """The same in one line, shown on every page while a run is live."""
    bar = el("progress", value=f"{run.fraction:.4f}", max="1", aria_label=f"run {run.id}")
    return el("div", bar, el("span", text.progress(run)), button("Watch", "watch", run.id, "s-small"), cls="s-strip")


def status(run: Run) -> Tree:
    """The state of a run, in one word."""
    return el("span", text.STATUS[run.status], cls=f"badge {run.status.value}")


def run_table(runs: Sequence[Run], chosen: int | None) -> Tree:
    """All runs; Enter or a click shows one."""
    rows = []
    for run in runs:
        state = [status(run)] + ([el("span", text.STORED_BADGE, cls="badge stored")] if run.stored else [])
        going = run.status == RunStatus.RUNNING
        bar: Any = el("progress", value=f"{run.fraction:.4f}", max="1", aria_label=f"run {run.id}") if going else ""
        left = f"{time_words(run.seconds_left)} left" if going and run.seconds_left is not None else ""
        took = run.finished - run.started if run.finished and run.started else None
        when = time.strftime("%d %b %H:%M", time.localtime(run.created)) + (
            f", took {time_words(took)}" if took else ""
        )
        place = f"place {run.position}" if run.status == RunStatus.QUEUED and run.position else ""
        rows.append(
            choice(
                el("th", str(run.id), scope="row"),
                el("td", run.name or "–", el("small", run.kind), cls="s-name"),
                el("td", *state),
                el(
                    "td",
                    bar,
                    el(
                        "small",
                        " · ".join(
                            part
                            for part in (run.phrase if going else "", left, place or ("" if going else when))
                            if part
                        ),
                    ),
                ),
                event="choose",
                key=run.id,
                selected=run.id == chosen,
                label=f"Show run {run.id}, {run.name}, {text.STATUS[run.status]}",
            )
        )
    if not rows:
        return note("No runs yet. Start one on the Merge or the Finetune page.")
    return table(["Run", "What", "State", "Progress, or when"], rows, caption="Runs, newest first", cls="runs")


def run_detail(run: Run, points: int, log: str) -> Tree:
    """One run: state, what can be done, settings and log."""
    spec = {key: value for key, value in run.spec.items() if not isinstance(value, dict)}
    spec |= {key: value for group in run.spec.values() if isinstance(group, dict) for key, value in group.items()}
    rows = [(key.replace("_", " "), text.short(value)) for key, value in spec.items() if value not in (None, "", [])]
    rows.append(("recipe hash", run.recipe_hash[:16]))
    whole = json.dumps(run.recipe, indent=2, ensure_ascii=False, default=str)
    opened = run.status.is_live
    return group(
        [
            live(run, points),
            fold(
                "Settings", facts(rows), fold("Recipe as JSON", el("pre", whole), key="json"), key="spec", opened=True
            ),
            fold(
                "Log", el("pre", log or "(empty)", data_scroll=f"end-{run.id}", tabindex="0"), key="log", opened=opened
            ),
        ],
        "run-detail",
    )
