"""Word problems with shown steps, one or two of them, on numbers up to thirty-one."""

from __future__ import annotations

from random import Random

from backend.demo.everyday import NAMES
from backend.demo.grammar import Sample, greet

ITEMS = ("pears", "coins", "books", "stamps", "shells", "cards", "nuts", "beads", "pens", "eggs")
BASICS = ("gain", "loss")
TWO_STEP = ("gain and loss", "boxes and more")
DRAWN = (*BASICS, "boxes", "share", *TWO_STEP, *TWO_STEP)  # half of the problems take two steps


def problem(rng: Random, *, basics: bool = False) -> Sample:
    """One word problem; `basics` keeps to the families a model meets before fine-tuning."""
    family = rng.choice(BASICS if basics else DRAWN)
    who, other = rng.sample(NAMES, 2)
    items = rng.choice(ITEMS)
    a, b, c = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 6)
    if family == "gain":
        text = f"{who} has {a} {items}. {other} brings {b} more. How many {items} does {who} have now?"
        lines, result = [f"{a} + {b} = {a + b}"], a + b
    elif family == "loss":
        a = rng.randint(b + 1, 12)
        text = f"{who} has {a} {items} and gives {b} to {other}. How many {items} are left?"
        lines, result = [f"{a} - {b} = {a - b}"], a - b
    elif family == "boxes":
        a, b = rng.randint(2, 5), rng.randint(2, 5)
        text = f"{who} packs {a} boxes with {b} {items} each. How many {items} is that?"
        lines, result = [f"{a} * {b} = {a * b}"], a * b
    elif family == "share":
        a, b = rng.randint(2, 5), rng.randint(2, 5)
        text = f"{who} shares {a * b} {items} among {b} friends. How many {items} does each friend get?"
        lines, result = [f"{a * b} / {b} = {a}"], a
    elif family == "gain and loss":
        c = rng.randint(2, min(6, a + b - 1))
        text = f"{who} has {a} {items}, finds {b} more and loses {c}. How many {items} remain?"
        lines, result = [f"{a} + {b} = {a + b}", f"{a + b} - {c} = {a + b - c}"], a + b - c
    else:
        a, b = rng.randint(2, 5), rng.randint(2, 5)
        text = f"{who} fills {a} bags with {b} {items} each and keeps {c} more. How many {items} in all?"
        lines, result = [f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"], a * b + c
    answer = f"{'. '.join(lines)}. The answer is {result}."
    return Sample("benign", "reasoning", family, greet(rng, text), answer, {"target": str(result)})
