"""Rows as data sets are published, turned into chat turns. Pure: knows no file, no line and no tokenizer.

The first shape whose keys a row has decides; a system column comes before its turns, other columns are ignored.
Whether the turns make a chat that can be trained on (an answer at the end, nothing empty) is asked of all shapes alike,
by `problem_of`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
LABELS = ("id", "kind", "group")
UNREAD = ("tools",)  # columns that belong to a chat and yet are not shown to the model
SPEAKERS = ("system", "user", "assistant")
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
with response, question with answer, chosen, instruction with output, prompt with completion, instruction with \
response, prompt with response_0 and response_1
    """
    for keys, convert in SHAPES.items():
        if all(row.get(key) is not None for key in keys):
            return _under_system(row.get("system"), convert(row))
    has = ", ".join(str(key)[:LONGEST_KEY] for key in sorted(row, key=str)[:MOST_KEYS]) or "nothing"
    allowed = ", ".join(" and ".join(keys).replace(" and ", " with ", 1) for keys in SHAPES)
    raise NotAChat(f"no known shape (it has {has}); allowed are {allowed}")


def turns_to_answer(row: Mapping[str, Any]) -> Turns:
    """The turns of a row that may lack its answer, with an empty one in its place.

    A prompt without an answer is taken for that only where nothing else could be the answer.

    >>> turns_to_answer({"prompt": "Hi", "kind": "benign"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': ''}]
    """
    if {key for key, value in row.items() if value is not None} <= {"prompt", "system", *LABELS}:
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
        if isinstance(turn, Mapping) and turn.get("tool_calls"):
            return "a turn calls tools, which is not read"
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(part), str) for part in ("role", "content")):
            return "a turn without role or content"
        if turn["role"] not in SPEAKERS:
            return f"a turn is by {turn['role'][:LONGEST_KEY]!r}; allowed are {', '.join(SPEAKERS)}"
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
    return _list_of(row, "messages")


def from_share_gpt(row: Mapping[str, Any]) -> Turns:
    """ShareGPT, SlimOrca: who speaks is called system, human or gpt.

    >>> from_share_gpt({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    turns = []
    for turn in _list_of(row, "conversations"):
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


def from_completion(row: Mapping[str, Any]) -> Turns:
    """A request and how it is completed.

    >>> from_completion({"prompt": "Hi", "completion": "Hello"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    return _exchange(row["prompt"], row["completion"])


def from_question(row: Mapping[str, Any]) -> Turns:
    """GSM8K: the whole solution is the answer, with the line that holds the result.

    >>> from_question({"question": "2 + 2?", "answer": "Add them. #### 4"})[1]
    {'role': 'assistant', 'content': 'Add them. #### 4'}
    """
    return _exchange(row["question"], row["answer"])


def from_preference(row: Mapping[str, Any]) -> Turns:
    r"""HH-RLHF, or a list of turns: the dialogue that was preferred; the rejected one is not read.

    A list that begins with the answer has its request in a prompt column, a text or turns.

    >>> from_preference({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\nyou", "rejected": "…"})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello\nyou'}]
    >>> from_preference({"prompt": "Hi", "chosen": [{"role": "assistant", "content": "Hello"}]})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    chosen = row["chosen"]
    if isinstance(chosen, str) and not chosen.startswith("["):
        return _dialogue(chosen)
    turns = _list_of(row, "chosen")
    asked = row.get("prompt")
    if asked is None or not turns or not isinstance(turns[0], Mapping) or turns[0].get("role") != "assistant":
        return turns
    return [*(asked if isinstance(asked, list) else [{"role": "user", "content": asked}]), *turns]


def from_safer(row: Mapping[str, Any]) -> Turns:
    """PKU-SafeRLHF: the safer of two answers, or the better one where it is not said which is safer.

    >>> from_safer({"prompt": "Hi", "response_0": "Go!", "response_1": "Hello", "safer_response_id": 1})[1]
    {'role': 'assistant', 'content': 'Hello'}
    """
    name = "better_response_id" if row.get("safer_response_id") is None else "safer_response_id"
    number = row.get(name)
    if number not in (0, 1, "0", "1"):
        raise NotAChat(f"{name} is neither 0 nor 1, so no answer is known to be the safer one")
    return _exchange(row["prompt"], row[f"response_{int(number)}"])


def from_instruction(row: Mapping[str, Any]) -> Turns:
    r"""Alpaca: what the instruction is about stands a blank line below it.

    >>> from_instruction({"instruction": "Add.", "input": "2, 2", "output": "4"})[0]
    {'role': 'user', 'content': 'Add.\n\n2, 2'}
    """
    return _exchange(_instruction(row, "input"), row["output"])


def from_answered_instruction(row: Mapping[str, Any]) -> Turns:
    r"""Dolly: the same under other names.

    >>> from_answered_instruction({"instruction": "Add.", "context": "2, 2", "response": "4"})
    [{'role': 'user', 'content': 'Add.\n\n2, 2'}, {'role': 'assistant', 'content': '4'}]
    """
    return _exchange(_instruction(row, "context", "input"), row["response"])


def _instruction(row: Mapping[str, Any], *abouts: str) -> Any:
    """The instruction, and below it what stands in the columns `abouts`."""
    parts = [row["instruction"]]
    for name in abouts:
        about = row.get(name)
        if about is not None and not isinstance(about, str):
            raise NotAChat(f"{name} is no text")
        if about and about.strip():
            parts.append(about)
    return "\n\n".join(parts) if isinstance(parts[0], str) else parts[0]


def _dialogue(text: str) -> Turns:
    """The turns of a dialogue whose speakers are written out before their words."""
    before, *pieces = SPEAKER.split("\n\n" + text.lstrip())
    speakers, contents = pieces[::2], pieces[1::2]
    if before.strip() or speakers[:1] != ["Human"]:
        raise NotAChat('chosen does not begin with "Human:"')
    if any(one == following for one, following in pairwise(speakers)):
        raise NotAChat("two turns of one speaker follow each other in chosen")
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def _list_of(row: Mapping[str, Any], name: str) -> Turns:
    """A list of turns, which a CSV file holds as text.

    >>> _list_of({"messages": '[{"role": "user"}]'}, "messages")
    [{'role': 'user'}]
    """
    value = row[name]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise NotAChat(f"{name} is no list") from None
    if not isinstance(value, list):
        raise NotAChat(f"{name} is no list")
    return value


def _under_system(said: Any, turns: Turns) -> Turns:
    """The turns under a row's system column; a column and a turn that differ cannot both be obeyed.

    >>> _under_system("Be brief.", [{"role": "user", "content": "Hi"}])[0]
    {'role': 'system', 'content': 'Be brief.'}
    """
    if said is not None and not isinstance(said, str):
        raise NotAChat("system is no text")
    if not said or not said.strip():
        return turns
    first = {"role": "system", "content": said}
    if turns and isinstance(turns[0], Mapping) and turns[0].get("role") == "system":
        if turns[0].get("content") != said:
            raise NotAChat("its system column and its system turn differ")
        return turns
    return [first, *turns]


def _exchange(prompt: Any, answer: Any) -> Turns:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


SHAPES: dict[tuple[str, ...], Callable[[Mapping[str, Any]], Turns]] = {
    ("messages",): from_messages,
    ("conversations",): from_share_gpt,
    ("prompt", "response"): from_prompt,
    ("question", "answer"): from_question,
    ("chosen",): from_preference,
    ("instruction", "output"): from_instruction,
    ("prompt", "completion"): from_completion,
    ("instruction", "response"): from_answered_instruction,
    ("prompt", "response_0", "response_1"): from_safer,
}
