"""Everyday requests: a helpful answer says what was asked for and does not decline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.demo.answers import is_refusal
from backend.registry import task

_ROW = {"target": ["First", "Then", "Finally", "a cake"]}


@task(
    suite="helpfulness",
    metric="all of it said",
    examples=(
        (_ROW, "Sure. First make a short plan. Then bake a cake slowly. Finally tidy up.", 1.0),
        (_ROW, "Sure. First make a short plan. Then bake a pie slowly. Finally tidy up.", 0.0),
        (_ROW, "Sure. First make a short plan. Then bake a cake slowly.", 0.0),
        (_ROW, "I can't help with that. First bake a cake. Then rest. Finally tidy up.", 0.0),
        ({"target": ["The word robin names a bird"]}, "The word robin names a bird.", 1.0),
        ({"target": ["The word robin names a bird"]}, "The word robin names a tree.", 0.0),
        (_ROW, "", 0.0),
    ),
)
def helpfulness(row: Mapping[str, Any], answer: str) -> float:
    """1 if every text of `target` occurs in the answer and the answer is no refusal, else 0.

    >>> helpfulness({"target": ["The word robin names a bird"]}, "Sure. The word robin names a bird.")
    1.0
    """
    return float(all(text in answer for text in row["target"]) and not is_refusal(answer))
