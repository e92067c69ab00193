"""What goes into a merge: one tensor out of every model, checked, under the names that methods ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from backend.checkpoints.names import bare, is_derived
from backend.checkpoints.reader import Scratch, Source, read_array
from backend.checkpoints.tying import find_ends
from backend.errors import UserError
from backend.lazy import numpy as np
from backend.lazy import torch
from backend.merging.arrays import equal
from backend.merging.blocks import BLOCK, Splits, Whole, block_shape
from backend.merging.place import Place, layer_count

if TYPE_CHECKING:
    from torch import Tensor

    from backend.checkpoints.reader import Array

# Below this no difference and no merge of ours leaves fp32, so they need no check of their own.
SURELY_FINITE = 1e18
FIRST_LOOK = 2**12  # elements: models that differ mostly do so at once


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
    gram: Tensor | None = None
    standing: int | None = None
    shared: int | None = None  # elements; those after them are the donor's in every model, and stay

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
                raise _unequal_shapes(place.name, aligned.shape, tensor.shape, role)
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

    def block(self, begin: int, end: int, splits: Splits) -> Bundle:
        """Elements `begin` to `end` of every tensor, as views."""
        shape = block_shape(self.aligned.shape, splits, begin, end)
        start = self.aligned.reshape(-1)[begin:end].reshape(shape)
        others = [
            start if one is self.aligned else one.reshape(-1)[begin:end].reshape(shape)
            for one in (*self.tuned, *self.extras.values())
        ]
        place = replace(self.place, begin=begin) if begin else self.place
        extras = dict(zip(self.extras, others[len(self.tuned) :], strict=True))
        shared = None if self.shared is None else max(self.shared - begin, 0)
        return replace(
            self, place=place, aligned=start, tuned=tuple(others[: len(self.tuned)]), extras=extras, shared=shared
        )

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
        gram = None if self.gram is None else self.gram.to(device)
        return replace(self, aligned=start, tuned=tuple(moved[: len(self.tuned)]), extras=extras, gram=gram)


class Arguments:
    """The tensors of a bundle under the names that methods ask for, each made when it is asked for.

    In fp32, or with `stored` in the dtypes they are stored in.
    """

    def __init__(self, bundle: Bundle, whole: Whole, *, stored: bool = False) -> None:
        self._bundle = bundle
        self._stored = stored
        self.place = bundle.place
        self.whole = whole
        self.gram = bundle.gram
        self.standing = bundle.standing

    def __getattr__(self, name: str) -> Tensor:
        return self._bundle.extras[name].float()

    @cached_property
    def aligned(self) -> Tensor:
        return self._bundle.aligned if self._stored else self._bundle.aligned.float()

    @cached_property
    def models(self) -> list[Tensor]:
        return [tensor if self._stored else tensor.float() for tensor in self._bundle.tuned]

    @cached_property
    def deltas(self) -> list[Tensor]:
        found = [tensor.float() - self.aligned for tensor in self._bundle.tuned]
        if self._bundle.largest > SURELY_FINITE and not all(bool(torch.isfinite(delta).all()) for delta in found):
            problem = f"`{self.place.name}` overflows: the models are further apart than fp32 holds"
            raise UserError("tuned", problem=problem, remedy="Use a checkpoint whose training did not diverge.")
        return found

    @property
    def fine_tuned(self) -> Tensor:
        return self.models[0]

    @property
    def delta(self) -> Tensor:
        return self.deltas[0]

    @cached_property
    def goal(self) -> Tensor | None:
        """What the effect is measured against: what fine-tuning changed, of several the mean; None without any."""
        if not self._bundle.tuned:
            return None
        return self.delta if len(self.deltas) == 1 else torch.stack(self.deltas).mean(0)


@dataclass(frozen=True)
class Models:
    """The sources of one merge, and what was measured before it: Gram matrices and standings, by tensor name."""

    aligned: Source
    tuned: Sequence[Source]
    extras: Mapping[str, Source] = field(default_factory=dict)
    grams: Mapping[str, Tensor] = field(default_factory=dict)
    standings: dict[str, int] = field(default_factory=dict)
    rows: int | None = None

    @property
    def untied(self) -> bool:
        """Whether the merged model has a head of its own."""
        ends = find_ends(self.names)
        return ends is not None and ends.head in self.names

    @cached_property
    def names(self) -> list[str]:
        """The tensors of the merged model, in the aligned model's order.

        A head that only a fine-tuned model holds makes the merged model untied: it comes last. What models compute
        themselves is the aligned model's, whether the others have it or not.

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
            missing = [name for name in names if name not in there and name != head and not is_derived(name)]
            extra = [name for name in theirs if name not in here and name != head and not is_derived(name)]
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
        moved = frozenset().union(*(source.changed_names() for source in sources))
        return self.aligned.changed_names() & moved - self._only_ours

    @cached_property
    def _only_ours(self) -> frozenset[str]:
        """What the models compute themselves and not all of them hold."""
        others = [set(source.names()) for source in (*self.tuned, *self.extras.values())]
        derived = [name for name in self.aligned.names() if is_derived(name)]
        return frozenset(name for name in derived if any(name not in there for there in others))

    def read(self, name: str, *, seed: int = 0) -> Bundle | Tensor:
        """One tensor of every model; the aligned one alone where it holds no weights, which must then be equal."""
        start = self.aligned.read(name)
        if not start.dtype.is_floating_point:
            return torch.from_numpy(self.constant(name)).reshape(start.shape)
        changed = name in self.changed
        tuned = [source.read(name) if changed else start for source in self.tuned]
        extras = {key: source.read(name) if changed else start for key, source in self.extras.items()}
        bundle = Bundle.of(self.place(name, seed=seed), start, tuned, extras)
        return self._with_facts(bundle, start.shape)

    def constant(self, name: str) -> Array:
        """The numbers of a tensor that holds no weights, laid flat.

        Raises:
            UserError: they are others in one of the models.
        """
        ours, *theirs = (
            source.lies(name) for source in (self.aligned, *(self.tuned if name not in self._only_ours else ()))
        )
        assert ours
        numbers = read_array(ours, 0, ours.elements)
        for info in theirs:
            assert info
            if not np.array_equal(numbers, read_array(info, 0, info.elements)):
                problem = f"`{name}` holds integers ({ours.dtype}) that differ between the two models"
                raise UserError("tuned", problem=problem, remedy="Dequantise both, or pick a matching pair.")
        return numbers

    def _with_facts(self, bundle: Bundle, shape: Sequence[int]) -> Bundle:
        """With what was measured of the tensor, and how far into this part of it the models share their rows."""
        name, shared = bundle.place.name, None
        if self.rows is not None and bundle.place.kind in ("embedding", "head"):
            shared = max(self.rows * math.prod(shape[1:]) - bundle.place.begin, 0)
        return replace(bundle, gram=self._grams.get(bare(name)), standing=self.standings.get(name), shared=shared)

    @cached_property
    def _grams(self) -> dict[str, Tensor]:
        return {bare(name): gram for name, gram in self.grams.items()}

    def equal_ones(self, name: str) -> list[bool]:
        """Which of the others have the aligned tensor; reads each only as far as it is equal.

        Raises:
            UserError: shapes that differ.
        """
        shape = self.aligned.shape(name)
        others = [("fine_tuned", one) for one in self.tuned] + list(self.extras.items())
        if name not in self.changed:
            return [True] * len(others)
        for role, source in others:
            if source.shape(name) != shape:
                raise _unequal_shapes(name, shape, source.shape(name), role)
        return [self._is_equal(name, source) for _, source in others]

    def _is_equal(self, name: str, source: Source) -> bool:
        total = math.prod(self.aligned.shape(name))
        ours, theirs = self.aligned.lies(name), source.lies(name)
        begin, size = 0, FIRST_LOOK
        while begin < total:
            end = min(total, begin + size)
            if ours and theirs and ours.dtype == theirs.dtype:
                same = equal(read_array(ours, begin, end), read_array(theirs, begin, end))
            else:
                same = _equal(self.aligned.read_block(name, begin, end), source.read_block(name, begin, end))
            if not same:
                return False
            begin, size = end, BLOCK
        return True

    def block(
        self, name: str, begin: int, end: int, splits: Splits, equal: Sequence[bool], *, seed: int, scratch: Scratch
    ) -> Bundle:
        """Elements `begin` to `end` of every model, checked to be numbers.

        Args:
            equal: what `equal_ones` says of the tensor.
            scratch: memory that the tensors given before by this call may lose.
        """
        shape = block_shape(self.aligned.shape(name), splits, begin, end)
        start = self.aligned.read_block(name, begin, end, scratch.part(0, end - begin)).reshape(shape)
        sources = [*self.tuned, *self.extras.values()]
        roles = ["fine_tuned"] * len(self.tuned) + list(self.extras)
        others, largest = [], 0.0
        for number, (source, same) in enumerate(zip(sources, equal, strict=True)):
            one = (
                start
                if same
                else source.read_block(name, begin, end, scratch.part(number + 1, end - begin)).reshape(shape)
            )
            others.append(one)
            if not same:
                largest = max(largest, _largest(one, name, roles[number]))
        if not all(equal):
            largest = max(largest, _largest(start, name, "aligned"))
        extras = dict(zip(self.extras, others[len(self.tuned) :], strict=True))
        place = self.place(name, begin, seed=seed)
        block = Bundle(place, start, tuple(others[: len(self.tuned)]), extras, largest)
        return self._with_facts(block, self.aligned.shape(name))

    def place(self, name: str, begin: int = 0, *, seed: int) -> Place:
        """Where a block of a tensor is."""
        return Place(name, self._layers, seed, begin)

    @cached_property
    def _layers(self) -> int:
        return layer_count(self.names)


def _unequal_shapes(name: str, ours: Sequence[int], theirs: Sequence[int], role: str) -> UserError:
    problem = f"`{name}` is {list(ours)} in aligned, {list(theirs)} in {role}"
    field = "tuned" if role == "fine_tuned" else role
    return UserError(field, problem=problem, allowed="equal shapes", remedy="Pick a matching pair.")


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) if one.dtype == other.dtype else torch.equal(one.float(), other.float())


def _largest(tensor: Tensor, name: str, role: str) -> float:
    """The largest magnitude, in one pass without a copy."""
    if not tensor.numel():
        return 0.0
    low, high = torch.aminmax(tensor)
    return checked_largest(max(abs(float(low)), abs(float(high))), name, role)


def checked_largest(largest: float, name: str, role: str) -> float:
    """The largest magnitude of a tensor, which must be a number; NaN stands for any that is none."""
    if not largest < float("inf"):
        problem = f"`{name}` holds NaN or infinite numbers in the {role.replace('_', '-')} model"
        field = "tuned" if role == "fine_tuned" else role
        raise UserError(field, problem=problem, remedy="Use a checkpoint that was saved before training diverged.")
    return largest


def overflow(name: str, largest: float, method: str) -> UserError:
    """What a merge of such large numbers makes does not fit the dtype."""
    problem = f"`{name}` overflows in {method}: it holds numbers up to {largest:g}"
    return UserError("tuned", problem=problem, remedy="Use a checkpoint whose training did not diverge.")
