"""Chat rows of a file, checked line by line. No torch and no tokenizer, so that a request is refused before it runs.

A row has one of the shapes of `shapes.py`; optional are system, id, kind (benign, refusal, unsafe) and group. The file
is of one of the kinds of `tables.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backend.errors import UserError
from backend.tuning.balance import KINDS
from backend.tuning.shapes import LABELS, UNREAD, NotAChat, problem_of, turns_of, turns_to_answer
from backend.tuning.tables import MOST_BYTES, Broken, numbered_rows

MOST_BAD = 0.01
MOST_LISTED = 5
LONGEST_KIND = 40
ID_DIGITS = 8


class Skipped(NamedTuple):
    """A row that is not used: its line in the file (1 is the first) and why."""

    line: int
    reason: str


class Row(NamedTuple):
    """A chat whose last turn is the answer to learn; it is empty where the start model is to give it.

    Its kind is written without capitals.
    """

    line: int
    id: str
    messages: tuple[dict[str, str], ...]
    kind: str = ""
    group: str = ""
    unread: tuple[str, ...] = ()  # columns of the row that are not used, see `shapes.UNREAD`

    @property
    def key(self) -> str:
        """What the answer responds to, system turns included; see `prompt_key`."""
        return prompt_key(turn["content"] for turn in self.messages[:-1])

    @property
    def request(self) -> str:
        """What is asked, whatever the system turn; see `request_key`."""
        return request_key((turn["role"], turn["content"]) for turn in self.messages[:-1])

    @property
    def is_answered(self) -> bool:
        return bool(self.messages[-1]["content"].strip())

    @property
    def text(self) -> dict[str, str]:
        """What a reader sees of it."""
        return {"text": self.messages[-2]["content"], "answer": self.messages[-1]["content"]}


def prompt_key(contents: Iterable[str]) -> str:
    """SHA-1 of the messages before the answer, white space and case levelled: the same prompt has the same key.

    >>> prompt_key(["How  are you?"]) == prompt_key(["how are YOU?"])
    True
    """
    text = "\0".join(" ".join(content.split()).lower() for content in contents)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def request_key(turns: Iterable[tuple[str, str]]) -> str:
    """The `prompt_key` without system turns: an evaluation's prompt under another system turn is still its prompt.

    Args:
        turns: role and content of each message before the answer; where all are system turns, all count.

    >>> request_key([("system", "Be brief."), ("user", "Hi")]) == prompt_key(["Hi"])
    True
    """
    given = list(turns)
    return prompt_key([content for role, content in given if role != "system"] or [content for _, content in given])


def read_chat_file(
    path: Path, *, field: str, prompts: bool = False, most_bytes: int = MOST_BYTES
) -> tuple[list[Row], list[Skipped]]:
    """Every row of a file; what is broken is listed, not dropped in silence.

    Args:
        field: whom an error is about.
        prompts: take prompts without an answer too, as rows with an empty one.
        most_bytes: of the unpacked content.

    Raises:
        UserError: the file cannot be read, unpacks to more than `most_bytes`, holds no rows, or more than 1 % of its
            rows are broken.
    """
    found: list[Row] = []
    skipped: list[Skipped] = []
    for line, given in numbered_rows(path, field=field, most_bytes=most_bytes):
        row = _row(line, given, prompts)
        (found if isinstance(row, Row) else skipped).append(row)  # type: ignore[arg-type]
    if not found and not skipped:
        raise UserError(field, problem=f"{path.name} holds no rows", remedy='Add lines like {"prompt", "response"}.')
    refuse_many(skipped, len(found) + len(skipped), field, path.name)
    return _with_own_ids(found), skipped


def refuse_many(skipped: Sequence[Skipped], total: int, field: str, name: str) -> None:
    """Refuse a file of which more than 1 % cannot be used; lines are named by reason."""
    if len(skipped) > MOST_BAD * total:
        problem = f"{len(skipped)} of {total} rows of {name} cannot be used: {listed(skipped)}"
        raise UserError(field, problem=problem, remedy="Mend or remove them.")


def listed(skipped: Sequence[Skipped]) -> str:
    """The first lines of each reason, as a sentence's end.

    >>> listed([Skipped(4, "not JSON"), Skipped(5, "the answer is empty"), Skipped(9, "not JSON")])
    'lines 4, 9: not JSON; line 5: the answer is empty'
    """
    lines: dict[str, list[int]] = {}
    for one in skipped:
        lines.setdefault(one.reason, []).append(one.line)
    parts = []
    for reason, numbers in list(lines.items())[:MOST_LISTED]:
        more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
        named = ", ".join(map(str, numbers[:MOST_LISTED]))
        parts.append(f"line{'s' * (len(numbers) > 1)} {named}{more}: {reason}")
    others = sum(map(len, list(lines.values())[MOST_LISTED:]))
    return "; ".join(parts) + (f"; and {others} more" if others else "")


def counted(rows: int) -> str:
    """A number of rows in words.

    >>> counted(1), counted(2)
    ('1 row', '2 rows')
    """
    return f"{rows} row{'s' * (rows != 1)}"


def remarks(rows: Sequence[Row], what: str) -> list[str]:
    """What a reader should know of rows that are used: columns that are not read, and kinds that nobody knows.

    Args:
        what: whose rows, in words.

    >>> remarks([Row(1, "", (), kind="harmful", unread=("tools",))], "task data")[0]
    '1 row of the task data has tools, which are not shown to the model.'
    """
    columns = Counter(name for row in rows for name in row.unread)
    kinds = Counter(row.kind for row in rows if row.kind and row.kind not in KINDS)
    told = [
        f"{counted(count)} of the {what} {'has' if count == 1 else 'have'} {name}, which are not shown to the model."
        for name, count in columns.items()
    ]
    if kinds:
        listed = [f"{kind[:LONGEST_KIND]} ({counted(count)})" for kind, count in kinds.most_common(MOST_LISTED)]
        listed += [f"{len(kinds) - MOST_LISTED} more"] if len(kinds) > MOST_LISTED else []
        told.append(f"Kinds of the {what} that mean nothing here: {', '.join(listed)}; known are {', '.join(KINDS)}.")
    return told


def _row(line: int, given: Any, prompts: bool) -> Row | Skipped:
    if isinstance(given, Broken):
        return Skipped(line, given.reason)
    if not isinstance(given, Mapping):
        return Skipped(line, "not an object")
    try:
        messages = turns_to_answer(given) if prompts else turns_of(given)
    except NotAChat as reason:
        return Skipped(line, str(reason))
    if problem := problem_of(messages, answered=not prompts):
        return Skipped(line, problem)
    turns = tuple({"role": turn["role"], "content": turn["content"]} for turn in messages)
    labels = {name: str(given.get(name) or "") for name in LABELS}
    labels["id"] = labels["id"] or _digest(turns)[:16]
    labels["kind"] = labels["kind"].strip().lower()
    return Row(line, messages=turns, **labels, unread=tuple(name for name in UNREAD if given.get(name)))


def _digest(turns: tuple[dict[str, str], ...]) -> str:
    return hashlib.sha1(json.dumps(turns).encode(), usedforsecurity=False).hexdigest()


def _with_own_ids(rows: Sequence[Row]) -> list[Row]:
    """Ids that stand for different chats get a hash of the chat behind, whatever their order; equal chats keep theirs.

    >>> first, second = (Row(line, "a", ({"role": "user", "content": text},)) for line, text in enumerate("xy", 1))
    >>> [row.id for row in _with_own_ids([first, second, first])]
    ['a#2db245e5', 'a#5498386b', 'a#2db245e5']
    """
    owners: dict[str, tuple[dict[str, str], ...]] = {}
    shared = {row.id for row in rows if owners.setdefault(row.id, row.messages) != row.messages}
    return [
        row._replace(id=f"{row.id}#{_digest(row.messages)[:ID_DIGITS]}") if row.id in shared else row for row in rows
    ]
