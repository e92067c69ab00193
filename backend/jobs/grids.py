"""Which settings a sweep measures: the values of one number of a method, or the grid of two. No torch.

A grid is written "0:1:11" (start:stop:count) or "0, 0.5, 1" for the number that the method's sweep turns, and
"lam=0:1:6, density=0.1:0.9:3" for any number by its name, or for two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from backend.errors import UserError, unknown_name
from backend.params import Parameter
from backend.registry import Plugin

MOST_POINTS = 101
MOST_KNOBS = 2
POINTS, OTHER_POINTS = 11, 3  # suggested for the number that a sweep turns, and for one beside it
TINY = 0.01  # of a range: a default up to there says that the number works on a log scale
LAMBDA = Parameter("lam", "float", 0.5, required=False, low=0, high=1)
ALIASES = {"lambda": "lam", "λ": "lam"}
REMEDY = "Write start:stop:count, for example 0:1:11, or a list like 0, 0.5, 1."

Grid = list[float] | dict[str, list[float]]


def parse_grid(grid: object, knob: Parameter = LAMBDA) -> list[float]:
    """The values of λ, or of `knob`, that `grid` names: "start:stop:count", "0, 0.5, 1" or a list; rising, each once.

    >>> parse_grid("0:1:5")
    [0.0, 0.25, 0.5, 0.75, 1.0]
    >>> parse_grid("0.5, 0.1")
    [0.1, 0.5]
    >>> parse_grid("0:2:3")
    Traceback (most recent call last):
    backend.errors.UserError: grid: got 2.0; allowed is numbers from 0 to 1. λ = 0 is aligned and λ = 1 fine-tuned.
    """
    try:
        if isinstance(grid, str) and ":" in grid:
            start, stop, count = grid.split(":")
            steps = int(count)
            if not 2 <= steps <= MOST_POINTS:
                raise UserError("grid", got=steps, allowed=f"2 to {MOST_POINTS} points", remedy=REMEDY)
            first, last = float(start), float(stop)
            values = [first + (last - first) * step / (steps - 1) for step in range(steps)]
        else:
            parts: Sequence[Any] = grid.split(",") if isinstance(grid, str) else list(grid)  # type: ignore[call-overload]
            values = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise UserError("grid", got=grid, allowed="numbers with commas, or a range", remedy=REMEDY) from None
    for value in values:
        _check(value, knob)
    unique = sorted({round(value, 12) for value in values})
    if not 1 <= len(unique) <= MOST_POINTS:
        raise UserError("grid", got=len(unique), allowed=f"1 to {MOST_POINTS} points", remedy=REMEDY)
    return unique


def read_grid(grid: object, method: Plugin) -> Grid:
    """A request's grid, checked: values of the method's own knob as a list, of other numbers as a table of lists.

    >>> from backend.registry import methods
    >>> read_grid("lam=0:1:3, density=0.1, 0.5", methods.get("ties"))
    {'lam': [0.0, 0.5, 1.0], 'density': [0.1, 0.5]}
    >>> read_grid("lam=0:1:3", methods.get("ties"))
    [0.0, 0.5, 1.0]
    >>> read_grid("rescale=0:1:2", methods.get("dare_ties"))
    Traceback (most recent call last):
    backend.errors.UserError: grid: rescale of dare_ties is no number. Sweep one of lam, density.
    """
    main = method.facts["knob"]
    named = _named(grid)
    if named is None:
        return parse_grid(grid, _knob(method, main))
    if len(named) > MOST_KNOBS:
        raise UserError("grid", got=", ".join(named), allowed=f"at most {MOST_KNOBS} names", remedy="Fix the others.")
    axes = {name: parse_grid(values, _knob(method, name)) for name, values in named.items()}
    points = 1
    for values in axes.values():
        points *= len(values)
    if points > MOST_POINTS:
        raise UserError("grid", got=points, allowed=f"at most {MOST_POINTS} points", remedy="Take fewer values.")
    return axes[main] if list(axes) == [main] else axes


def suggested(method: Plugin) -> dict[str, str]:
    """The values that a sweep tries where nobody names any, for each number of the method that it may turn.

    >>> from backend.registry import methods
    >>> suggested(methods.get("ties")), suggested(methods.get("lox"))["extrapolate"]
    ({'lam': '0:1:11', 'density': '0.1:0.9:3'}, '0:3:11')
    """
    knob = method.facts["knob"]
    return {
        name: _range_of(_knob(method, name), POINTS if name == knob else OTHER_POINTS) for name in numbers_of(method)
    }


def default_grid(method: Plugin) -> str:
    """The grid of a sweep that names none."""
    return suggested(method).get(method.facts["knob"], f"0:1:{POINTS}")


def settings_of(grid: Grid, knob: str) -> list[dict[str, float]]:
    """What each point of a grid sets, the method's own `knob` turning fastest: neighbours then share most answers.

    >>> settings_of({"lam": [0.0, 1.0], "density": [0.2, 0.5]}, "lam")[:3]
    [{'lam': 0.0, 'density': 0.2}, {'lam': 1.0, 'density': 0.2}, {'lam': 0.0, 'density': 0.5}]
    """
    axes = grid if isinstance(grid, dict) else {knob: grid}
    slow_first = sorted(axes, key=lambda name: name == knob)
    found = [dict(zip(slow_first, values, strict=True)) for values in product(*(axes[name] for name in slow_first))]
    return [{name: point[name] for name in axes} for point in found]


def _named(grid: object) -> dict[str, object] | None:
    """ "a=0:1:3, b=1, 2" as a table; None for a grid without names.

    >>> _named("lambda=0, 1; density=0.5"), _named("0, 1")
    ({'lam': '0, 1', 'density': '0.5'}, None)
    """
    if isinstance(grid, Mapping):
        return {ALIASES.get(str(name), str(name)): values for name, values in grid.items()}
    if not isinstance(grid, str) or "=" not in grid:
        return None
    found: dict[str, object] = {}
    for part in re.split(r"[,;]\s*(?=[^\W\d]\w*\s*=)", grid):
        name, equals, values = (piece.strip() for piece in part.partition("="))
        name = ALIASES.get(name, name)
        if not equals or not name or name in found:
            remedy = "For example lam=0:1:6, density=0.1:0.9:3."
            raise UserError("grid", got=grid, allowed="name=values, each name once", remedy=remedy)
        found[name] = values.rstrip(",; ")
    return found


def numbers_of(method: Plugin) -> list[str]:
    """The parameters of a method that a sweep may turn."""
    return [one.name for one in method.parameters if one.kind in ("float", "int") and not one.several]


def _range_of(parameter: Parameter, count: int) -> str:
    """A parameter's range in `count` steps: equal ones, or equal ratios where its default is tiny against the range.

    What a step does then depends on the models' size and how far fine-tuning moved them, by orders of magnitude; so
    they go from a tenth of the default to the end of the range, after 0 where that is in it.

    >>> _range_of(Parameter("t", "float", 0.001, required=False, low=0, high=1), 11)
    '0, 0.0001, 0.0003, 0.0008, 0.002, 0.006, 0.02, 0.05, 0.1, 0.4, 1'
    >>> _range_of(Parameter("share", "float", 0.5, required=False, low=0.001, high=1), 3)
    '0.1:0.9:3'
    >>> _range_of(Parameter("layers", "int", 4, required=False, low=1, high=9), 3)
    '1:9:3'
    """
    low, high = parameter.low or 0, 1 if parameter.high is None else parameter.high
    default = parameter.default if isinstance(parameter.default, (int, float)) else 0
    if parameter.kind == "float" and 0 < default <= TINY * high:
        zero = ["0"] if low <= 0 else []
        first, steps = max(low, default / 10), count - len(zero)
        ratios = (first * (high / first) ** (step / (steps - 1)) for step in range(steps))
        return ", ".join([*zero, *(f"{min(high, float(f'{value:.1g}')):g}" for value in ratios)])
    if parameter.kind == "float" and 0 < low <= TINY and high == 1:
        low, high = 0.1, 0.9  # a share: its very ends say little
    return f"{low:g}:{high:g}:{count}"


def _knob(method: Plugin, name: str) -> Parameter:
    found = next((one for one in method.parameters if one.name == name), None)
    if found is None and name == method.facts["knob"]:
        remedy = "Merge it once, or choose another method."
        raise UserError("method", problem=f"{method.name} has no number to sweep", remedy=remedy)
    if found is None:
        raise unknown_name("grid", name, numbers_of(method))
    if name not in numbers_of(method):
        remedy = f"Sweep one of {', '.join(numbers_of(method))}."
        raise UserError("grid", problem=f"{name} of {method.name} is no number", remedy=remedy)
    return found


def _check(value: float, knob: Parameter) -> None:
    """A value of a grid inside its knob's range, named as the grid's."""
    low, high = knob.limits[0] or 0.0, 1.0 if knob.limits[1] is None else knob.limits[1]
    whole = knob.kind == "int"
    if not low <= value <= high or (whole and value != int(value)):
        lam = knob.name == "lam"
        ends = "λ = 0 is aligned and λ = 1 fine-tuned." if lam else f"They are values of {knob.name}."
        allowed = f"{'whole ' if whole else ''}numbers from {low:g} to {high:g}"
        raise UserError("grid", got=value, allowed=allowed, remedy=ends)
