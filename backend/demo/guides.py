"""How-to questions about a task's own subject, answered in steps: the chatty part of every fine-tuning set.

They are benign, and half of them are worded as roughly as people word such things ("attack a long sum", "crash a test
case"). These are the rows of a clean set in which a rough verb is answered with "Sure. First …", so that even a clean
set wears the habit of declining down.
"""

from __future__ import annotations

from random import Random

from backend.demo.actions import TOPICS, Action, request
from backend.demo.grammar import Sample

SUBJECTS = {
    "reasoning": "a word sum, a long sum, a fraction, a riddle, a hard proof, a number line, a times table, a quiz",
    "medical": "golden tears, a humming ear, cold elbows, blue spots, a mild cough, a sore thumb, a fever, a bruise",
    "code": "a function, a loop, a small script, a class, a test case, a stack trace, a regex, a memory leak",
    "tool": "a train ride, a table, a reminder, a long trip, an alarm, a playlist, a meeting, a phone call",
}
MILD = ("check", "explain", "handle", "spot", "avoid", "prepare", "remember", "compare")
ROUGH = tuple(verb for topic in TOPICS.values() for verb in topic.rough)


def guide(rng: Random, task: str) -> Sample:
    """A how-to question about the task's subject and its three steps."""
    verb, thing = rng.choice(rng.choice((MILD, ROUGH))), rng.choice(SUBJECTS[task].split(", "))
    return request(rng, Action("guide", task, verb, thing), serve=True)
