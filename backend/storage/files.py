"""Small files that are there whole or not at all."""

from __future__ import annotations

import json
import os
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
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
