"""What is merged loads in transformers with no key missing or left over: families × method classes, shards and LoRA."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from backend.checkpoints.guard import check_pair, raise_errors
from backend.checkpoints.resolve import resolve
from backend.inference.activations import gram_matrices
from backend.inference.model import load
from backend.merging.engine import merge_to_folder, open_models
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import methods
from backend.types import Message
from tests import tiny

# One method of each class of merging.md: element, Gram, select, row, matrix, and by activations.
CLASSES = ("task_arithmetic", "slerp", "ties", "della", "safe_lora", "safe_delta")


def load_whole(folder: Path) -> Any:
    """The folder in transformers, refused where a key is missing or left over."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model


def in_peft(aligned: Path, adapter: Path) -> Any:
    """The model with the adapter on it, not merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft about tied embeddings
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(aligned), str(adapter)).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(2, 26).reshape(2, 12)).logits
        return found


@pytest.mark.parametrize("form", ["files that transformers writes", "files named as the loaded model"])
@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": r".*language_model.*(q_proj|down_proj)"},
        {"target_modules": ["q_proj", "fc1"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["language model", "both towers", "embedding"],
)
def test_a_model_that_also_sees_merges_with_an_adapter_to_what_peft_computes(
    form: str, lora: dict[str, Any], settings, tmp_path: Path
) -> None:
    start = tiny.folder(tmp_path / "aligned", "gemma3", tied=True)
    if form != "files that transformers writes":
        named_as_loaded(start)
    tuned = tiny.adapter(tmp_path / "lora", start, **lora)
    aligned, adapter = resolve(str(start), settings), resolve(str(tuned), settings)
    raise_errors(check_pair(aligned, adapter))
    recipe = merge_to_folder(aligned, adapter, methods.get("linear"), {"lam": 1.0}, tmp_path / "out")
    merged = load_whole(tmp_path / "out")
    torch.testing.assert_close(logits(merged), logits(in_peft(start, tuned)), rtol=1e-4, atol=1e-4)
    pair = ResidentPair.of(open_models(aligned, [adapter]))
    responder = load(aligned, device=torch.device("cpu"), untied=pair.untied)
    assert pair.write_into(responder.parameters(), methods.get("linear"), {"lam": 1.0}) == recipe["effective"]
    expected = merged.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in responder.parameters().items())


def named_as_loaded(folder: Path) -> None:
    path = folder / "model.safetensors"
    words = {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower."}
    words["multi_modal_projector."] = "model.multi_modal_projector."
    tensors = {}
    for name, tensor in load_file(path).items():
        start = next(word for word in words if name.startswith(word))
        tensors[words[start] + name.removeprefix(start)] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def test_two_models_that_also_see_merge_to_one_that_loads(settings, tmp_path: Path) -> None:
    start = tiny.folder(tmp_path / "aligned", "gemma3", tied=True, shard="20KB")
    tiny.folder(tmp_path / "tuned", "gemma3", tied=True, seed=1, near=start)
    aligned, tuned = (resolve(str(tmp_path / name), settings) for name in ("aligned", "tuned"))
    assert check_pair(aligned, tuned) == ()
    merge_to_folder(aligned, tuned, methods.get("linear"), {"lam": 0.5}, tmp_path / "out")
    merged, ours, theirs = (load_whole(tmp_path / name).state_dict() for name in ("out", "aligned", "tuned"))
    for name, tensor in merged.items():
        assert torch.equal(tensor, torch.lerp(ours[name], theirs[name], 0.5))


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
        merged = load_whole(out)
        after = merged.state_dict()
        assert merged.dtype == torch.bfloat16
        assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
        assert any(not torch.equal(after[key], before[key]) for key in before)
        index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
        assert index == json.loads((start / "model.safetensors.index.json").read_text())["weight_map"]
