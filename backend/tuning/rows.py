"""Chat rows of a file, checked line by line. No torch and no tokenizer, so that a request is refused before it runs.

A row is {"messages": [...]} with the answer last, or {"prompt", "response"}; optional are id, kind (benign, refusal,
unsafe) and group. JSON lines, or CSV with these columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backend.errors import UserError

MOST_BAD = 0.01
LABELS = ("id", "kind", "group")


class Skipped(NamedTuple):
    """A row that is not used: its line in the file (1 is the first) and why."""

    line: int
    reason: str


class Row(NamedTuple):
    """A chat whose last turn is the answer to learn."""

    line: int
    id: str
    messages: tuple[dict[str, str], ...]
    kind: str = ""
    group: str = ""

    @property
    def key(self) -> str:
        """What the answer responds to, see `prompt_key`."""
        return prompt_key(turn["content"] for turn in self.messages[:-1])

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


def read_chat_file(path: Path, *, field: str) -> tuple[list[Row], list[Skipped]]:
    """Every row of a JSONL or CSV file; what is broken is listed, not dropped in silence.

    Raises:
        UserError: the file is not there, is no text, holds no rows, or more than 1 % of its rows are broken.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(field, problem=f"there is no file {path}", remedy="Give a .jsonl or .csv file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(field, problem=f"{path} cannot be read ({error})", remedy="Save it as UTF-8 text.") from None
    found: list[Row] = []
    skipped: list[Skipped] = []
    for line, given in _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text):
        row = _row(line, given)
        (found if isinstance(row, Row) else skipped).append(row)  # type: ignore[arg-type]
    if not found and not skipped:
        raise UserError(field, problem=f"{path.name} holds no rows", remedy='Add lines like {"prompt", "response"}.')
    refuse_many(skipped, len(found) + len(skipped), field, path.name)
    return _with_own_ids(found), skipped


def refuse_many(skipped: Sequence[Skipped], total: int, field: str, name: str) -> None:
    """Refuse a file of which more than 1 % cannot be used; the first lines are named."""
    if len(skipped) > MOST_BAD * total:
        listed = "; ".join(f"line {one.line}: {one.reason}" for one in skipped[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        problem = f"{len(skipped)} of {total} rows of {name} cannot be used: {listed}{more}"
        raise UserError(field, problem=problem, remedy="Mend or remove them.")


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for line, one in enumerate(text.split("\n"), start=1):
        if one.strip():
            try:
                yield line, json.loads(one)
            except (json.JSONDecodeError, RecursionError):
                yield line, "not JSON"


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for one in reader:
        yield reader.line_num, {key: value for key, value in one.items() if key and value}


def _row(line: int, given: Any) -> Row | Skipped:
    if isinstance(given, str):
        return Skipped(line, given)
    if not isinstance(given, Mapping):
        return Skipped(line, "not an object")
    messages = given.get("messages")
    if messages is None and isinstance(given.get("prompt"), str):
        messages = [
            {"role": "user", "content": given["prompt"]},
            {"role": "assistant", "content": given.get("response")},
        ]
    problem = _problem(messages)
    if problem or messages is None:
        return Skipped(line, problem)
    turns = tuple({"role": turn["role"], "content": turn["content"]} for turn in messages)
    labels = {name: str(given.get(name) or "") for name in LABELS}
    labels["id"] = labels["id"] or hashlib.sha1(json.dumps(turns).encode(), usedforsecurity=False).hexdigest()[:16]
    return Row(line, messages=turns, **labels)


def _problem(messages: Any) -> str:
    if not isinstance(messages, list) or len(messages) < 2:
        return "no prompt and answer"
    for turn in messages:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(part), str) for part in ("role", "content")):
            return "a turn without role or content"
    if messages[-1]["role"] != "assistant":
        return "the last turn is not the assistant's"
    if not messages[-1]["content"].strip():
        return "the answer is empty"
    return "" if messages[-2]["content"].strip() else "the prompt is empty"


def _with_own_ids(rows: Sequence[Row]) -> list[Row]:
    """Ids that stand for different chats get a number behind; equal chats keep theirs."""
    owners: dict[str, tuple[dict[str, str], ...]] = {}
    found = []
    for row in rows:
        name, number = row.id, 1
        while owners.setdefault(name, row.messages) != row.messages:
            number += 1
            name = f"{row.id}#{number}"
        found.append(row._replace(id=name))
    return found
