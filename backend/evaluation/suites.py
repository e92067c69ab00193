"""Suites: prompts as JSON lines, checked row by row, with hashes that tell one version from another.

Line 1 is the header {"suite", "axis", …}, each further line a row {"id", "prompt" or "messages", …}. A file without a
header (an upload) gets its axis from the caller. A subset of n is the first n of one seeded permutation, so that a
quick run's prompts are among a standard run's.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from backend.errors import UserError
from backend.types import AXES, Axis, Message

ROW_KEYS = {
    "id", "prompt", "messages", "system", "category", "context", "target", "reference", "tools", "tests",
    "entry_point", "kind", "group", "action",
}  # fmt: skip
MOST_LISTED = 5


@dataclass(frozen=True)
class Suite:
    """Prompts of one axis; `scorer` names the task plug-in of helpfulness and task suites, `judge` the judge."""

    name: str
    axis: Axis
    rows: tuple[dict[str, Any], ...]
    version: str = ""
    scorer: str = ""
    judge: str = "microworld"

    @property
    def hash(self) -> str:
        """SHA-256 over the rows as canonical JSON, in file order."""
        return sha256("\n".join(canonical(row) for row in self.rows))

    def first(self, n: int | None, seed: int) -> Suite:
        """The first `n` rows of the suite's permutation under `seed`; all of them for None."""
        order = list(self.rows)
        random.Random(f"{self.name}:{seed}").shuffle(order)
        return replace(self, rows=tuple(order[:n]))

    def halves(self, seed: int) -> tuple[Suite, Suite]:
        """Two suites of half the rows each, no row in both: one to choose on, one to judge by.

        Raises:
            UserError: it has fewer than two rows.
        """
        if len(self.rows) < 2:
            raise UserError("suites", problem=f"{self.name} has one row and cannot be halved", remedy="Add rows.")
        order = list(self.rows)
        random.Random(f"{self.name}:{seed}:halves").shuffle(order)
        middle = len(order) // 2
        return replace(self, rows=tuple(order[:middle])), replace(self, rows=tuple(order[middle:]))


def canonical(value: object) -> str:
    """JSON with sorted keys, NFC, no spaces: the text that is hashed."""
    return unicodedata.normalize("NFC", json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def sha256(text: str) -> str:
    """The hash of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def sample_hash(row: Mapping[str, Any]) -> str:
    """The identity of a prompt across suites and versions: SHA-256 of its whitespace-collapsed messages."""
    text = " ".join(message.content for message in messages_of(row))
    return sha256(unicodedata.normalize("NFC", " ".join(text.split())))[:16]


def messages_of(row: Mapping[str, Any]) -> list[Message]:
    """The chat that a row asks with.

    >>> messages_of({"prompt": "Hi", "system": "Be brief."})
    [Message(role='system', content='Be brief.'), Message(role='user', content='Hi')]
    """
    if row.get("messages"):
        return [Message(turn["role"], turn["content"]) for turn in row["messages"]]
    system = [Message("system", row["system"])] if row.get("system") else []
    context = f"{row['context']}\n\n" if row.get("context") else ""
    return [*system, Message("user", context + row["prompt"])]


def load_suite(path: Path, *, axis: Axis | None = None, field: str = "suite") -> Suite:
    """Read and check a suite file; every broken row is named by its line.

    Raises:
        UserError: no such file, not UTF-8, no rows, an axis missing, or broken rows with their line numbers.
    """
    try:
        # U+2028 and its like may stand inside a JSON line; `splitlines` would cut there.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(field, problem=f"there is no file {path}", remedy="Give the path of a .jsonl file.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(field, problem=f"{path} cannot be read ({error})", remedy="Save it as UTF-8 text.") from None
    objects, problems = _parse(lines)
    header = objects.pop(0)[1] if objects and "suite" in objects[0][1] else {}
    rows, bad_rows = _check_rows(objects)
    problems = sorted(problems + bad_rows)
    if problems:
        listed = "; ".join(f"line {line}: {what}" for line, what in problems[:MOST_LISTED])
        more = f"; and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
        raise UserError(
            field, problem=f"{path.name} has broken rows: {listed}{more}", remedy="Mend them and try again."
        )
    if not rows:
        raise UserError(field, problem=f"{path.name} holds no rows", remedy='Add lines like {"prompt": "…"}.')
    chosen = header.get("axis", axis)
    if chosen not in AXES:
        raise UserError("axis", got=chosen, allowed=", ".join(AXES), remedy=f"Name it in the header of {path.name}.")
    return Suite(
        name=str(header.get("suite", path.stem)),
        axis=cast(Axis, chosen),
        rows=tuple(rows),
        version=str(header.get("version", "")),
        scorer=str(header.get("scorer", "")),
        judge=str(header.get("judge", "microworld" if header.get("suite") else "rules")),
    )


def _parse(lines: Sequence[str]) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    objects, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            problems.append((number, f"not JSON ({getattr(error, 'msg', 'nested too deep')})"))
            continue
        if isinstance(value, dict):
            objects.append((number, value))
        else:
            problems.append((number, "not an object"))
    return objects, problems


def _check_rows(objects: Sequence[tuple[int, dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    rows: list[dict[str, Any]] = []
    problems: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    for number, row in objects:
        row.setdefault("id", f"line-{number}")
        problem = _row_problem(row)
        if not problem and str(row["id"]) in seen:
            problem = f'id "{row["id"]}" stands on line {seen[str(row["id"])]} too'
        if problem:
            problems.append((number, problem))
        else:
            seen[str(row["id"])] = number
            rows.append(row)
    return rows, problems


def _row_problem(row: Mapping[str, Any]) -> str:
    unknown = sorted(set(row) - ROW_KEYS)
    if unknown:
        return f'unknown column "{unknown[0]}"'
    if row.get("messages") is not None:
        turns = row["messages"]
        shaped = isinstance(turns, list) and turns and all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            for turn in turns
        )  # fmt: skip
        return "" if shaped else '"messages" must be a list of {"role", "content"}'
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        return '"prompt" is missing or empty'
    return ""
