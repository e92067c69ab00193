"""Where a tensor sits in its model, and the random numbers that belong to it and to nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from backend.checkpoints.names import Tower, tower_of
from backend.checkpoints.tying import EMBEDDINGS, HEADS
from backend.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["embedding", "head", "norm", "attention", "mlp", "other"]
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
BLOCK = 2**16  # the dice do not depend on it; small enough for the cache
BITS = 24  # what an fp32 probability can tell apart
STRIDE = 0x9E3779B9  # a counter times this, then the two rounds of a 32-bit mixer: vectorised, unlike one of 64 bits


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
        """The layer's number from 0, None outside the layers of the language model."""
        return _layer(self.name)

    @property
    def tower(self) -> Tower:
        """The part that sees or hears, empty for the language model."""
        return tower_of(self.name)

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

    @property
    def module(self) -> Literal["attention", "mlp", "other"]:
        """The module that the tensor lies in, which a norm inside attention does too.

        >>> names = ("self_attn.q_norm", "mlp.up_proj", "post_attention_layernorm")
        >>> [Place(f"model.layers.0.{name}.weight").module for name in names]
        ['attention', 'mlp', 'other']
        """
        inside = replace(self, name=f"{self.name.rsplit('.', 2)[0]}.w") if self.kind == "norm" else self
        return inside.kind if inside.kind == "attention" or inside.kind == "mlp" else "other"

    @property
    def depth(self) -> float:
        """0 at the first layer and outside the layers, 1 at the last, even where there is one.

        >>> [Place(name, layers=3).depth for name in ("norm.weight", "layers.1.w", "layers.2.w")]
        [0.0, 0.5, 1.0]
        >>> Place("layers.0.w", layers=1).depth
        1.0
        """
        if self.layer is None:
            return 0.0
        return self.layer / (self.layers - 1) if self.layers > 1 else 1.0

    def counter(self, salt: int = 0) -> tuple[int, int]:
        """Where the counter of element `begin` stands, modulo 2³², and the key that is mixed in."""
        digest = hashlib.sha256(f"{self.seed}/{salt}/{self.name}".encode()).digest()
        first, key = (int.from_bytes(digest[at : at + 4], "little") for at in (0, 4))
        return (first + self.begin * STRIDE) % 2**32, key

    def dice(self, count: int, salt: int = 0, *, device: torch.device | str = "cpu") -> Tensor:
        """`count` whole numbers in [0, 2²⁴), int32, from element `begin` on: number i depends on (seed, name, salt, i).

        So the order of tensors, the block size, the device and a resume change nothing. They repeat after 2³² elements.

        >>> Place("w", seed=1).dice(3)[2:] == Place("w", seed=1, begin=2).dice(1)
        tensor([True])
        """
        first, key = self.counter(salt)
        out = torch.empty(count, dtype=torch.int32, device=device)
        steps = torch.arange(min(count, BLOCK), dtype=torch.int32, device=device).mul_(_signed(STRIDE))
        spare = torch.empty_like(steps)
        for begin in range(0, count, BLOCK):
            state = out[begin : begin + BLOCK]
            torch.add(steps[: len(state)], _signed(first + begin * STRIDE), out=state)
            _fold(state, 16, spare).mul_(_signed(0x7FEB352D))
            _fold(state, 15, spare).bitwise_xor_(_signed(key)).mul_(_signed(0x846CA68B))
        return out.bitwise_right_shift_(32 - BITS).bitwise_and_((1 << BITS) - 1)  # the upper bits are mixed best


def curve_at(curve: Sequence[float], depth: float) -> float:
    """A curve of one or more numbers at a depth from 0 to 1, along straight lines between them.

    >>> [curve_at((0.0, 1.0, 0.0), depth) for depth in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 0.0]
    """
    x = depth * (len(curve) - 1)
    left = int(x)
    right = min(left + 1, len(curve) - 1)
    return float((1 - x + left) * curve[left] + (x - left) * curve[right])


def _fold(state: Tensor, shift: int, spare: Tensor) -> Tensor:
    """state ^ (state >> shift) in place, the shift filling with zeros."""
    shifted = torch.bitwise_right_shift(state, shift, out=spare[: len(state)])
    return state.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))


def layer_count(names: list[str]) -> int:
    """How many layers a language model with these tensors has; at least 1.

    >>> layer_count(["a.layers.0.w", "a.layers.11.w", "norm.weight", "vision_tower.encoder.layers.26.w"])
    12
    """
    return 1 + max((layer for name in names if (layer := _layer(name)) is not None), default=0)


def _layer(name: str) -> int | None:
    found = None if tower_of(name) else LAYER.search(name)
    return int(found[1]) if found else None


def _signed(number: int) -> int:
    """The int32 with the bits of `number` modulo 2³²; torch multiplies int32 modulo 2³² on every device."""
    number %= 1 << 32
    return number - (1 << 32) if number >= 1 << 31 else number
