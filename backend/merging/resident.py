"""A pair held in memory, so that each λ is one pass of arithmetic into a loaded model and no file is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.checkpoints.reader import Source
from backend.checkpoints.tying import find_ends
from backend.errors import UserError
from backend.lazy import torch
from backend.merging.engine import Step, merge_one, step_of
from backend.merging.inputs import Bundle, Models
from backend.merging.ops import Effect
from backend.registry import Plugin

if TYPE_CHECKING:
    from torch import Tensor

# Computed by the model itself; old checkpoints store them and new models do not take them.
DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "attn.bias", "attention.bias")

WRAPPERS = frozenset({"model", "language_model", "transformer", "gpt_neox"})


class ResidentPair:
    """θ0 and what it is merged with; tensors that are equal in all are held once.

    Every θ(λ) is formed from θ0, never from the λ before, so that the order of a sweep changes no bit. What a method
    walks along is computed once and kept while its other knobs stay.
    """

    def __init__(
        self,
        aligned: Source,
        fine_tuned: Source | Sequence[Source],
        device: str | torch.device = "cpu",
        *,
        extras: Mapping[str, Source] | None = None,
        seed: int = 0,
    ) -> None:
        tuned = list(fine_tuned) if isinstance(fine_tuned, Sequence) else [fine_tuned]
        models = Models(aligned, tuned, dict(extras or {}))
        self._tensors: dict[str, Bundle | Tensor] = {}
        for name in models.names:
            self._tensors[name] = models.read(name, seed=seed).to(device)
        self._ends = find_ends(models.names)
        self._steps: dict[str, Step] = {}
        self._steps_of: tuple[str, dict[str, Any]] | None = None

    @property
    def bytes(self) -> int:
        """What the pair holds in memory."""
        held = [one.tensors if isinstance(one, Bundle) else [one] for one in self._tensors.values()]
        tensors = [tensor for group in held for tensor in group]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def untied(self) -> bool:
        """Whether the merged model needs a head of its own; a model that ties its own cannot take it."""
        return self._ends is not None and self._ends.head in self._tensors

    def write_into(self, targets: Mapping[str, Tensor], method: Plugin, parameters: dict[str, Any]) -> dict[str, float]:
        """Write θ(λ) into `targets` and return its effective projection and distance.

        Each number is what `merge_to_folder` would have written, cast to the target's dtype.

        Args:
            targets: parameters and buffers of a loaded model by name, as in its `state_dict()`; written in place. Two
                names of one storage (a tied head) are written once.
            method: a registered merge method.
            parameters: its knobs, already checked.

        Raises:
            UserError: a tensor of the pair that the model lacks or has in another shape.
        """
        effect = Effect()
        places = _places(self._tensors, targets)
        written: dict[tuple[torch.device, int], str] = {}
        with torch.inference_mode():
            for name, held in self._tensors.items():
                if isinstance(held, Bundle):
                    merged = merge_one(held, method, parameters, step=self._step(held, method, parameters))
                    if not held.equal:
                        effect.add(held.aligned, merged, held.goal)
                else:
                    merged = held
                if name not in places:
                    continue
                target = targets[places[name]]
                _check_shape(name, target, merged)
                place = (target.device, target.data_ptr())
                if target.numel() and place in written:
                    _check_twin(name, written[place], target, merged)
                    continue
                target.copy_(merged)
                written[place] = name
        return effect.to_json()

    def _step(self, bundle: Bundle, method: Plugin, parameters: dict[str, Any]) -> Step | None:
        """The step of this tensor, kept for the next λ."""
        if method.facts["gives"] != "step" or (bundle.equal and method.facts["keeps_equal"]):
            return None
        knobs = {key: value for key, value in parameters.items() if key != method.facts["knob"]}
        if self._steps_of != (method.name, knobs):
            self._steps, self._steps_of = {}, (method.name, knobs)
        name = bundle.place.name
        if name not in self._steps:
            self._steps[name] = step_of(bundle, method, parameters)
        return self._steps[name]


def _places(names: Iterable[str], targets: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor of the pair -> tensor of the model; by name, else by the name without what only wraps others.

    Raises:
        UserError: a tensor that the model does not have.
    """
    places = {name: name for name in names if name in targets}
    bare: dict[str, list[str]] = {}
    for target in targets:
        bare.setdefault(_bare(target), []).append(target)
    for name in names:
        found = bare.get(_bare(name), [])
        if name not in places and len(found) == 1:
            places[name] = found[0]
        elif name not in places and not name.endswith(DERIVED):
            problem = f"the loaded model has no tensor `{name}`"
            raise UserError("aligned", problem=problem, remedy="Load the aligned model of this pair.")
    return places


def _bare(name: str) -> str:
    """Files and loaded models wrap the same layers differently, and call the head by two names.

    >>> _bare("language_model.model.layers.0.mlp.weight") == _bare("model.language_model.layers.0.mlp.weight")
    True
    """
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts).replace("embed_out.", "lm_head.")


def _check_shape(name: str, target: Tensor, merged: Tensor) -> None:
    if target.shape != merged.shape:
        problem = f"`{name}` is {list(target.shape)} in the loaded model, {list(merged.shape)} in the pair"
        raise UserError("aligned", problem=problem, remedy="Load the aligned model of this pair.")


def _check_twin(name: str, first: str, target: Tensor, merged: Tensor) -> None:
    if not torch.equal(target, merged.to(device=target.device, dtype=target.dtype)):
        problem = f"`{name}` and `{first}` differ in this pair but are one tensor in the loaded model"
        raise UserError("tuned", problem=problem, remedy="Load the model with tie_word_embeddings false.")
