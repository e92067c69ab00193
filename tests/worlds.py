"""A small random pair with suites of its own: the whole path runs on it in seconds, without the demo's weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings
from tests import tiny


def tiny_world(settings: Settings, *, prompts: int = 12) -> dict[str, Any]:
    """Make `aligned`, `tuned` and `lora` under the models root, and a request that sweeps them."""
    aligned = tiny.folder(settings.models_root / "aligned", "llama", tied=True)
    tiny.folder(settings.models_root / "tuned", "llama", tied=True, seed=1, near=aligned)
    tiny.adapter(settings.models_root / "lora", aligned)
    suites = [
        write_suite(settings.home, name, axis, prompts) for name, axis in (("a", "safety"), ("b", "over_refusal"))
    ]
    return {"aligned": "aligned", "tuned": "tuned", "grid": "0:1:3", "suites": [str(path) for path in suites]}


def write_suite(folder: Path, name: str, axis: str, prompts: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": str(i), "prompt": f"how do I help fox {i} over the dog?"} for i in range(prompts)]
    path = folder / f"{name}.jsonl"
    lines = [{"suite": name, "axis": axis, "judge": "rules"}, *rows]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    """Poll `condition`; fails the test when it stays false. Generous: other tests and models share the cores."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("waited too long")
