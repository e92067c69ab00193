"""The chat rows of data files, as plans and previews read them. No torch.

A form plans anew at every change, so the rows of the last few files are remembered, until a file's size or time of
change is another. A run reads its files itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from backend.jobs.datafile import DataFile
from backend.tuning.rows import Row, Skipped, counted, listed, read_chat_file
from backend.types import DataPreview

SHOWN, LONGEST_TEXT = 5, 2000
FILES_REMEMBERED = 4
MOST_REMEMBERED = 128 * 2**20  # bytes of one file; as rows it takes a few times that


class ChatRows(NamedTuple):
    """What `read_chat_file` found, for several readers at once."""

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]


def chat_rows(file: DataFile, *, field: str) -> ChatRows:
    """The rows of a file, read again only when it changed; see `read_chat_file`.

    Args:
        field: task_data, or references, which may be prompts without an answer.
    """
    now = file.path.stat()
    if now.st_size > MOST_REMEMBERED:
        return _read(file.path, field)
    return _remembered(file.path, field, now.st_size, now.st_mtime_ns)


@lru_cache(FILES_REMEMBERED)
def _remembered(path: Path, field: str, size: int, changed: int) -> ChatRows:
    return _read(path, field)


def _read(path: Path, field: str) -> ChatRows:
    rows, skipped = read_chat_file(path, field=field, prompts=field == "references")
    return ChatRows(tuple(rows), tuple(skipped))


def preview(file: DataFile, *, field: str) -> DataPreview:
    """How many rows can be trained on, the first of them, and which cannot.

    Raises:
        UserError: what a fine-tuning would refuse of the file alone.
    """
    rows, skipped = chat_rows(file, field=field)
    first = tuple(
        {part: text[:LONGEST_TEXT] for part, text in row.text.items()} | {"kind": row.kind} for row in rows[:SHOWN]
    )
    return DataPreview(len(rows), first, left_out(skipped))


def left_out(skipped: Sequence[Skipped]) -> str:
    """The rows that cannot be used, by reason and line; empty when all can.

    >>> left_out([Skipped(4, "not JSON")])
    '1 row; line 4: not JSON'
    """
    return f"{counted(len(skipped))}; {listed(skipped)}" if skipped else ""
