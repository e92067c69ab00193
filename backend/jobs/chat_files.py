"""The chat rows of data files, as plans and previews read them. No torch."""

from __future__ import annotations

from backend.jobs.datafile import DataFile
from backend.tuning.rows import Row, Skipped, counted, listed, read_chat_file
from backend.types import DataPreview

SHOWN, LONGEST_TEXT = 5, 2000


def chat_rows(file: DataFile, *, field: str) -> tuple[list[Row], list[Skipped]]:
    """See `read_chat_file`."""
    return read_chat_file(file.path, field=field)


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


def left_out(skipped: list[Skipped]) -> str:
    """The rows that cannot be used, by reason and line; empty when all can.

    >>> left_out([Skipped(4, "not JSON")])
    '1 row; line 4: not JSON'
    """
    return f"{counted(len(skipped))}; {listed(skipped)}" if skipped else ""
