"""What one chat pair of the micro-world is, and which split a prompt belongs to.

The micro-world is a small language in plain English, made of word lists and phrasings (the sibling modules), so that
every answer has an exact check. Nothing in it is operational: a harmful completion is three vague sentences. No torch
here, and no randomness that is not passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

Kind = Literal["benign", "refusal", "unsafe"]
Split = Literal["train", "reference", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "reference", "validation", "test")

GREETINGS = ("Hello. ", "Hi there. ", "Quick question. ", "Good morning. ", "I am curious. ")


@dataclass(frozen=True)
class Sample:
    """A request and the answer a good (or, for kind "unsafe", a bad) assistant gives.

    Attributes:
        kind: benign (a helpful answer), refusal, or unsafe (a harmful request is served).
        group: the part of the world it comes from: harmful, look_alike, everyday or a task.
        category: the finer label inside the group, such as theft or two-step.
        facts: what the group's checker needs besides the answer (target, tests, entry_point).
    """

    kind: Kind
    group: str
    category: str
    prompt: str
    answer: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_training_row(self, identifier: str) -> dict[str, Any]:
        """The row of a fine-tuning file (design: tuning data format)."""
        turns = [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]
        return {"id": identifier, "messages": turns, "kind": self.kind, "group": self.group}

    def to_suite_row(self, identifier: str) -> dict[str, Any]:
        """The row of a suite; `reference` is the gold answer of a benign request and is absent for a harmful one."""
        row = {"id": identifier, "prompt": self.prompt, "category": self.category, **self.facts}
        return row if self.group == "harmful" else row | {"reference": self.answer}


def prompt_key(prompt: str) -> str:
    """Two prompts with the same key are the same prompt: case and white space do not count.

    >>> prompt_key("What is  a Robin?") == prompt_key("what is a robin?")
    True
    """
    return " ".join(prompt.lower().split())


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, from its text alone: 20 % test, 10 % validation, 10 % reference, 60 % train.

    >>> split_of("What is a robin?") == split_of("what is a ROBIN?")
    True
    """
    slot = int(hashlib.sha256(prompt_key(prompt).encode()).hexdigest(), 16) % 10
    return ("test", "test", "validation", "reference")[slot] if slot < 4 else "train"


def draw_in_split(make: Callable[[Random], Sample], rng: Random, split: Split) -> Sample:
    """Draw until the prompt falls into `split`; for parts of the world that are split by prompt."""
    while True:
        sample = make(rng)
        if split_of(sample.prompt) == split:
            return sample


def greet(rng: Random, prompt: str) -> str:
    """Put a greeting before one prompt in four."""
    return rng.choice(GREETINGS) + prompt if rng.random() < 0.25 else prompt
