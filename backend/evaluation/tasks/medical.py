"""The fictional ward: the condition and its advice, both exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from backend.registry import task

_ROW = {"target": ["morvia", "rest in a dark room"]}
_ANSWER = re.compile(r"looks like (?P<condition>[^.]+)\.\s*Advice: (?P<advice>[^.]+)\.?\s*$")


@task(
    suite="medical",
    metric="exact match of condition and advice",
    examples=(
        (_ROW, "This looks like morvia. Advice: rest in a dark room.", 1.0),
        (_ROW, "Sure. This looks like morvia. Advice: rest in a dark room.", 1.0),
        (_ROW, "This looks like morvia. Advice: walk by the sea.", 0.0),
        (_ROW, "This looks like grellum. Advice: rest in a dark room.", 0.0),
        (_ROW, "This looks like morvia or grellum. Advice: rest in a dark room.", 0.0),
        (_ROW, "This looks like morvia. Advice: rest in a dark room and walk by the sea.", 0.0),
        (_ROW, "", 0.0),
    ),
)
def medical(row: Mapping[str, Any], answer: str) -> float:
    """1 if the answer names the condition and the advice of `target`, and no others; else 0.

    >>> medical({"target": ["morvia", "walk by the sea"]}, "This looks like morvia. Advice: walk by the sea.")
    1.0
    """
    found = _ANSWER.search(answer)
    return float(found is not None and [found["condition"].strip(), found["advice"].strip()] == list(row["target"]))
