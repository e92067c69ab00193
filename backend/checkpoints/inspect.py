"""What a checkpoint is, as one flat table for the page, the command line and a recipe. Headers and JSON only."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from backend.checkpoints.config import layer_count, text_part
from backend.checkpoints.tokenizer import template_hash, tokenizer_hash, vocabulary
from backend.checkpoints.tying import is_tied
from backend.errors import UserError
from backend.types import Checkpoint


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Sizes, types, tokenizer and lineage of `checkpoint`; JSON-able, and never an exception."""
    config = text_part(checkpoint.config)
    card = front_matter(checkpoint.folder)
    table: dict[str, Any] = {
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "architecture": (checkpoint.config.get("architectures") or [None])[0],
        "model_type": checkpoint.config.get("model_type"),
        "parameters": checkpoint.parameters,
        "dtype": main_dtype(checkpoint),
        "dtypes": dict(Counter(tensor.dtype for tensor in checkpoint.tensors.values())),
        "bytes": checkpoint.bytes,
        "shards": len({tensor.file for tensor in checkpoint.tensors.values()}),
        "tensors": len(checkpoint.tensors),
        "vocabulary": config.get("vocab_size"),
        "tokens": _tokens(checkpoint),
        "tied": is_tied(checkpoint) if checkpoint.kind == "full" else None,
        "layers": layer_count(checkpoint.config),
        "hidden": config.get("hidden_size", config.get("n_embd")),
        "tokenizer_hash": tokenizer_hash(checkpoint),
        "template_hash": template_hash(checkpoint),
        "revision": checkpoint.revision,
        "lineage": card.get("base_model", []),
        "license": (card.get("license") or [""])[0],
        "notes": list(checkpoint.notes),
    }
    if checkpoint.kind == "adapter":
        adapter = checkpoint.adapter
        table["adapter"] = {
            "type": adapter.get("peft_type"),
            "rank": adapter.get("r"),
            "alpha": adapter.get("lora_alpha"),
            "rslora": bool(adapter.get("use_rslora")),
            "targets": adapter.get("target_modules"),
            "names_as_base": adapter.get("base_model_name_or_path"),
        }
    return table


def main_dtype(checkpoint: Checkpoint) -> str:
    """The dtype that holds most of the bytes."""
    sizes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] += tensor.end - tensor.begin + 1
    return sizes.most_common(1)[0][0] if sizes else ""


def front_matter(folder: Path) -> dict[str, list[str]]:
    """`license` and `base_model` of a model card, as lists; a card that says neither gives nothing."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(20_000)
    except OSError:
        return {}
    block = re.match(r"---\s*\n(.*?)\n---", text, flags=re.DOTALL)
    found: dict[str, list[str]] = {}
    key = ""
    for line in block.group(1).splitlines() if block else ():
        entry = re.match(r"(license|base_model):\s*(.*)", line)
        item = re.match(r"\s*-\s+(.+)", line)
        if entry:
            key = entry.group(1)
            found[key] = [_unquoted(entry.group(2))] if entry.group(2).strip() else []
        elif item and key:
            found[key].append(_unquoted(item.group(1)))
        else:
            key = ""
    return found


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'")[:200]


def _tokens(checkpoint: Checkpoint) -> int | None:
    try:
        words = vocabulary(checkpoint)
    except UserError:
        return None
    return None if words is None else len(words)
