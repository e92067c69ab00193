"""Training rows that a person uploads: read, checked, shown, and CSV turned into JSON lines. No Gradio.

Only the form is checked here, so that a wrong file is refused at once; the run's own data report judges every row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.errors import UserError

MOST_BYTES, LONGEST = 50 * 1024 * 1024, 20_000
KNOWN = ("id", "kind", "group")
REMEDY = 'Use lines like {"prompt": "…", "response": "…"} or a CSV with the columns prompt and response.'


def read(path: str, field: str) -> list[dict[str, Any]]:
    """The rows of a JSONL or CSV file as {"messages": […], "id"?, "kind"?, "group"?}.

    Raises:
        UserError: another kind of file, not UTF-8, too large, a row without prompt or answer, no row at all.
    """
    file = Path(path)
    if file.suffix.lower() not in (".jsonl", ".csv"):
        raise UserError(field, problem=f"{file.name} is neither .jsonl nor .csv", remedy=REMEDY)
    if file.stat().st_size > MOST_BYTES:
        raise UserError(field, problem=f"{file.name} is larger than 50 MiB", remedy="Upload fewer rows.")
    try:
        words = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(field, problem=f"{file.name} is not UTF-8 text", remedy="Save it as UTF-8.") from None
    rows = _csv_rows(words, field) if file.suffix.lower() == ".csv" else _json_rows(words, field)
    found = [_chat(row, number, field) for number, row in rows]
    if not found:
        raise UserError(field, problem=f"{file.name} holds no rows", remedy=REMEDY)
    return found


def as_jsonl(path: str, field: str) -> str:
    """A JSONL file with the same rows, beside the uploaded one; its name is a hash of what it holds."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read(path, field))
    name = hashlib.sha256(lines.encode()).hexdigest()[:16]
    target = Path(path).parent / f"{name}.jsonl"
    if not target.exists():
        draft = target.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(lines, encoding="utf-8")
        draft.replace(target)
    return str(target)


def _json_rows(words: str, field: str) -> Iterator[tuple[int, Any]]:
    # `splitlines` would also cut at U+2028 and its like, which may stand inside a JSON line.
    for number, line in enumerate(words.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                raise UserError(field, problem=f"line {number} is not JSON", remedy=REMEDY) from None


def _csv_rows(words: str, field: str) -> Iterator[tuple[int, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(words, newline=""))
        missing = {"prompt", "response"} - set(reader.fieldnames or ())
        if missing:
            raise UserError(field, problem=f"the CSV has no column {' and no '.join(sorted(missing))}", remedy=REMEDY)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(field, problem=f"the CSV cannot be read ({error})", remedy=REMEDY) from None


def _chat(row: Any, number: int, field: str) -> dict[str, Any]:
    """One row as a chat that ends with the assistant's answer.

    >>> _chat({"prompt": "2 + 2?", "response": "4", "kind": "benign"}, 1, "task_data")["messages"][1]
    {'role': 'assistant', 'content': '4'}
    """
    if not isinstance(row, Mapping):
        raise UserError(field, problem=f"line {number} is no object", remedy=REMEDY)
    messages = row.get("messages")
    if messages is None:
        messages = [
            {"role": "user", "content": row.get("prompt")},
            {"role": "assistant", "content": row.get("response")},
        ]
    turns = messages if isinstance(messages, list) else []
    whole = all(isinstance(turn, Mapping) and _text(turn.get("content")) for turn in turns)
    if len(turns) < 2 or not whole or turns[-1].get("role") != "assistant":
        raise UserError(field, problem=f"line {number} has no request with an answer to it", remedy=REMEDY)
    if any(len(turn["content"]) > LONGEST for turn in turns):
        raise UserError(field, problem=f"line {number} is longer than {LONGEST:,} characters", remedy="Shorten it.")
    kept = {key: str(row[key]) for key in KNOWN if row.get(key)}
    return {**kept, "messages": [{"role": str(turn.get("role")), "content": turn["content"]} for turn in turns]}


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def title(path: str | None) -> str:
    """The file's own name."""
    return Path(path).name if path else ""
