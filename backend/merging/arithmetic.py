"""The arithmetic of one tensor, or of a block of one: to fp32, through the method, rounded once to the stored dtype.

A method sees fp32 tensors of one shape and its knobs. Where tensors come from and where they go is not known here; the
path to files and the path in memory both end in `merge_block`, so they agree bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from backend.lazy import torch
from backend.merging.arrays import array_of
from backend.merging.blocks import BLOCK, Whole, over_blocks, spans
from backend.merging.by_tensor import settled
from backend.merging.crew import Crew
from backend.merging.inputs import SURELY_FINITE, Arguments, Bundle, overflow
from backend.merging.ops import STRAIGHT, Blend, Walk, round_once, walk_of
from backend.merging.passes import GPU_BLOCK, write_blend, write_line, write_step
from backend.registry import Plugin

if TYPE_CHECKING:
    from torch import Tensor

Step = tuple["Tensor | None", "Tensor"]


def merge_one(bundle: Bundle, method: Plugin, parameters: dict[str, Any], *, step: Step | None = None) -> Tensor:
    """One tensor: to fp32, through the method, rounded once to the aligned dtype. Inputs stay as they are.

    Where every model has the same tensor it is returned as it is: merging a model with itself gives it back.

    Args:
        step: what `step_of` gave for the same bundle and knobs, where a sweep has it already.
    """
    return merge_whole(bundle, method, parameters, step=step)[0]


def merge_whole(
    bundle: Bundle,
    method: Plugin,
    parameters: dict[str, Any],
    *,
    step: Step | None = None,
    answers: list[Any] | None = None,
) -> tuple[Tensor, Walk]:
    """`merge_one` block by block, and how far it goes.

    Args:
        answers: what the method asked of this tensor before, see `over_blocks`.
    """
    if left_alone(bundle, method):
        return bundle.aligned, Walk()
    merged, walk = torch.empty_like(bundle.aligned), Walk()
    splits = method.facts["splits"]
    cuts = spans(bundle.aligned.shape, splits, block=_block(bundle.aligned))

    def visit(index: int, whole: Whole) -> tuple[Tensor, Walk]:
        begin, end = cuts[index]
        known = None if step is None else tuple(None if part is None else _flat(part, begin, end) for part in step)
        return merge_block(bundle.block(begin, end, splits), method, parameters, whole, step=cast("Step | None", known))

    parts = over_blocks(merged.numel(), len(cuts), visit, answers=answers)
    for (begin, end), (part, one) in zip(cuts, parts, strict=True):
        _flat(merged, begin, end).copy_(part.reshape(-1))
        walk += one
    return merged, walk


def merge_block(
    block: Bundle, method: Plugin, parameters: dict[str, Any], whole: Whole, *, step: Step | None = None
) -> tuple[Tensor, Walk]:
    """One block of a tensor: what it becomes, in the aligned dtype, and how far it goes.

    Args:
        whole: answers what the method asks about the tensor that this is a block of.
        step: what the method said of this block, laid flat, where that is known; how far it goes is then not computed.
    """
    start, knob = block.aligned, parameters[method.facts["knob"]]
    straight = method.facts["straight"] and len(block.tuned) == 1
    if straight and block.tuned[0].dtype == start.dtype:
        exact, walk = _call(Arguments(block, whole, stored=True), method, parameters), STRAIGHT
    else:
        given = Arguments(block, whole)
        if method.facts["gives"] == "step":
            origin, direction = _step(given, method, parameters) if step is None else step
            walk = Walk() if step else _walk(given, origin, direction, block.shared)
            origin = given.aligned.reshape(direction.shape) if origin is None else origin
            # Two plain operations: a fused one rounds differently in the last elements of a block.
            exact = torch.mul(direction, knob).add_(origin) if knob else origin
        elif method.facts["gives"] == "blend":
            blend = _call(given, method, parameters)
            exact = blend.of(given.aligned, given.fine_tuned)
            known = None if block.shared is not None else blend.walk()
            walk = _blend_walk(given, exact, block.shared) if known is None else known if whole.first else Walk()
            walk += blend.counted() if whole.first else Walk()
        else:
            exact = _call(given, method, parameters)
            walk = STRAIGHT if straight else _walk(given, exact, None, block.shared)
    rounded = round_once(exact, start.dtype, block.place.name)
    if block.shared is not None:
        ours, theirs = rounded.reshape(-1)[: block.shared], start.reshape(-1)[block.shared :]
        rounded = torch.cat([ours, theirs]).reshape(rounded.shape)
    if block.largest > SURELY_FINITE and not bool(torch.isfinite(rounded).all()):
        raise overflow(block.place.name, block.largest, method.name)
    return rounded, walk


def rewrite(
    bundle: Bundle,
    method: Plugin,
    parameters: dict[str, Any],
    target: Tensor,
    *,
    step: Step | None = None,
    answers: list[Any] | None = None,
    crew: Crew | None = None,
) -> Walk | None:
    """Write what `merge_one` gives straight into `target`, for what a sweep does most; None where that is not enough.

    That is a straight walk between two tensors of one dtype, a known step, and a blend of two of which all that it asks
    is known. Gives how far it goes; of a step its caller knows that.
    """
    start, knob, crew = bundle.aligned, parameters[method.facts["knob"]], crew or Crew()
    like = target.is_contiguous() and target.device == start.device
    if not like or bundle.largest > SURELY_FINITE or left_alone(bundle, method):
        return None
    if method.facts["straight"] and len(bundle.tuned) == 1:
        goal = bundle.tuned[0]
        if goal.dtype != start.dtype or (start.dtype == torch.float16 and not 0 <= knob <= 1):
            return None
        if knob in (0, 1):  # lerp would turn −0.0 into 0.0
            target.copy_(goal if knob else start)
        else:
            write_line(start, goal, knob, target, crew)
        _keep_tail(bundle, target, crew)
        return STRAIGHT
    if method.facts["gives"] == "blend" and answers and start.dtype != torch.float16:
        return _rewrite_blend(bundle, method, parameters, target, answers, crew)
    if step is None or start.dtype == torch.float16:
        return None
    origin = start if step[0] is None else step[0]
    if knob:
        write_step(origin, step[1], knob, target, start.dtype, crew)
    else:
        target.copy_(origin.to(start.dtype))
    _keep_tail(bundle, target, crew)
    return STRAIGHT


def _rewrite_blend(
    bundle: Bundle, method: Plugin, parameters: dict[str, Any], target: Tensor, answers: list[Any], crew: Crew
) -> Walk | None:
    start, goal = bundle.aligned, bundle.tuned[0]
    # All that it asks of the tensor is answered, so one element is enough to hear its coefficients.
    asked = Arguments(bundle.block(0, 1, "elements"), Whole(start.numel(), blocks=2, answers=answers))
    blend: Blend = _call(asked, method, parameters)
    walk = blend.walk()
    if walk is None or bundle.shared is not None:
        return None
    write_blend(start, goal, (blend.first, blend.second), target, start.dtype, crew)
    return walk + blend.counted()


def step_of(bundle: Bundle, method: Plugin, parameters: dict[str, Any]) -> Step:
    """What a method that gives steps says of a tensor: (start, τ) in fp32; a start of None is the aligned tensor."""
    return walked_step(bundle, method, parameters)[0]


def walked_step(bundle: Bundle, method: Plugin, parameters: dict[str, Any]) -> tuple[Step, Walk]:
    """`step_of`, and how far it goes for every knob."""
    origin: Tensor | None = None
    direction, walk = torch.empty_like(bundle.aligned, dtype=torch.float32), Walk()
    splits = method.facts["splits"]
    cuts = spans(bundle.aligned.shape, splits, block=_block(bundle.aligned))

    def visit(index: int, whole: Whole) -> tuple[Step, Walk]:
        block = bundle.block(*cuts[index], splits)
        given = Arguments(block, whole)
        start, step = _step(given, method, parameters)
        return (start, step), _walk(given, start, step, block.shared)

    parts = over_blocks(direction.numel(), len(cuts), visit)
    for (begin, end), ((start, step), one) in zip(cuts, parts, strict=True):
        _flat(direction, begin, end).copy_(step.reshape(-1))
        if start is not None:
            origin = torch.empty_like(direction) if origin is None else origin
            _flat(origin, begin, end).copy_(start.reshape(-1))
        walk += one
    return (_halved(origin, bundle.aligned.dtype), direction), walk


def _halved(origin: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """In the stored dtype where that holds the very numbers, as those of a fine-tuned model."""
    if origin is None or dtype == torch.float32:
        return origin
    stored = origin.to(dtype)
    return stored if torch.equal(stored.float(), origin) else origin


def left_alone(bundle: Bundle, method: Plugin) -> bool:
    """Whether every model has the same tensor, which then stays as it is."""
    return bundle.equal and bool(method.facts["keeps_equal"])


def _keep_tail(bundle: Bundle, merged: Tensor, crew: Crew) -> None:
    """The donor's rows are every model's: what a sum of floats would make of them is not asked."""
    if bundle.shared is not None:
        crew.wait()
        merged.reshape(-1)[bundle.shared :] = bundle.aligned.reshape(-1)[bundle.shared :]


def _block(tensor: Tensor) -> int:
    """Elements of a block: what a core's cache holds, or what keeps a GPU busy."""
    return BLOCK if tensor.device.type == "cpu" else GPU_BLOCK


def _flat(tensor: Tensor, begin: int, end: int) -> Tensor:
    return tensor.reshape(-1)[begin:end]


def _walk(given: Arguments, start: Tensor | None, step: Tensor | None, shared: int | None) -> Walk:
    """How far a block goes from the aligned one, over the elements that all models share."""
    moved = None if start is None else start - given.aligned
    parts = (moved, step, given.goal, given.aligned if given.goal is None else None)
    return Walk.of(*(None if one is None else one.reshape(-1)[:shared] for one in parts))


def _blend_walk(given: Arguments, exact: Tensor, shared: int | None) -> Walk:
    """The same of a blend whose dots do not say it, as `Direct` has it without torch."""
    if shared is not None or exact.device.type != "cpu":
        return _walk(given, exact, None, shared)
    moved, delta = (array_of(one.reshape(-1)) for one in (exact - given.aligned, given.delta))
    return walk_of(moved, delta, compiled=given.whole.large)


def _step(given: Arguments, method: Plugin, parameters: dict[str, Any]) -> Step:
    said = _call(given, method, {key: value for key, value in parameters.items() if key != method.facts["knob"]})
    return said if isinstance(said, tuple) else (None, said)


def _call(given: Arguments, method: Plugin, parameters: dict[str, Any]) -> Any:
    return method.function(*[getattr(given, name) for name in method.takes], **settled(parameters, given.place))
