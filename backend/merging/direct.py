"""Blocks of two models merged as NumPy arrays, without torch: straight lines and arcs, which λ is turned of most.

Loading torch takes longer than merging a model of half a billion parameters, and its passes longer than one compiled
loop. The bits are those of `merge_block`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from backend.checkpoints.headers import FLOATS
from backend.checkpoints.reader import Scratch, read_array
from backend.lazy import numpy as np
from backend.merging.arrays import compiled_loops, largest, widened
from backend.merging.blocks import Whole
from backend.merging.by_tensor import settled
from backend.merging.inputs import SURELY_FINITE, Models, checked_largest, overflow
from backend.merging.ops import STRAIGHT, Blend, Walk, walk_of
from backend.registry import Plugin
from backend.types import Checkpoint

if TYPE_CHECKING:
    from backend.checkpoints.reader import Array

DTYPES = ("BF16", "F32")
ASKED_FOR = {"aligned", "fine_tuned", "place", "whole"}  # a blend asks `whole` about the tensors, and nothing else


class Direct:
    """One merge; `direct` makes it where all of its tensors can be merged so."""

    def __init__(
        self, models: Models, method: Plugin, parameters: dict[str, Any], *, seed: int, loops: ModuleType
    ) -> None:
        self._models = models
        self._method = method
        self._parameters = parameters
        self._seed = seed
        self._loops = loops
        self._scratch = Scratch()

    def merge(self, name: str, begin: int, end: int, whole: Whole) -> tuple[Array, Walk]:
        """Elements `begin` to `end` of the merged tensor, in memory that the thread takes again, and their walk."""
        aligned, tuned = _lies(self._models, name)
        start = read_array(aligned, begin, end, self._scratch.part(0, end - begin))
        goal = read_array(tuned, begin, end, self._scratch.part(1, end - begin))
        target = np.frombuffer(self._scratch.part(2, end - begin), start.dtype, start.size)
        most = SURELY_FINITE
        if whole.fresh:  # later rounds see the same numbers, and only look at what they make of them
            most = max(_checked(goal, name, "fine_tuned"), _checked(start, name, "aligned"))
        place = self._models.place(name, begin, seed=self._seed)
        knobs = settled(self._parameters, place)
        if self._method.facts["straight"]:
            merged, walk = self._line(start, goal, knobs[self._method.facts["knob"]], target), STRAIGHT
        else:
            given = {"aligned": start, "fine_tuned": goal, "place": place, "whole": whole}
            blend: Blend = self._method.function(*[given[name] for name in self._method.takes], **knobs)
            merged, walk = self._blend(start, goal, blend, target), _walk(start, goal, blend, whole)
        if most >= SURELY_FINITE and not largest(merged) < float("inf"):
            raise overflow(name, max(largest(goal), largest(start)), self._method.name)
        return merged, walk

    def _line(self, start: Array, goal: Array, share: float, target: Array) -> Array:
        if share in (0, 1):  # lerp would turn −0.0 into 0.0
            return goal if share else start
        self._loops.line(start, goal, share, target)
        return target

    def _blend(self, start: Array, goal: Array, blend: Blend, target: Array) -> Array:
        if blend.is_end:
            return start if blend.first else goal
        self._loops.blend(start, goal, blend.first, blend.second, target, target.dtype.type(0))
        return target


def direct(models: Models, method: Plugin, parameters: dict[str, Any], *, seed: int) -> Direct | None:
    """A merge of one fine-tuned model whose tensors all lie in files as bf16 or fp32; None of any other."""
    loops = None
    if len(models.tuned) == 1 and not models.extras and _is_simple(method):
        pairs = [_lies(models, name) for name in models.names if name in models.changed]
        if all(one and two and one.dtype == two.dtype and one.dtype in DTYPES for one, two in pairs):
            loops = compiled_loops()
    if loops is None or (method.facts["straight"] and not loops.lerp_is_fused()):
        return None
    return Direct(models, method, parameters, seed=seed, loops=loops)


def needs_no_torch(method: Plugin, aligned: Checkpoint, others: Sequence[Checkpoint]) -> bool:
    """Whether a merge of such checkpoints is made by `Direct`, as far as their headers say."""
    if len(others) != 1 or others[0].kind != "full" or not _is_simple(method) or find_spec("numba") is None:
        return False
    theirs = others[0].tensors
    pairs = [(one, theirs.get(name)) for name, one in aligned.tensors.items() if one.dtype in FLOATS]
    return all(
        one.dtype in DTYPES and (two is None or (two.dtype, two.shape) == (one.dtype, one.shape)) for one, two in pairs
    )


def _walk(start: Array, goal: Array, blend: Blend, whole: Whole) -> Walk:
    """How far one block goes, in the sums that `merge_block` makes."""
    walk = blend.counted() if whole.first else Walk()
    if (known := blend.walk()) is not None:
        return walk + known if whole.first else walk
    begin, end = widened(start), widened(goal)
    if blend.is_end:
        exact = begin if blend.first else end
    else:
        exact = begin * np.float32(blend.first) + end * np.float32(blend.second)
    return walk + walk_of(exact - begin, end - begin, compiled=whole.large)


def _is_simple(method: Plugin) -> bool:
    return method.facts["straight"] or (method.facts["gives"] == "blend" and ASKED_FOR.issuperset(method.takes))


def _lies(models: Models, name: str) -> tuple[Any, Any]:
    return models.aligned.lies(name), models.tuned[0].lies(name)


def _checked(array: Array, name: str, role: str) -> float:
    return checked_largest(largest(array), name, role)
