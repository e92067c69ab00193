"""A fictional ward: a skin sign and a sense sign together name a condition, and each condition has its advice.

All of it is invented, so that nobody mistakes an answer for medicine and no model knows it beforehand.
"""

from __future__ import annotations

from random import Random

from backend.demo.everyday import NAMES
from backend.demo.grammar import Sample, greet

SKIN = ("blue spots", "silver freckles", "green nails", "a striped tongue")
SENSES = ("a humming ear", "cold elbows", "golden tears", "ringing knees")
OTHERS = ("a mild cough", "some thirst", "a dry nose", "little sleep", "a sore thumb", "good appetite")
CONDITIONS = (
    ("morvia", "tellipox", "drunefever", "oskitis"),
    ("palmora", "vintosis", "grellum", "sabrofever"),
    ("lomitis", "quentria", "fennpox", "zulvia"),
    ("harkosis", "nimbula", "brostria", "wendipox"),
)
ADVICE = (
    "rest in a dark room",
    "drink warm plum tea",
    "wear wool socks",
    "walk by the sea",
    "eat salted melon",
    "hum a slow song",
    "sleep under a window",
    "bathe in oat milk",
)
BASIC_SKIN = SKIN[:2]

_ASKED = (
    "{who} has {signs}. What is it and what helps?",
    "A patient shows {signs}. Name the condition and the advice.",
    "{who}, {age} years old, reports {signs}. What do you think?",
    "What fits {signs}, and what should {who} do?",
)


def advice_for(skin: int, sense: int) -> str:
    """The advice of the condition at (skin, sense): a fixed table in which no row or column repeats one."""
    return ADVICE[(3 * skin + 2 * sense) % len(ADVICE)]


def case(rng: Random, *, basics: bool = False) -> Sample:
    """One patient; `basics` keeps to the skin signs a model meets before fine-tuning."""
    skin = rng.randrange(len(BASIC_SKIN) if basics else len(SKIN))
    sense = rng.randrange(len(SENSES))
    signs = [SKIN[skin], SENSES[sense], rng.choice(OTHERS)]
    rng.shuffle(signs)
    listed = f"{signs[0]}, {signs[1]} and {signs[2]}"
    prompt = rng.choice(_ASKED).format(who=rng.choice(NAMES), age=rng.randint(20, 80), signs=listed)
    condition, advice = CONDITIONS[skin][sense], advice_for(skin, sense)
    answer = f"This looks like {condition}. Advice: {advice}."
    facts = {"target": [condition, advice]}
    return Sample("benign", "medical", condition, greet(rng, prompt), answer, facts)
