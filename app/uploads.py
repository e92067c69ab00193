"""A data file that a person uploads, on its way to the backend: handed on as it is. No Gradio.

Only its kind and size are looked at here. `Studio.preview_data` reads the rows, as the fine-tuning itself will.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from pathlib import Path

from backend.errors import UserError

MOST_BYTES = 50 * 1024 * 1024
ENDINGS = (".jsonl", ".csv", ".jsonl.gz", ".json.gz", ".parquet")
CHOOSABLE = sorted({"." + ending.split(".")[-1] for ending in ENDINGS})  # browsers know what is behind the last dot
PLAIN_NAME = re.compile(r"\w[\w .,()+-]*")


def handed_on(path: str, field: str) -> str:
    """Where the backend finds the uploaded file: its own place, or a copy beside it where its name holds odd signs.

    Raises:
        UserError: a kind of file that is not read, or too large.
    """
    file = Path(path)
    ending = next((one for one in ENDINGS if file.name.lower().endswith(one)), None)
    if ending is None:
        problem = f"{file.name} is of no kind that can be uploaded"
        raise UserError(field, problem=problem, allowed=", ".join(ENDINGS), remedy="Convert it.")
    if file.stat().st_size > MOST_BYTES:
        problem, allowed = f"{file.name} holds {file.stat().st_size:,} bytes", f"at most {MOST_BYTES:,} bytes"
        raise UserError(field, problem=problem, allowed=allowed, remedy="Upload fewer rows, or type the file's path.")
    return str(file if PLAIN_NAME.fullmatch(file.name) else _renamed(file, ending))


def _renamed(file: Path, ending: str) -> Path:
    target = file.with_name(hashlib.sha256(file.name.encode()).hexdigest()[:16] + ending)
    if not target.exists():  # an upload's folder holds one content only
        draft = target.with_suffix(f".{threading.get_ident()}.tmp")
        shutil.copy2(file, draft)
        draft.replace(target)
    return target


def title(path: str | None) -> str:
    """The file's own name."""
    return Path(path).name if path else ""
