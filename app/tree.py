"""What the page shows, as plain data: `[tag, attributes, *children]`, where a string is a text node.

The browser builds it with `createElement` and `textContent` (web/studio.js), so text from a model, a file or a person
is shown as its characters and can never become markup. This module knows nothing of runs or scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Tree = list[Any]


def el(tag: str, *children: Any, cls: str = "", **attributes: Any) -> Tree:
    """One element. `data_id="3"` becomes `data-id`; attributes that are None or False are left out.

    >>> el("p", "hi ", el("b", "you"), cls="lead", data_id=3)
    ['p', {'class': 'lead', 'data-id': '3'}, 'hi ', ['b', {}, 'you']]
    """
    given = {"class": cls, **{name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}}
    kept = {
        name: "" if value is True else str(value) for name, value in given.items() if value not in (None, False, "")
    }
    return [tag, kept, *(child for child in children if child not in (None, ""))]


def group(children: Iterable[Any], cls: str = "") -> Tree:
    """A plain box around children."""
    return el("div", *children, cls=cls)


def button(label: str, event: str, key: Any, cls: str = "", **attributes: Any) -> Tree:
    """A button that sends `event` with `key` to the server."""
    return el("button", label, cls=f"s-btn {cls}".strip(), type="button", data_event=event, data_key=key, **attributes)


def fold(summary: Any, *children: Any, cls: str = "", key: str = "", opened: bool = False) -> Tree:
    """A closed box with a visible title; `key` keeps it open over a redraw."""
    return el("details", el("summary", summary), *children, cls=cls, data_fold=key, open=opened)


def facts(rows: Iterable[tuple[str, Any]]) -> Tree:
    """A list of names and values."""
    return el("dl", *(part for name, value in rows for part in (el("dt", name), el("dd", value))), cls="facts")


def table(head: Iterable[Any], rows: Iterable[Tree], *, caption: str, cls: str = "") -> Tree:
    """A table with a caption for those who hear the page; it scrolls inside its own box."""
    header = el("thead", el("tr", *(cell if isinstance(cell, list) else el("th", cell, scope="col") for cell in head)))
    body = el("tbody", *rows)
    return el("div", el("table", el("caption", caption, cls="unseen"), header, body), cls=f"s-table {cls}".strip())


def choice(*cells: Any, event: str, key: int, selected: bool, label: str) -> Tree:
    """A table row that is picked by click or Enter and sends `event` with `key`."""
    return el(
        "tr",
        *cells,
        cls="selected" if selected else "",
        tabindex="0",
        data_event=event,
        data_key=key,
        aria_selected="true" if selected else "false",
        aria_label=label,
    )


def note(text: str, kind: str = "") -> Tree:
    """A sentence in a box; `kind` is "", "good", "warning" or "error"."""
    return el("p", text, cls=f"s-note {kind}".strip())
