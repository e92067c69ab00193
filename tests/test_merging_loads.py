"""What is merged loads in transformers with no key missing or left over: families × method classes, shards and LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from backend.checkpoints.resolve import resolve
from backend.inference.activations import gram_matrices
from backend.inference.model import load
from backend.merging.engine import merge_to_folder
from backend.merging.inputs import check_request
from backend.registry import methods
from backend.types import Message
from tests import tiny

# One method of each class of merging.md: element, Gram, select, row, matrix, and by activations.
CLASSES = ("task_arithmetic", "slerp", "ties", "della", "safe_lora", "safe_delta")


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_class_of_methods_writes_what_transformers_loads(
    family: str, tied: bool, settings, tmp_path: Path
) -> None:
    start = tiny.folder(tmp_path / "aligned", family, dtype=torch.bfloat16, shard="20KB", tied=tied)
    tiny.adapter(tmp_path / "lora", start)
    tiny.folder(tmp_path / "raw", family, seed=2, near=start, tied=tied)
    aligned, lora, raw = (resolve(str(tmp_path / name), settings) for name in ("aligned", "lora", "raw"))
    responder = load(aligned, device=torch.device("cpu"))
    grams = gram_matrices(responder.model, [responder.encode_chat([Message("user", "How do I help the fox?")])])
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    for name in CLASSES:
        method, out = methods.get(name), tmp_path / name
        extras = {"raw": raw} if "raw" in method.facts["extras"] else {}
        given = {"strength": 1000.0} if name == "safe_delta" else {}
        knobs = check_request(method, given, extras=list(extras))
        merge_to_folder(aligned, lora, method, knobs, out, extras=extras, grams=grams)
        merged, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        after = merged.state_dict()
        assert merged.dtype == torch.bfloat16
        assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
        assert any(not torch.equal(after[key], before[key]) for key in before)
        index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
        assert index == json.loads((start / "model.safetensors.index.json").read_text())["weight_map"]
