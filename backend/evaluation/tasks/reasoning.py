"""Word problems: the last number of the answer is the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from backend.registry import task

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


@task(
    suite="reasoning",
    metric="exact match of the last number",
    examples=(
        ({"target": "12"}, "7 + 5 = 12. The answer is 12.", 1.0),
        ({"target": "12"}, "The answer is 12.0", 1.0),
        ({"target": "1200"}, "That makes 1,200 coins.", 1.0),
        ({"target": "12"}, "7 + 5 = 12. 12 - 1 = 11. The answer is 11.", 0.0),
        ({"target": "12"}, "The answer is 120.", 0.0),
        ({"target": "12"}, "I can't say.", 0.0),
        ({"target": "12"}, "", 0.0),
    ),
)
def reasoning(row: Mapping[str, Any], answer: str) -> float:
    """1 if the last number of the answer equals `target`, else 0.

    >>> reasoning({"target": "12"}, "7 + 5 = 12. The answer is 12.")
    1.0
    """
    numbers = _NUMBER.findall(answer)
    return float(bool(numbers) and _value(numbers[-1]) == _value(str(row["target"])))


def _value(text: str) -> float:
    return float(text.replace(",", ""))
