"""Vocabulary and chat template of a checkpoint, read from `tokenizer.json` and its neighbours as plain data."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.checkpoints.folder import MOST_JSON_BYTES
from backend.errors import UserError
from backend.types import Checkpoint

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"


def vocabulary(checkpoint: Checkpoint, *, field: str = "checkpoint") -> dict[int, str] | None:
    """Token by id, added tokens included; None where the folder has no tokenizer.json."""
    stamp = _stamp(checkpoint.folder / TOKENIZER)
    if stamp is None:
        return None
    try:
        return _vocabulary(checkpoint.folder / TOKENIZER, stamp)
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        remedy = "Save the tokenizer again with save_pretrained of transformers."
        raise UserError(field, problem=f"{TOKENIZER} is not readable", remedy=remedy) from None


def tokenizer_hash(checkpoint: Checkpoint) -> str:
    """The first 12 digits of the file's SHA-256; empty without a tokenizer."""
    path = checkpoint.folder / TOKENIZER
    stamp = _stamp(path)
    return _hash(path, stamp) if stamp else ""


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The default chat template, or None."""
    try:
        return _chat_template(checkpoint.folder)
    except (ValueError, OSError, RecursionError):
        return None


def template_hash(checkpoint: Checkpoint) -> str:
    """The first 12 digits of the template's SHA-256; empty without one."""
    template = chat_template(checkpoint)
    return "" if template is None else hashlib.sha256(template.encode()).hexdigest()[:12]


def _chat_template(folder: Path) -> str | None:
    if (folder / TEMPLATE).is_file():
        return _text(folder / TEMPLATE)
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    config = json.loads(_text(path))
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{path.name} is too large")
    return path.read_text(encoding="utf-8")


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _hash(path: Path, stamp: tuple[int, int]) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@lru_cache(maxsize=4)
def _vocabulary(path: Path, stamp: tuple[int, int]) -> dict[int, str]:
    table: dict[str, Any] = json.loads(_text(path))
    words = table["model"]["vocab"]
    if isinstance(words, list):
        by_id = {position: str(entry[0]) for position, entry in enumerate(words)}
    else:
        by_id = {int(position): str(token) for token, position in words.items()}
    return by_id | {int(token["id"]): str(token["content"]) for token in table.get("added_tokens") or ()}
