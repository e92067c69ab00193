"""What the name of a tensor says, however files and loaded models wrap it. Names only, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Tower = Literal["", "vision", "audio"]

WRAPPERS = frozenset({"model", "language_model", "transformer", "gpt_neox"})
# Computed by the model itself; old checkpoints store them and new models do not take them.
DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "attn.bias", "attention.bias")

SIGHT = re.compile(r"(?:^|\.)(?:(?:vision|visual|image|img)(?:_\w+)?|vit|multi_modal_projector|mm_projector)\.")
HEARING = re.compile(r"(?:^|\.)(?:audio|speech)(?:_\w+)?\.")


def bare(name: str) -> str:
    """A tensor's name without what only wraps others: files and loaded models wrap the same layers differently.

    >>> bare("language_model.model.layers.0.mlp.weight") == bare("model.language_model.layers.0.mlp.weight")
    True
    >>> bare("vision_tower.vision_model.post_layernorm.bias") == bare("model.vision_tower.post_layernorm.bias")
    True
    """
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts).replace("embed_out.", "lm_head.").replace("vision_tower.vision_model.", "vision_tower.")


def by_bare(names: Iterable[str]) -> dict[str, str]:
    """Bare name -> the one name that has it; none where several do.

    >>> by_bare(["model.norm.weight", "norm.weight", "lm_head.weight"])
    {'lm_head.weight': 'lm_head.weight'}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(bare(name), []).append(name)
    return {key: several[0] for key, several in found.items() if len(several) == 1}


def is_derived(name: str) -> bool:
    """Whether the tensor is one that the model computes itself, so that files may hold it or not.

    >>> is_derived("model.layers.0.self_attn.rotary_emb.inv_freq"), is_derived("h.0.attn.c_attn.bias")
    (True, False)
    """
    return any(name == end or name.endswith(f".{end}") for end in DERIVED)


def tower_of(name: str) -> Tower:
    """The part that sees or hears, whose layers are none of the language model's; empty for the language model.

    >>> tower_of("vision_tower.encoder.layers.3.mlp.fc1.weight"), tower_of("language_model.model.layers.3.mlp.weight")
    ('vision', '')
    """
    return "vision" if SIGHT.search(name) else "audio" if HEARING.search(name) else ""
