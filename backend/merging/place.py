"""Where a tensor sits in its model, and the random numbers that belong to it and to nothing else."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from backend.checkpoints.tying import EMBEDDINGS, HEADS
from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["embedding", "head", "norm", "attention", "mlp", "other"]
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
WRAPPERS = frozenset({"model", "language_model", "transformer", "gpt_neox"})
BLOCK = 2**15  # the numbers do not depend on it; small enough for the cache


@dataclass(frozen=True)
class Place:
    """The name of a tensor in its model of `layers` layers, the seed of the merge, and where in the tensor a block is.

    >>> place = Place("model.layers.3.self_attn.q_proj.weight", layers=8)
    >>> place.layer, place.kind, Place("model.norm.weight", layers=8).kind
    (3, 'attention', 'norm')
    """

    name: str
    layers: int = 1
    seed: int = 0
    begin: int = 0

    @property
    def layer(self) -> int | None:
        """The layer's number from 0, None outside the layers."""
        found = LAYER.search(self.name)
        return int(found[1]) if found else None

    @cached_property
    def kind(self) -> Kind:
        """What the tensor is, by the names that transformers gives."""
        if self.name.endswith(EMBEDDINGS):
            return "embedding"
        if self.name.endswith(HEADS):
            return "head"
        module = self.name.rsplit(".", 1)[0]
        if re.search(r"norm|ln_|\.ln\b", module.rsplit(".", 1)[-1].lower()):
            return "norm"
        if re.search(r"attn|attention", module):
            return "attention"
        return "mlp" if re.search(r"mlp|feed_forward|ffn|experts", module) else "other"

    def uniform(self, count: int, salt: int = 0, *, device: torch.device | str = "cpu") -> Tensor:
        """`count` numbers in [0, 1), fp32, from element `begin` on: number i depends on (seed, name, salt, i) alone.

        So the order of tensors, the block size, the device and a resume change nothing.

        >>> Place("w", seed=1).uniform(3)[2:] == Place("w", seed=1, begin=2).uniform(1)
        tensor([True])
        """
        key = hashlib.sha256(f"{self.seed}/{salt}/{self.name}".encode()).digest()[:8]
        base = int.from_bytes(key, "little", signed=True)
        out = torch.empty(count, dtype=torch.float32, device=device)
        steps = torch.arange(min(count, BLOCK), dtype=torch.int64, device=device).mul_(_GOLDEN)
        states, shifted = torch.empty_like(steps), torch.empty_like(steps)
        for begin in range(0, count, BLOCK):
            size = min(count - begin, BLOCK)
            state, spare = states[:size], shifted[:size]
            torch.add(steps[:size], _signed((base + (self.begin + begin) * _GOLDEN) % 2**64), out=state)
            for shift, factor in _ROUNDS:
                _fold(state, shift, spare).mul_(factor)
            _fold(state, 31, spare)
            out[begin : begin + size] = state.bitwise_right_shift_(40).bitwise_and_((1 << 24) - 1)
        return out.mul_(2.0**-24)


def _fold(state: Tensor, shift: int, spare: Tensor) -> Tensor:
    """state ^ (state >> shift) in place, the shift filling with zeros."""
    torch.bitwise_right_shift(state, shift, out=spare)
    return state.bitwise_xor_(spare.bitwise_and_((1 << (64 - shift)) - 1))


def bare(name: str) -> str:
    """A tensor's name without what only wraps others: files and loaded models wrap the same layers differently.

    >>> bare("language_model.model.layers.0.mlp.weight") == bare("model.language_model.layers.0.mlp.weight")
    True
    """
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts).replace("embed_out.", "lm_head.")


def layer_count(names: list[str]) -> int:
    """How many layers a model with these tensors has; at least 1.

    >>> layer_count(["a.layers.0.w", "a.layers.11.w", "norm.weight"])
    12
    """
    return 1 + max((int(found[1]) for name in names if (found := LAYER.search(name))), default=0)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


# splitmix64: a Weyl sequence through a mixer of 64 bits; torch multiplies integers modulo 2^64 on every device.
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))
