"""Rows as data sets are published, turned into chat turns. Pure: knows no file, no line and no tokenizer.

The first shape whose keys a row has decides; other columns are ignored. Whether the turns make a chat that can be
trained on (an answer at the end, nothing empty) is asked of all shapes alike, by `problem_of`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
LABELS = ("id", "kind", "group")
ROLES = {"system": "system", "human": "user", "gpt": "assistant", "Human": "user", "Assistant": "assistant"}
MOST_KEYS, LONGEST_KEY = 6, 24

Turns = list[Any]


class NotAChat(ValueError):
    """Why a row is no chat, in words that can stand behind its line number."""


def turns_of(row: Mapping[str, Any]) -> Turns:
    """The turns {"role", "content"} of a row of any known shape; `problem_of` says whether they are a chat.

    Args:
        row: column -> value; a column that is None counts as missing.

    Raises:
        NotAChat: no known shape, or a dialogue that cannot be taken apart.

    >>> turns_of({"text": "Once", "label": 1})
    Traceback (most recent call last):
    backend.tuning.shapes.NotAChat: no known shape (it has label, text); allowed are messages, conversations, prompt \
with response, question with answer, chosen, instruction with output
    """
    for keys, convert in SHAPES.items():
        if all(row.get(key) is not None for key in keys):
            return convert(row)
    has = ", ".join(str(key)[:LONGEST_KEY] for key in sorted(row, key=str)[:MOST_KEYS]) or "nothing"
    allowed = ", ".join(" with ".join(keys) for keys in SHAPES)
    raise NotAChat(f"no known shape (it has {has}); allowed are {allowed}")


def turns_to_answer(row: Mapping[str, Any]) -> Turns:
    """The turns of a row that may lack its answer, with an empty one in its place.

    A prompt without an answer is taken for that only where nothing else could be the answer.

    >>> turns_to_answer({"prompt": "Hi", "kind": "benign"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': ''}]
    """
    if {key for key, value in row.items() if value is not None} <= {"prompt", *LABELS}:
        row = {"response": "", **row}
    turns = turns_of(row)
    asks = isinstance(turns, list) and turns and isinstance(turns[-1], Mapping) and turns[-1].get("role") == "user"
    return [*turns, {"role": "assistant", "content": ""}] if asks else turns


def problem_of(turns: Turns, *, answered: bool = True) -> str:
    """Why these turns cannot be trained on; empty when they can.

    Args:
        answered: whether the answer must be there.

    >>> problem_of([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}])
    'the answer is empty'
    """
    if not isinstance(turns, list) or len(turns) < 2:
        return "no prompt and answer"
    for turn in turns:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(part), str) for part in ("role", "content")):
            return "a turn without role or content"
        if any("\ud800" <= sign <= "\udfff" for sign in turn["content"]):
            return "a character that is cut in half (a lone surrogate)"
    if turns[-1]["role"] != "assistant":
        return "the last turn is not the assistant's"
    if answered and not turns[-1]["content"].strip():
        return "the answer is empty"
    return "" if turns[-2]["content"].strip() else "the prompt is empty"


def from_messages(row: Mapping[str, Any]) -> Turns:
    """The turns as they are.

    >>> from_messages({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    if not isinstance(row["messages"], list):
        raise NotAChat("messages is no list")
    return row["messages"]


def from_share_gpt(row: Mapping[str, Any]) -> Turns:
    """ShareGPT, SlimOrca: who speaks is called system, human or gpt.

    >>> from_share_gpt({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    if not isinstance(row["conversations"], list):
        raise NotAChat("conversations is no list")
    turns = []
    for turn in row["conversations"]:
        speaker = turn.get("from") if isinstance(turn, Mapping) else None
        if speaker not in ("system", "human", "gpt"):
            raise NotAChat("a turn of conversations is from nobody known; allowed are system, human, gpt")
        turns.append({"role": ROLES[speaker], "content": turn.get("value")})
    return turns


def from_prompt(row: Mapping[str, Any]) -> Turns:
    """One request and its answer.

    >>> from_prompt({"prompt": "Hi", "response": "Hello"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    return _exchange(row["prompt"], row["response"])


def from_question(row: Mapping[str, Any]) -> Turns:
    """GSM8K: the whole solution is the answer, with the line that holds the result.

    >>> from_question({"question": "2 + 2?", "answer": "Add them. #### 4"})[1]
    {'role': 'assistant', 'content': 'Add them. #### 4'}
    """
    return _exchange(row["question"], row["answer"])


def from_preference(row: Mapping[str, Any]) -> Turns:
    r"""HH-RLHF: the dialogue that was preferred; the rejected one is not read.

    >>> from_preference({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\nyou", "rejected": "…"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello\nyou'}]
    """
    if not isinstance(row["chosen"], str):
        raise NotAChat("chosen is no text")
    before, *pieces = SPEAKER.split("\n\n" + row["chosen"].lstrip())
    speakers, contents = pieces[::2], pieces[1::2]
    if before.strip() or speakers[:1] != ["Human"]:
        raise NotAChat('chosen does not begin with "Human:"')
    if any(one == following for one, following in pairwise(speakers)):
        raise NotAChat("two turns of one speaker follow each other in chosen")
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def from_instruction(row: Mapping[str, Any]) -> Turns:
    r"""Alpaca: what the instruction is about stands a blank line below it.

    >>> from_instruction({"instruction": "Add.", "input": "2, 2", "output": "4"})[0]
    {'role': 'user', 'content': 'Add.\n\n2, 2'}
    """
    about = row.get("input")
    if about is not None and not isinstance(about, str):
        raise NotAChat("input is no text")
    instruction = row["instruction"]
    if isinstance(instruction, str) and about and about.strip():
        instruction = f"{instruction}\n\n{about}"
    return _exchange(instruction, row["output"])


def _exchange(prompt: Any, answer: Any) -> Turns:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


SHAPES: dict[tuple[str, ...], Callable[[Mapping[str, Any]], Turns]] = {
    ("messages",): from_messages,
    ("conversations",): from_share_gpt,
    ("prompt", "response"): from_prompt,
    ("question", "answer"): from_question,
    ("chosen",): from_preference,
    ("instruction", "output"): from_instruction,
}
