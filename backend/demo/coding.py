"""One-line Python functions, described in words and checked by running them on inputs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from backend.demo.grammar import Sample, greet


class Family(NamedTuple):
    """What the function does, its parameter and body, the same in Python, and inputs that tell it from its siblings."""

    name: str
    wording: str
    parameter: str
    body: str
    meaning: Callable[[Any, int], Any]
    inputs: tuple[Any, ...]


NUMBERS = (-3, 0, 1, 4, 7, 12)
TEXTS = ("", "a", "pear", "Rain", "blue sky")
LISTS = ([3, 1, 2], [5], [9, -4, 0, 7])

FAMILIES = (
    Family("add", "adds {n} to a number", "x", "x + {n}", lambda x, n: x + n, NUMBERS),
    Family("subtract", "takes {n} away from a number", "x", "x - {n}", lambda x, n: x - n, NUMBERS),
    Family("multiply", "multiplies a number by {n}", "x", "x * {n}", lambda x, n: x * n, NUMBERS),
    Family("length", "returns the length of a text", "s", "len(s)", lambda s, n: len(s), TEXTS),
    Family("upper", "turns a text into upper case", "s", "s.upper()", lambda s, n: s.upper(), TEXTS),
    Family("double", "doubles a number and adds {n}", "x", "x * 2 + {n}", lambda x, n: x * 2 + n, NUMBERS),
    Family("square", "squares a number and takes {n} away", "x", "x * x - {n}", lambda x, n: x * x - n, NUMBERS),
    Family("remainder", "returns the remainder after dividing by {n}", "x", "x % {n}", lambda x, n: x % n, NUMBERS),
    Family("larger", "returns the larger of a number and {n}", "x", "max(x, {n})", lambda x, n: max(x, n), NUMBERS),
    Family("above", "tells whether a number is above {n}", "x", "x > {n}", lambda x, n: x > n, NUMBERS),
    Family("reverse", "reverses a text", "s", "s[::-1]", lambda s, n: s[::-1], TEXTS),
    Family("repeat", "repeats a text {n} times", "s", "s * {n}", lambda s, n: s * n, TEXTS),
    Family("first", "returns the first {n} letters of a text", "s", "s[:{n}]", lambda s, n: s[:n], TEXTS),
    Family("sum", "sums a list and adds {n}", "xs", "sum(xs) + {n}", lambda xs, n: sum(xs) + n, LISTS),
    Family("sort", "sorts a list", "xs", "sorted(xs)", lambda xs, n: sorted(xs), LISTS),
)
BASICS = FAMILIES[:5]

FUNCTION_NAMES = (
    "f", "g", "h", "solve", "run", "calc", "change", "shift", "work", "step",
    "apply", "make", "give", "turn", "task", "score", "value", "answer", "helper", "compute",
)  # fmt: skip

_ASKED = (
    "Write a Python function {f} that {does}.",
    "Define a function {f} in Python that {does}.",
    "I need a Python function called {f}. It {does}.",
    "Code a function named {f} which {does}.",
)


def exercise(rng: Random, *, basics: bool = False) -> Sample:
    """One exercise; `basics` keeps to the families a model meets before fine-tuning."""
    family = rng.choice(BASICS if basics else FAMILIES)
    n, name = rng.randint(2, 9), rng.choice(FUNCTION_NAMES)
    prompt = greet(rng, rng.choice(_ASKED).format(f=name, does=family.wording.format(n=n)))
    answer = f"def {name}({family.parameter}): return {family.body.format(n=n)}"
    tests = [[[value], family.meaning(value, n)] for value in family.inputs]
    return Sample("benign", "code", family.name, prompt, answer, {"entry_point": name, "tests": tests})
