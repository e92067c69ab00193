"""The chats that a method measures the aligned model on before it merges: found, checked, hashed. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.errors import UserError
from backend.registry import Plugin
from backend.settings import Settings, refuse_in_public
from backend.types import Message

FIELD = "calibration"
MOST_CHATS = 128


def find_calibration(settings: Settings, request: Mapping[str, Any], method: Plugin) -> dict[str, Any]:
    """{"calibration": name} of a request whose method needs chats, {} of one that does not.

    Raises:
        UserError: none given where they are needed, given where they are not, or a file that holds no chats.
    """
    name = str(request.get(FIELD) or "").strip()
    if not method.facts["calibration"]:
        if name:
            raise UserError(FIELD, problem=f"{method.name} does not use it", remedy="Leave it out.")
        return {}
    if not name:
        problem = f"{method.name} needs chats that show safe behaviour, and none were given"
        raise UserError(FIELD, problem=problem, remedy="Name a .jsonl of chats, or demo/references.")
    read_chats(settings, name)
    return {FIELD: name if name.startswith("demo/") else str(Path(name).expanduser().absolute())}


def calibrated_with(settings: Settings, spec: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{"calibration": {name, sha256}} for the recipe of a spec with chats, {} for another.

    A path is shortened to its last part, so that a recipe tells nothing of the disk.
    """
    name = spec.get(FIELD)
    if not name:
        return {}
    digest = hashlib.sha256(_path(settings, name).read_bytes()).hexdigest()
    return {FIELD: {"name": name if name.startswith("demo/") else Path(name).name, "sha256": digest}}


def read_chats(settings: Settings, name: str) -> list[list[Message]]:
    """The first 128 chats of a file whose lines are {"messages": [{"role", "content"}, …]}.

    Args:
        name: a path, or `demo/references` for a data set that came with the studio.

    Raises:
        UserError: no such file, or a line that is no chat, by its number.
    """
    path = _path(settings, name)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not `splitlines`: U+2028 may stand inside a line
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise UserError(
            FIELD, problem=f"{name[:200]} cannot be read ({reason})", remedy="Name a .jsonl of chats."
        ) from None
    chats: list[list[Message]] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and len(chats) < MOST_CHATS:
            chats.append(_chat(line, number, path.name))
    if not chats:
        raise UserError(FIELD, problem=f"{path.name} holds no chats", remedy='Add lines like {"messages": [...]}.')
    return chats


def _chat(line: str, number: int, name: str) -> list[Message]:
    try:
        turns = [Message(str(turn["role"]), str(turn["content"])) for turn in json.loads(line)["messages"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        turns = []
    if not turns:
        allowed = '{"messages": [{"role", "content"}, …]}'
        raise UserError(FIELD, problem=f"line {number} of {name} is no chat", allowed=allowed)
    return turns


def _path(settings: Settings, name: str) -> Path:
    if name.startswith("demo/"):
        return settings.demo / "data" / f"{Path(name).name}.jsonl"
    refuse_in_public(settings, FIELD, name)
    try:
        return Path(name).expanduser()
    except RuntimeError:  # `~` of somebody unknown
        raise UserError(FIELD, got=name[:200], allowed="a .jsonl of chats", remedy="Check the path.") from None
