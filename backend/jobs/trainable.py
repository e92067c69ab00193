"""The loaded model as it is trained: its number formats, what it stores, and an adapter on the layers in `targets`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from backend.jobs.targets import modules_named, no_such_layers, shared_layers
from backend.tuning.knobs import fits, layer_names
from backend.tuning.loop import add_lora, save_memory


def trainable(model: Any, plan: Mapping[str, Any], *, seed: int) -> tuple[Any, bool]:
    """The model as it is trained, and whether it computes in bf16 over fp32 weights.

    An adapter's weights are fp32 over a base of any format; whole models keep fp32 weights and compute in bf16.

    Args:
        plan: a checked table of the settings that every strategy shares.

    Raises:
        UserError: layers that no adapter can be put on; see `adapted_layers`.
    """
    half = plan["dtype"] == "bf16" or (plan["dtype"] == "auto" and model.dtype != torch.float32)
    model.config.use_cache = False
    if plan["full"]:
        model = model.float()
    else:
        if plan["dtype"] != "auto":
            model = model.to(torch.bfloat16 if half else torch.float32)
        model.requires_grad_(False)
        names = layer_names(plan["targets"])
        targets = names if isinstance(names, str) else adapted_layers(model, names)
        model = add_lora(model, rank=plan["lora_rank"], alpha=plan["lora_alpha"], seed=seed, targets=targets)
    if plan["checkpointing"]:
        save_memory(model)
    return model, plan["full"] and half


def adapted_layers(model: Any, names: Sequence[str]) -> list[str]:
    """The names as PEFT finds them in this model, whose modules may be wrapped otherwise than in the files.

    What `check_targets` could not know is refused: the loaded model may name and share its layers otherwise.

    Raises:
        UserError: a name that fits no linear layer or embedding, or one whose weights another layer uses too.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    weights = {name: id(module.weight) for name, module in modules.items() if _takes_adapter(module)}
    users = Counter(weights.values())
    targets: list[str] = []
    for name in names:
        found = modules_named(name, modules)
        if not found or not weights.keys() >= set(found):
            raise no_such_layers([name], (one for one, weight in weights.items() if users[weight] == 1))
        if any(users[weights[one]] > 1 for one in found):
            raise shared_layers([name], "this model")
        targets += [name] if fits(name, found[0]) else found
    return targets


def _takes_adapter(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D)
