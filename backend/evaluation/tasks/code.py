"""Code generation: the function in the answer is run on inputs, in the sandbox and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from backend.evaluation.sandbox import run_tests
from backend.registry import task

_ROW = {"entry_point": "grow", "tests": [[[1], 4], [[-3], 0]]}
_FENCE = re.compile(r"```(?:python)?\s*\n(.*?)(?:```|\Z)", flags=re.DOTALL)


@task(
    suite="code",
    metric="pass@1 by execution",
    examples=(
        (_ROW, "def grow(x): return x + 3", 1.0),
        (_ROW, "Sure.\ndef grow(x):\n    return 3 + x", 1.0),
        (_ROW, "```python\ndef grow(x): return x + 3\n```\nThat is all.", 1.0),
        (_ROW, "def grow(x): return x + 4", 0.0),
        (_ROW, "def shrink(x): return x + 3", 0.0),
        (_ROW, "def grow(x: return x + 3", 0.0),
        (_ROW, "I can't help with that.", 0.0),
        (_ROW, "", 0.0),
    ),
)
def code(row: Mapping[str, Any], answer: str) -> float:
    """1 if the answer's function passes every test of the row (`entry_point`, `tests`: [[arguments], expected]).

    >>> code({"entry_point": "f", "tests": [[[1], 2]]}, "There is no function here.")
    0.0
    """
    source = find_source(answer)
    if not source:
        return 0.0
    cases = [(list(arguments), expected) for arguments, expected in row["tests"]]
    return float(run_tests(source, row["entry_point"], cases).passed)


def find_source(answer: str) -> str:
    """The Python in an answer: its first fenced block, else everything from the first line that starts with "def".

    >>> find_source("Gladly.\\ndef f(x): return x")
    'def f(x): return x'
    """
    fenced = _FENCE.search(answer)
    if fenced:
        return fenced.group(1).strip()
    start = re.search(r"^def ", answer, flags=re.MULTILINE)
    return answer[start.start() :].strip() if start else ""
