"""A frozen tiny pair and what every method made of it: `python -m tests.golden` writes tests/golden.json afresh.

Refresh it only where a change of numbers is meant, and say so in CHANGELOG.md. Methods that decide element by element
are held by SHA-256, those that sum over tensors or factorise matrices by rounded values.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.checkpoints.folder import read_folder
from backend.merging.engine import merge_to_folder
from backend.merging.request import check_request
from backend.registry import Plugin, methods
from backend.types import Checkpoint

STORED = Path(__file__).with_name("golden.json")
BY_VALUE = ("slerp", "slerp_curves", "nuslerp", "multislerp", "karcher", "model_stock")
BY_VALUE += ("safe_lora", "safemerge", "lox", "safe_delta")
GIVEN = {
    "safe_delta": {"strength": 2000.0},
    "layerwise, 2 fine-tuned": {"curve": [0.2, 1], "weights": [1, 0.5]},  # flat and unweighted it is task_arithmetic
    "slerp_curves": {"attention": [0, 0.7], "mlp": [1, 0.2], "other": [0.5, 0.9]},
}
ROWS, WIDTH, HIDDEN = 16, 8, 12  # 16 rows for 11 or 13 tokens: a padded vocabulary
ROLES = ("aligned", "tuned", "second", "raw", "safe", "unaligned")
LAYER = {
    "self_attn.q_proj.weight": (WIDTH, WIDTH),
    "self_attn.k_proj.weight": (WIDTH, WIDTH),
    "self_attn.v_proj.weight": (WIDTH, WIDTH),
    "self_attn.o_proj.weight": (WIDTH, WIDTH),
    "mlp.gate_proj.weight": (HIDDEN, WIDTH),
    "mlp.up_proj.weight": (HIDDEN, WIDTH),
    "mlp.down_proj.weight": (WIDTH, HIDDEN),
    "input_layernorm.weight": (WIDTH,),
    "post_attention_layernorm.weight": (WIDTH,),
}
SHAPES = {"model.embed_tokens.weight": (ROWS, WIDTH), "model.norm.weight": (WIDTH,), "model.scale": (1,)}
SHAPES |= {f"model.layers.{layer}.{name}": shape for layer in (0, 1) for name, shape in LAYER.items()}


def numbers(shape: tuple[int, ...], salt: int) -> Tensor:
    """Numbers in [−1, 1) from a counter, the same with every version of everything."""
    count = int(torch.Size(shape).numel())
    states = [(place * 2654435761 + salt * 40503 + 12345) % 2**32 for place in range(1, count + 1)]
    mixed = [(state ^ (state >> 15)) * 2246822519 % 2**32 for state in states]
    return torch.tensor([(state ^ (state >> 13)) / 2**31 - 1 for state in mixed], dtype=torch.float64).reshape(shape)


def write(folder: Path, role: int) -> Checkpoint:
    """One model of the frozen family; every one but the first is a step away from it."""
    folder.mkdir()
    tensors = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        start = numbers(shape, 100 * place)
        step = 0.1 * numbers(shape, 100 * place + role) if role else torch.zeros_like(start)
        tensors[name] = (start + step).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "vocab_size": ROWS, "num_hidden_layers": 2}
    config = {"model_type": "llama", "num_attention_heads": 2, "tie_word_embeddings": True, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    words = {f"w{number}": number for number in range(11 if role != 1 else 13)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    return read_folder(folder.name, folder)


def gram_matrices() -> dict[str, Tensor]:
    """Gram matrices of counted inputs for the matrices of the layers."""
    found = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        if len(shape) == 2 and ".layers." in name:
            seen = numbers((30, shape[1]), 7000 + place)
            found[name] = (seen.T @ seen).float()
    return found


def cases() -> list[tuple[str, Plugin, int]]:
    """(label, method, number of fine-tuned models): the least each takes, and two where it takes any number."""
    found = []
    for method in methods:
        least, most = method.facts["fine_tunes"]
        for count in sorted({least, *((2,) if most is None else ())}):
            found.append((f"{method.name}, {count} fine-tuned", method, count))
    return found


def merged(
    method: Plugin, count: int, models: dict[str, Checkpoint], out: Path, *, device: str = "cpu"
) -> dict[str, Tensor]:
    """What a method makes of the frozen family, by name."""
    extras = {role: models[role] for role in method.facts["extras"]}
    tuned = [models["tuned"], models["second"]][:count]
    given = GIVEN.get(f"{method.name}, {count} fine-tuned", GIVEN.get(method.name, {}))
    knobs = check_request(method, given, tuned=count, extras=list(extras))
    grams = gram_matrices() if method.facts["calibration"] else None
    merge_to_folder(models["aligned"], tuned, method, knobs, out, extras=extras, grams=grams, seed=42, device=device)
    return load_file(out / "model.safetensors")


def outcome(method: Plugin, count: int, models: dict[str, Checkpoint], out: Path) -> Any:
    """The SHA-256 of the merged tensors, or for methods by value their sum, length, first and last number."""
    tensors = sorted(merged(method, count, models, out).items())
    if method.name in BY_VALUE:
        return {
            name: [
                round(float(one), 4)
                for one in (tensor.double().sum(), tensor.double().norm(), *tensor.reshape(-1)[[0, -1]])
            ]
            for name, tensor in tensors
        }
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    """Write what every method makes now."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        models = {role: write(root / role, number) for number, role in enumerate(ROLES)}
        found = {
            label: outcome(method, count, models, root / str(number))
            for number, (label, method, count) in enumerate(cases())
        }
    lines = (f"  {json.dumps(label)}: {json.dumps(value)}" for label, value in found.items())
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{STORED} holds {len(found)} outputs.")


if __name__ == "__main__":
    main()
