"""Checkpoints of a training: one file, replaced whole or not at all, read back without running any code in it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

SHARE = 20.0  # writing may take a twentieth of the time


class Saver:
    """Writes a training's state to `path` now and then.

    Args:
        every: steps between two checkpoints; None decides by the clock, so that writing costs at most a twentieth.
        least: seconds between two checkpoints, if the clock decides.
    """

    def __init__(self, path: Path, *, every: int | None = None, least: float = 2.0) -> None:
        self.path = path
        self._every = every
        self._asked = 0
        self._last = time.monotonic()
        self._least = self._wait = least

    def is_due(self) -> bool:
        """Whether it is time; asked after every step."""
        self._asked += 1
        if self._every is not None:
            return self._asked % self._every == 0
        return time.monotonic() - self._last >= self._wait

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one."""
        started = time.monotonic()
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._last = time.monotonic()
        self._wait = max(self._least, SHARE * (self._last - started))

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state last saved, or None."""
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        return state

    def remove(self) -> None:
        """A finished training needs it no more."""
        self.path.unlink(missing_ok=True)
