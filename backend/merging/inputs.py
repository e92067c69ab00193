"""What goes into a merge: which checkpoints and knobs a method accepts, and one tensor out of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.checkpoints.reader import Source
from backend.checkpoints.tying import find_ends
from backend.errors import UserError
from backend.lazy import torch
from backend.merging.place import Place, layer_count
from backend.params import check_parameters
from backend.registry import EXTRA_INPUTS, Plugin

if TYPE_CHECKING:
    from torch import Tensor

# Below this no merge of ours leaves fp32, so its result needs no check of its own.
SURELY_FINITE = 1e18


def check_request(
    method: Plugin, parameters: Mapping[str, Any], *, tuned: int = 1, extras: Sequence[str] = ()
) -> dict[str, Any]:
    """The knobs completed and checked, those left out that say nothing with `tuned` fine-tuned models.

    Raises:
        UserError: too few or too many models, a checkpoint that is missing or not used, a knob out of range, without
            effect, or that does not go with another.

    >>> from backend.registry import methods
    >>> check_request(methods.get("ties"), {"density": 0.2})
    {'lam': 0.6, 'density': 0.2}
    >>> check_request(methods.get("sce"), {})
    Traceback (most recent call last):
    backend.errors.UserError: tuned: sce takes 2 or more fine-tuned models, 1 was given; with one fine-tuned model no \
element varies: it gives that model, or the aligned one.
    """
    _check_count(method, tuned)
    for name in method.facts["extras"]:
        if name not in extras:
            remedy = "Name its checkpoint."
            raise UserError(name, problem=f"{method.name} needs {EXTRA_INPUTS[name]}", remedy=remedy)
    for name in extras:
        if name not in method.facts["extras"]:
            raise UserError(name, problem=f"{method.name} does not use it", remedy="Leave it out.")
    checked = check_parameters(method.name, method.parameters, parameters)
    for parameter in method.parameters:
        if not parameter.several:
            continue
        value = checked[parameter.name]
        if tuned < 2:
            if value != (list(parameter.default) if parameter.kind == "list" else parameter.default):
                problem = "it changes nothing with one fine-tuned model"
                raise UserError(parameter.name, problem=problem, remedy=f"Leave it out; {method.facts['knob']} does.")
            del checked[parameter.name]
        elif parameter.name == "weights" and value and len(value) != tuned:
            allowed = f"one number for each of the {tuned} fine-tuned models"
            raise UserError("weights", got=value, allowed=allowed)
        elif parameter.name == "weights" and value and parameter.low == 0 and not sum(value):
            raise UserError("weights", got=value, allowed="at least one above 0")
    if method.facts["check"]:
        method.facts["check"](checked)
    return checked


def _check_count(method: Plugin, tuned: int) -> None:
    least, most = method.facts["fine_tunes"]
    if tuned >= least and (most is None or tuned <= most):
        return
    wanted = "no" if most == 0 else f"{least} or more" if most is None else f"exactly {least}"
    reason = f"; {method.facts['why']}" if tuned < least and method.facts["why"] else ""
    models = "model" if wanted == "exactly 1" else "models"
    given = f"{tuned} was given" if tuned == 1 else f"{tuned or 'none'} were given"
    raise UserError("tuned", problem=f"{method.name} takes {wanted} fine-tuned {models}, {given}{reason}")


@dataclass(frozen=True)
class Bundle:
    """One tensor of every model, in the dtypes they are stored in; all of one shape and finite.

    `tuned` and `extras` hold the aligned tensor itself where they are equal to it.
    """

    place: Place
    aligned: Tensor
    tuned: tuple[Tensor, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    largest: float = 0.0

    @classmethod
    def of(
        cls, place: Place, aligned: Tensor, tuned: Sequence[Tensor], extras: Mapping[str, Tensor] | None = None
    ) -> Bundle:
        """Check shapes and numbers, and hold equal tensors once.

        Raises:
            UserError: shapes that differ, or NaN and infinities, which no merge has a meaning for.
        """
        held: list[Tensor] = []
        everyone = [("fine_tuned", tensor) for tensor in tuned] + list((extras or {}).items())
        for role, tensor in everyone:
            if tensor.shape != aligned.shape:
                problem = f"`{place.name}` is {list(aligned.shape)} in aligned, {list(tensor.shape)} in {role}"
                field = "tuned" if role == "fine_tuned" else role
                raise UserError(field, problem=problem, allowed="equal shapes", remedy="Pick a matching pair.")
            equal = tensor is aligned or _equal(aligned, tensor)
            held.append(aligned if equal else tensor)
        largest = 0.0
        if any(tensor is not aligned for tensor in held):
            checked = [("aligned", aligned), *everyone]
            largest = max(_largest(tensor, place.name, role) for role, tensor in checked)
        names = list(extras or {})
        return cls(
            place, aligned, tuple(held[: len(tuned)]), dict(zip(names, held[len(tuned) :], strict=True)), largest
        )

    @property
    def equal(self) -> bool:
        """Whether every model has the aligned tensor."""
        return all(tensor is self.aligned for tensor in (*self.tuned, *self.extras.values()))

    @property
    def goal(self) -> Tensor:
        """What the effect is measured against: the fine-tuned tensor, of several the mean, of none the aligned one."""
        if not self.tuned:
            return self.aligned
        return self.tuned[0] if len(self.tuned) == 1 else torch.stack([one.float() for one in self.tuned]).mean(0)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor held, each once."""
        others = [tensor for tensor in (*self.tuned, *self.extras.values()) if tensor is not self.aligned]
        return [self.aligned, *others]

    def to(self, device: str | torch.device) -> Bundle:
        """The same on another device."""
        start = self.aligned.to(device)
        moved = [start if one is self.aligned else one.to(device) for one in (*self.tuned, *self.extras.values())]
        extras = dict(zip(self.extras, moved[len(self.tuned) :], strict=True))
        return Bundle(self.place, start, tuple(moved[: len(self.tuned)]), extras, self.largest)


class Arguments:
    """The fp32 tensors of a bundle under the names that methods ask for, each made when it is asked for."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.place = bundle.place

    def __getattr__(self, name: str) -> Tensor:
        return self._bundle.extras[name].float()

    @cached_property
    def aligned(self) -> Tensor:
        return self._bundle.aligned.float()

    @cached_property
    def models(self) -> list[Tensor]:
        return [tensor.float() for tensor in self._bundle.tuned]

    @cached_property
    def deltas(self) -> list[Tensor]:
        return [tensor.float() - self.aligned for tensor in self._bundle.tuned]

    @property
    def fine_tuned(self) -> Tensor:
        return self.models[0]

    @property
    def delta(self) -> Tensor:
        return self.deltas[0]


@dataclass(frozen=True)
class Models:
    """The sources of one merge."""

    aligned: Source
    tuned: Sequence[Source]
    extras: Mapping[str, Source] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The tensors of the merged model, in the aligned model's order.

        A head that only a fine-tuned model holds makes the merged model untied: it comes last.

        Raises:
            UserError: a tensor that one of the models does not have.
        """
        names = self.aligned.names()
        here = set(names)
        ends = find_ends(here)
        head = ends.head if ends else ""
        found = False
        for source in self.tuned:
            theirs = source.names()
            there = set(theirs)
            missing = [name for name in names if name not in there and name != head]
            extra = [name for name in theirs if name not in here and name != head]
            if missing or extra:
                who, name = ("fine-tuned", missing[0]) if missing else ("aligned", extra[0])
                raise UserError(
                    "tuned", problem=f"the {who} model has no tensor `{name}`", remedy="Pick a matching pair."
                )
            found = found or (head in there and head not in here)
        return [*names, head] if found else names

    @cached_property
    def changed(self) -> frozenset[str]:
        """Tensors that may differ from the aligned model's in any of the others."""
        sources = (*self.tuned, *self.extras.values())
        return frozenset(self.aligned.changed_names()).intersection(
            frozenset().union(*(source.changed_names() for source in sources))
        )

    def read(self, name: str, *, seed: int = 0) -> Bundle | Tensor:
        """One tensor of every model; the aligned one alone where it holds no weights, which must then be equal."""
        start = self.aligned.read(name)
        if not start.dtype.is_floating_point:
            for source in self.tuned:
                _check_constant(name, start, source)
            return start
        changed = name in self.changed
        tuned = [source.read(name) if changed else start for source in self.tuned]
        extras = {key: source.read(name) if changed else start for key, source in self.extras.items()}
        return Bundle.of(Place(name, self._layers, seed), start, tuned, extras)

    @cached_property
    def _layers(self) -> int:
        return layer_count(self.names)


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) if one.dtype == other.dtype else torch.equal(one.float(), other.float())


def _check_constant(name: str, start: Tensor, fine_tuned: Source) -> None:
    """Integers are no weights: they must be equal in both."""
    if not torch.equal(start, fine_tuned.read(name)):
        problem = f"`{name}` holds integers ({start.dtype}) that differ between the two models"
        raise UserError("tuned", problem=problem, remedy="Dequantise both, or pick a matching pair.")


def _largest(tensor: Tensor, name: str, role: str) -> float:
    """The largest magnitude, in one pass without a copy."""
    if not tensor.numel():
        return 0.0
    low, high = torch.aminmax(tensor)
    largest = max(abs(float(low)), abs(float(high)))
    if not largest < float("inf"):
        problem = f"`{name}` holds NaN or infinite numbers in the {role.replace('_', '-')} model"
        field = "tuned" if role == "fine_tuned" else role
        raise UserError(field, problem=problem, remedy="Use a checkpoint that was saved before training diverged.")
    return largest
