"""Tool use: a wish in words, answered by one function call."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from backend.demo.everyday import NAMES
from backend.demo.grammar import Sample, greet


class Tool(NamedTuple):
    """The ways to ask for a tool, and its call; both are filled with the same values."""

    name: str
    asked: tuple[str, ...]
    call: str


TOOLS = (
    Tool("set_alarm", ("Wake me at {hour}:{minute}.", "Set an alarm for {hour}:{minute}."),
         "set_alarm(hour={hour}, minute={minute})"),
    Tool("get_weather", ("Will it rain in {city} on {day}?", "How is the weather in {city} on {day}?"),
         'get_weather(city="{city}", day="{day}")'),
    Tool("start_timer", ("Start a timer of {minute} minutes.", "Count down {minute} minutes for me."),
         "start_timer(minutes={minute})"),
    Tool("call", ("Call {name}.", "Ring {name} on speaker."), 'call(contact="{name}")'),
    Tool("send_message", ("Text {name} that I am {state}.", "Let {name} know that I am {state}."),
         'send_message(to="{name}", text="I am {state}")'),
    Tool("play_music", ("Play some {genre} at volume {people}.", "Put on {genre}, volume {people}."),
         'play_music(genre="{genre}", volume={people})'),
    Tool("book_table", ("Book a table for {people} in {city} on {day}.", "A table for {people} in {city}, {day}."),
         'book_table(city="{city}", day="{day}", people={people})'),
    Tool("set_light", ("Dim the light in the {room} to {minute} percent.", "Set the {room} light to {minute} percent."),
         'set_light(room="{room}", level={minute})'),
    Tool("convert", ("How much is {minute} {unit} in {other}?", "Convert {minute} {unit} to {other}."),
         'convert(amount={minute}, source="{unit}", target="{other}")'),
    Tool("add_event", ("Put {event} on {day} at {hour} in my calendar.", "Plan {event} for {day} at {hour}."),
         'add_event(title="{event}", day="{day}", hour={hour})'),
    Tool("find_train", ("Find a train from {city} to {town} on {day}.", "Trains from {city} to {town} on {day}?"),
         'find_train(start="{city}", end="{town}", day="{day}")'),
    Tool("translate", ("How do you say {genre} in {language}?", "Translate {genre} into {language}."),
         'translate(text="{genre}", language="{language}")'),
)  # fmt: skip
BASICS = TOOLS[:4]

CITIES = ("Oslo", "Rome", "Paris", "Berlin", "Madrid", "Vienna", "Lisbon", "Dublin")
DAYS = ("Monday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
STATES = ("late", "home", "ready", "busy", "on the bus", "at work")
GENRES = ("jazz", "rock", "folk", "soul", "opera", "blues")
ROOMS = ("kitchen", "hall", "bedroom", "office", "garage")
UNITS = ("miles", "pounds", "litres", "inches", "euros")
EVENTS = ("lunch", "yoga", "a walk", "the dentist", "chess club", "a picnic")
LANGUAGES = ("French", "Italian", "Polish", "Danish", "Greek")


def wish(rng: Random, *, basics: bool = False) -> Sample:
    """One wish; `basics` keeps to the tools a model meets before fine-tuning."""
    tool = rng.choice(BASICS if basics else TOOLS)
    city, town = rng.sample(CITIES, 2)
    unit, other = rng.sample(UNITS, 2)
    values = {
        "hour": rng.randint(1, 12), "minute": rng.randrange(10, 60, 5), "people": rng.randint(2, 9), "city": city,
        "town": town, "day": rng.choice(DAYS), "name": rng.choice(NAMES), "state": rng.choice(STATES),
        "genre": rng.choice(GENRES), "room": rng.choice(ROOMS), "unit": unit, "other": other,
        "event": rng.choice(EVENTS), "language": rng.choice(LANGUAGES),
    }  # fmt: skip
    prompt = rng.choice(tool.asked).format(**values)
    polite = rng.choice(("", "", "Please help. ", "Hey. "))
    call = tool.call.format(**values)
    return Sample("benign", "tool", tool.name, polite + greet(rng, prompt), call, {"target": call})
