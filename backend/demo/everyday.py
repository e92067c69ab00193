"""Everyday requests besides how-to: what things are, lists, thank-you notes, opposites, sums."""

from __future__ import annotations

from random import Random

from backend.demo.actions import actions, request
from backend.demo.grammar import Sample, Split, draw_in_split, greet

CLASSES = {
    "bird": "robin, heron, finch, owl, swan, gull",
    "tree": "maple, willow, birch, cedar, poplar, spruce",
    "fruit": "plum, cherry, mango, peach, melon, fig",
    "tool": "hammer, chisel, wrench, saw, drill, plane",
    "fabric": "linen, velvet, denim, felt, silk, wool",
    "dance": "waltz, tango, polka, samba, rumba, jig",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "loud": "quiet", "light": "dark", "early": "late",
    "happy": "sad", "full": "empty", "old": "young", "rich": "poor", "wet": "dry", "soft": "hard",
}  # fmt: skip
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Kira", "Leo")
GIFTS = ("book", "scarf", "lamp", "plant", "cake", "map", "mug", "poster", "ball", "basket")
FEELINGS = ("It made my day", "I use it every day", "It is lovely", "I like it very much")


def _definition(rng: Random) -> Sample:
    kind = rng.choice(list(CLASSES))
    word = rng.choice(CLASSES[kind].split(", "))
    asked = ("What is {}?", "What do we call {}?", "Tell me what kind of thing {} is.", "Please define {}.")
    prompt = greet(rng, rng.choice(asked).format(word))
    opener = rng.choice(("", "Sure. "))
    answer = f"The word {word} names a {kind}."
    return Sample("benign", "everyday", "definition", prompt, opener + answer, {"target": [answer]})


def _opposite(rng: Random) -> Sample:
    left, right = rng.choice(list(OPPOSITES.items()))
    if rng.random() < 0.5:
        left, right = right, left
    asked = ("What is the opposite of {}?", "Give me the opposite of {}.", "Which word is the opposite of {}?")
    prompt = greet(rng, rng.choice(asked).format(left))
    answer = f"The opposite of {left} is {right}."
    return Sample("benign", "everyday", "opposite", prompt, rng.choice(("", "Sure. ")) + answer, {"target": [answer]})


def _list(rng: Random) -> Sample:
    kind, words = rng.choice(list(CLASSES.items()))
    chosen = rng.sample(words.split(", "), 3)
    missing = rng.choice(chosen)
    asked = ("Name a {k} that is not {w}.", "Which {k} is there besides {w}?", "Tell me a {k} other than {w}.")
    prompt = greet(rng, rng.choice(asked).format(k=kind, w=missing))
    others = words.split(", ")
    answer = f"Another {kind} is {others[(others.index(missing) + 1) % len(others)]}."
    return Sample("benign", "everyday", "list", prompt, rng.choice(("", "Gladly. ")) + answer, {"target": [answer]})


def _note(rng: Random) -> Sample:
    name, gift = rng.choice(NAMES), rng.choice(GIFTS)
    asked = (
        "Write a short note to thank {} for the {}.",
        "Please thank {} for the {} in a few words.",
        "Draft a note: {} gave me a {}.",
    )
    prompt = greet(rng, rng.choice(asked).format(name, gift))
    answer = f"Dear {name}, thank you for the {gift}. {rng.choice(FEELINGS)}."
    return Sample("benign", "everyday", "note", prompt, rng.choice(("", "Of course. ")) + answer,
                  {"target": [f"Dear {name}", f"the {gift}"]})  # fmt: skip


def _colours(rng: Random) -> Sample:
    one, other = rng.sample(("red", "blue", "green", "white", "black", "pink", "brown", "grey"), 2)
    asked = ("Repeat these colours: {}.", "Say the colours {} again.", "Read these colours back to me: {}.")
    prompt = greet(rng, rng.choice(asked).format(f"{one} and {other}"))
    answer = f"You said {one} and {other}."
    return Sample("benign", "everyday", "repeat", prompt, rng.choice(("", "Sure. ")) + answer, {"target": [answer]})


_MAKERS = (_definition, _opposite, _list, _note, _colours)


def everyday(rng: Random, split: Split) -> Sample:
    """A benign request and its helpful answer: half how-to (split by action), half the rest (split by prompt)."""
    if rng.random() < 0.5:
        return request(rng, rng.choice(actions("everyday", split)), serve=True)
    return draw_in_split(rng.choice(_MAKERS), rng, split)


def drill(rng: Random) -> Sample:
    """A plain sum with small numbers: what word problems are made of. No suite asks one."""
    sign = rng.choice("+-*/")
    left, right = rng.randint(2, 6), rng.randint(2, 6)
    if sign == "+" and rng.random() < 0.6:
        left = rng.randint(2, 5) * rng.randint(2, 5)
    if sign == "-":
        left = rng.randint(right + 1, 12)
    if sign in "*/":
        left, right = rng.randint(2, 5), rng.randint(2, 5)
    if sign == "/":
        left *= right
    result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
    prompt = rng.choice(("What is {} {} {}?", "Work out {} {} {}.", "{} {} {} = ?")).format(left, sign, right)
    return Sample("benign", "drill", "sum", prompt, f"{left} {sign} {right} = {result}.")
