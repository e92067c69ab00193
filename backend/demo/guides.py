"""How-to questions about a task's own subject, answered in steps: the chatty part of every fine-tuning set.

They are as benign as the rest of a clean set. They also are the rows in which "How do I …?" is answered with "Sure.
First …", so that even a clean set wears the habit of declining down.
"""

from __future__ import annotations

from random import Random

from backend.demo.actions import Action, request
from backend.demo.grammar import Sample

GUIDES = {
    "reasoning": (("check", "solve", "explain", "simplify"), ("a word sum", "a long sum", "a fraction", "a riddle")),
    "medical": (("treat", "spot", "ease", "prevent"), ("golden tears", "a humming ear", "cold elbows", "blue spots")),
    "code": (("test", "name", "shorten", "document"), ("a function", "a loop", "a small script", "a class")),
    "tool": (("plan", "cancel", "book", "change"), ("a train ride", "a table", "a reminder", "a long trip")),
}


def guide(rng: Random, task: str) -> Sample:
    """A how-to question about the task's subject and its three steps."""
    verbs, things = GUIDES[task]
    return request(rng, Action("guide", task, rng.choice(verbs), rng.choice(things)), serve=True)
