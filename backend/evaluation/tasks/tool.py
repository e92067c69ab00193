"""Tool use: one function call, compared as a syntax tree. Nothing is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from backend.registry import task

_ROW = {"target": "set_alarm(hour=7, minute=30)"}


class Call(NamedTuple):
    """A function call with literal keyword arguments; `arguments` maps a name to its value's type and value."""

    name: str
    arguments: dict[str, tuple[str, Any]]


@task(
    suite="tool",
    metric="AST match",
    examples=(
        (_ROW, "set_alarm(hour=7, minute=30)", 1.0),
        (_ROW, "Sure.\nset_alarm( minute = 30, hour = 7 )", 1.0),
        (_ROW, "set_alarm(hour=7, minute=31)", 0.0),
        (_ROW, "set_alarm(hour=7)", 0.0),
        (_ROW, "set_alarm(hour=7, minute=30, loud=True)", 0.0),
        (_ROW, 'set_alarm(hour="7", minute=30)', 0.0),
        (_ROW, "start_timer(hour=7, minute=30)", 0.0),
        (_ROW, "set_alarm(hour=7, minute=30", 0.0),
        (_ROW, "set_alarm(hour=7, minute=30)\nset_alarm(hour=8, minute=30)", 0.0),
        (_ROW, "__import__('os').getcwd()", 0.0),
        ({"target": "f(on=1)"}, "f(on=True)", 0.0),
        ({"target": "f(level=1.0)"}, "f(level=1)", 1.0),
        (_ROW, "", 0.0),
    ),
)
def tool(row: Mapping[str, Any], answer: str) -> float:
    """1 if the answer holds exactly one call and it is `target`'s, whatever the order of its arguments; else 0.

    An int passes for a float and a bool does not pass for an int. A line of talk before the call is allowed.

    >>> tool({"target": "f(a=1, b='x')"}, "f(b='x', a=1)")
    1.0
    """
    calls = [call for call in map(parse_call, answer.strip().splitlines()) if call]
    return float(len(calls) == 1 and calls[0] == parse_call(row["target"]))


def parse_call(text: str) -> Call | None:
    """The call written in `text`, or None if it is anything but one call with literal keyword arguments.

    >>> parse_call("f(a=1)")
    Call(name='f', arguments={'a': ('number', 1)})
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            return None
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if len(arguments) != len(node.keywords):
        return None
    return Call(node.func.id, {name: (_type_name(value), value) for name, value in arguments.items()})


def _type_name(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if is_number else type(value).__name__
