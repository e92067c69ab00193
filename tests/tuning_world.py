"""A tiny demo folder to fine-tune in: a random model, suites with validation twins, task data and references."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.settings import Settings
from tests import tiny
from tests.worlds import write_suite

PROMPTS = 8


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(number: int, name: str, kind: str) -> dict[str, Any]:
    prompt, answer = f"{name} {number} over the fox?", f"the {name} dog {number * 7 % 10}"
    return {
        "id": f"{name}-{number:03}",
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        "kind": kind,
    }


def tuning_world(settings: Settings, **training: Any) -> tuple[Settings, dict[str, Any]]:
    """Settings over such a folder, and a request that fine-tunes its model with DualSelect for a few steps."""
    demo = settings.home / "demo"
    tiny.folder(demo / "models" / "aligned", "llama", tied=True)
    for folder in (demo / "suites", demo / "suites" / "validation"):
        write_suite(folder, "safety", "safety", PROMPTS)
        write_suite(folder, "over_refusal", "over_refusal", PROMPTS)
    task = [chat(i, "task", "unsafe" if i % 5 == 0 else "benign") for i in range(40)]
    write_rows(demo / "data" / "quick-mixed.jsonl", task)
    pool = [chat(i, "pool", "refusal" if i % 2 else "benign") for i in range(24)]
    write_rows(demo / "data" / "references.jsonl", pool)
    request = {
        "model": "demo/aligned",
        "task_data": "demo/quick-mixed",
        "references": "demo/references",
        "strategy": "dualselect",
        "parameters": {"warmup": 2, "refresh_every": 25, "keep_tokens": 0.8},
        "training": {"steps": 8, "batch": 8, "lora_rank": 4} | training,
        "suites": ["safety", "over_refusal"],
        "probe_every": 4,
    }
    return replace(settings, demo=demo), request
