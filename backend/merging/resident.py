"""A pair held in memory, so that each λ is one pass of arithmetic into a loaded model and no file is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.checkpoints.names import bare, by_bare, is_derived
from backend.checkpoints.reader import Source
from backend.checkpoints.tying import find_ends
from backend.errors import UserError
from backend.lazy import torch
from backend.merging.arithmetic import Step, left_alone, merge_whole, rewrite, walked_step
from backend.merging.crew import Crew
from backend.merging.inputs import Bundle, Models
from backend.merging.ops import Effect, Walk
from backend.merging.survey import standings
from backend.registry import Plugin

if TYPE_CHECKING:
    from torch import Tensor


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
        self._hold(Models(aligned, tuned, dict(extras or {})), device, seed)

    @classmethod
    def of(cls, models: Models, device: str | torch.device = "cpu", *, seed: int = 0) -> ResidentPair:
        """The same from sources that were opened and fitted together."""
        pair = cls.__new__(cls)
        pair._hold(models, device, seed)
        return pair

    def _hold(self, models: Models, device: str | torch.device, seed: int) -> None:
        self._tensors: dict[str, Bundle | Tensor] = {}
        for name in models.names:
            self._tensors[name] = models.read(name, seed=seed).to(device)
        self._ends = find_ends(models.names)
        self._steps: dict[str, tuple[Step, Walk]] = {}
        self._answers: dict[str, list[Any]] = {}
        self._standings: dict[str, int] = {}
        self._prepared_for: tuple[str, dict[str, Any]] | None = None

    @property
    def bytes(self) -> int:
        """What the pair holds in memory."""
        held = [one.tensors if isinstance(one, Bundle) else [one] for one in self._tensors.values()]
        tensors = [tensor for group in held for tensor in group]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def moved(self) -> set[str]:
        """The kinds of module that differ between the language models, as `Place.kind` says."""
        bundles = [one for one in self._tensors.values() if isinstance(one, Bundle)]
        return {bundle.place.kind for bundle in bundles if not (bundle.equal or bundle.place.tower)}

    @property
    def untied(self) -> bool:
        """Whether the merged model needs a head of its own; a model that ties its own cannot take it."""
        return self._ends is not None and self._ends.head in self._tensors

    def write_into(
        self,
        targets: Mapping[str, Tensor],
        method: Plugin,
        parameters: dict[str, Any],
        *,
        effect: Effect | None = None,
    ) -> dict[str, float | None]:
        """Write θ(λ) into `targets` and return its effective projection and distance.

        Each number is what `merge_to_folder` would have written, cast to the target's dtype.

        Args:
            targets: parameters and buffers of a loaded model by name, as in its `state_dict()`; written in place. Two
                names of one storage (a tied head) are written once.
            method: a registered merge method.
            parameters: its knobs, already checked.
            effect: summed up on the way where given.

        Raises:
            UserError: a tensor of the pair that the model lacks or has in another shape.
        """
        self._prepare(method, parameters)
        effect = Effect() if effect is None else effect
        places = _places(self._tensors, targets)
        written: dict[tuple[torch.device, int], str] = {}
        with torch.inference_mode(), Crew() as crew:
            for name, held in self._tensors.items():
                target = targets[places[name]] if name in places else None
                if target is not None:
                    _check_shape(name, target, held.aligned if isinstance(held, Bundle) else held)
                place = (target.device, target.data_ptr()) if target is not None and target.numel() else None
                if not isinstance(held, Bundle):
                    merged: Tensor | None = held
                else:
                    held = replace(held, standing=self._standings.get(name))
                    step, walk = self._step(held, method, parameters)
                    fresh = target if place not in written else None
                    merged, walked = self._merge(held, method, parameters, step, fresh, crew)
                    if not held.equal:
                        effect.count(walk or walked, parameters[method.facts["knob"]])
                if target is None:
                    continue
                if place is not None and place in written:
                    crew.wait()
                    _check_twin(name, written[place], target, merged)
                    continue
                if merged is not None:
                    target.copy_(merged)
                if place is not None:
                    written[place] = name
        return effect.to_json()

    def _merge(
        self,
        held: Bundle,
        method: Plugin,
        parameters: dict[str, Any],
        step: Step | None,
        target: Tensor | None,
        crew: Crew,
    ) -> tuple[Tensor | None, Walk]:
        """The merged tensor, None where it is in `target` already, and how far it goes where no step says so."""
        # What a blend asks of its tensors is the same for every λ.
        answers = self._answers.setdefault(held.place.name, []) if method.facts["gives"] == "blend" else None
        if target is not None:
            walk = rewrite(held, method, parameters, target, step=step, answers=answers, crew=crew)
            if walk is not None:
                return None, walk
        return merge_whole(held, method, parameters, step=step, answers=answers)

    def _prepare(self, method: Plugin, parameters: dict[str, Any]) -> None:
        """Forget what belongs to other knobs than these, and survey the tensors where the method wants that."""
        knobs = {key: value for key, value in parameters.items() if key != method.facts["knob"]}
        if self._prepared_for != (method.name, knobs):
            bundles = (held for held in self._tensors.values() if isinstance(held, Bundle))
            self._steps, self._answers, self._standings = {}, {}, standings(bundles, method, parameters)
            self._prepared_for = (method.name, knobs)

    def _step(
        self, bundle: Bundle, method: Plugin, parameters: dict[str, Any]
    ) -> tuple[Step, Walk] | tuple[None, None]:
        """The step of this tensor, kept for the next λ; none where the method gives no steps."""
        if method.facts["gives"] != "step" or left_alone(bundle, method):
            return None, None
        name = bundle.place.name
        if name not in self._steps:
            self._steps[name] = walked_step(bundle, method, parameters)
        return self._steps[name]


def _places(names: Iterable[str], targets: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor of the pair -> tensor of the model; by name, else by the name without what only wraps others.

    Raises:
        UserError: a tensor that the model does not have.
    """
    places = {name: name for name in names if name in targets}
    unwrapped = by_bare(targets)
    for name in names:
        found = unwrapped.get(bare(name))
        if name not in places and found:
            places[name] = found
        elif name not in places and not is_derived(name):
            problem = f"the loaded model has no tensor `{name}`"
            raise UserError("aligned", problem=problem, remedy="Load the aligned model of this pair.")
    return places


def _check_shape(name: str, target: Tensor, merged: Tensor) -> None:
    if target.shape != merged.shape:
        problem = f"`{name}` is {list(target.shape)} in the loaded model, {list(merged.shape)} in the pair"
        raise UserError("aligned", problem=problem, remedy="Load the aligned model of this pair.")


def _check_twin(name: str, first: str, target: Tensor, merged: Tensor | None) -> None:
    if merged is None or not torch.equal(target, merged.to(device=target.device, dtype=target.dtype)):
        problem = f"`{name}` and `{first}` differ in this pair but are one tensor in the loaded model"
        raise UserError("tuned", problem=problem, remedy="Load the model with tie_word_embeddings false.")
