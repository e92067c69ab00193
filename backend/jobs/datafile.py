"""A data file that was found: its lasting name, its place on this disk, its hash, and what it was mixed from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class DataFile:
    """A data file on this disk; `name` means the same file later, `mix` is what a mixed one was made of."""

    name: str
    path: Path
    mix: Mapping[str, Any] | None = None

    @property
    def sha256(self) -> str:
        return file_hash(self.path)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "sha256": self.sha256}
        return found | ({"mix": dict(self.mix)} if self.mix else {})
