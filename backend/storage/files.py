"""Small files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write `table` to `path`; a reader or a kill at any moment sees the old file or the new one.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.json"
    >>> write_json(path, {"safety": 97}); path.read_text()
    '{\\n  "safety": 97\\n}\\n'
    """
    write_text(path, json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same for a text, as UTF-8. Two writers at once do not meet: the last to finish is read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> write_text(path, "{}"); [file.name for file in path.parent.iterdir()]
    ['rows.jsonl']
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
