"""One tensor in blocks: where they begin and end, and what a method may ask of the whole while it sees one of them.

A method that takes `whole` is written as if it saw the whole tensor. Over blocks it is called for each of them until
it asks something that needs all: then the blocks' parts of the answer are put together and it is called again. The
blocks of a tensor follow from its shape alone, so threads, files and memory give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from backend.lazy import numpy as np
from backend.lazy import torch
from backend.merging import arrays
from backend.merging.arrays import WORTH, array_of

if TYPE_CHECKING:
    from torch import Tensor

Splits = Literal["elements", "rows", "tensor"]
Run = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]

BLOCK = 2**19  # elements: smaller ones wait for Python, larger ones leave the cache
PIECE = 2**16  # in fp64, for sums
LOW_BITS = 16


def spans(shape: Sequence[int], splits: Splits = "elements", *, block: int = BLOCK) -> list[tuple[int, int]]:
    """The first element of each block and the one after its last; whole rows wherever they fit.

    >>> spans((5, 3), block=7)
    [(0, 6), (6, 12), (12, 15)]
    >>> spans((2, 9), "rows", block=7), spans((9,), block=7), spans((5, 3), "tensor", block=7)
    ([(0, 9), (9, 18)], [(0, 7), (7, 9)], [(0, 15)])
    """
    columns, total = (shape[-1] if shape else 1), 1
    for size in shape:
        total *= size
    if splits == "tensor" or total <= block:
        return [(0, total)]
    step = block // columns * columns or (columns if splits == "rows" else block)
    return [(begin, min(total, begin + step)) for begin in range(0, total, step)]


def block_shape(shape: Sequence[int], splits: Splits, begin: int, end: int) -> tuple[int, ...]:
    """The shape in which a method sees elements `begin` to `end` of a tensor.

    >>> block_shape((5, 3), "rows", 6, 12), block_shape((5, 3), "elements", 6, 12), block_shape((), "rows", 0, 1)
    ((2, 3), (6,), ())
    """
    if splits == "tensor" or (splits == "rows" and len(shape) < 2):
        return tuple(shape)
    return ((end - begin) // shape[-1], shape[-1]) if splits == "rows" and shape[-1] else (end - begin,)


class Unanswered(Exception):
    """What one block knows of the answer, how it is added to what those before it know, and what follows from all."""

    def __init__(self, part: Any, add: Callable[[Any, Any], Any], answer: Callable[[Any], Any]) -> None:
        self.part = part
        self.add = add
        self.answer = answer


class Whole:
    """What a method may ask about all elements of a tensor of which it is handed one block.

    Made with nothing but a number of elements, it answers for a tensor that is handed over whole.
    """

    def __init__(self, elements: int, index: int = 0, blocks: int = 1, answers: list[Any] | None = None) -> None:
        self.elements = elements
        self._index = index
        self._blocks = blocks
        self._answers = [] if answers is None else answers
        self._asked = 0

    @property
    def first(self) -> bool:
        """Whether this block is the tensor's first, or all of it."""
        return self._index == 0

    @property
    def fresh(self) -> bool:
        """Whether nothing was asked of the tensor yet, so that this block is seen for the first time."""
        return not self._answers

    @property
    def large(self) -> bool:
        """Whether there is enough of the tensor to fetch compiled loops for it."""
        return self.elements >= WORTH

    def counts(self, *masks: Tensor) -> list[int]:
        """How many elements of each mask are true."""
        found: list[int] = self._ask(lambda: [int(one.sum()) for one in masks], _added, list)
        return found

    def sizes(self, *tensors: Tensor) -> list[float]:
        """Σ|x| over all elements of each tensor; fp32 in, summed as `dots`."""
        found: list[float] = self._ask(lambda: _sizes(tensors, compiled=self.large), _added, list)
        return found

    def dots(self, *pairs: tuple[Tensor, Tensor]) -> list[float]:
        """⟨one, other⟩ of each pair; fp32 in, fp64 sums, whose order on a CPU is the same on all."""
        found: list[float] = self._ask(lambda: _dots(pairs, compiled=self.large), _added, list)
        return found

    def columns(self, *tensors: Tensor) -> list[Tensor]:
        """The sum of each column over all rows, [1, columns]; blocks must be whole rows (splits "rows")."""
        found: list[Tensor] = self._ask(lambda: [one.sum(0, keepdim=True) for one in tensors], _added, list)
        return found

    def largest(self, *asked: tuple[Tensor, int]) -> list[Tensor]:
        """True at the `count` largest of `sizes` (fp32, none negative) for each (sizes, count).

        Equal sizes by lowest flat index. Floats that are not negative are ordered as their bits are, so two histograms
        of 16 bits replace a sort.

        >>> from torch import tensor
        >>> Whole(4).largest((tensor([3.0, 1.0, 3.0, 3.0]), 2))
        [tensor([ True, False,  True, False])]
        """
        open_ones = [(_bits(sizes), count) for sizes, count in asked if 0 < count < self.elements]
        cuts = iter(self._cut(open_ones) if open_ones else ())
        masks = []
        for sizes, count in asked:
            if count >= self.elements or count <= 0:
                masks.append(torch.full_like(sizes, count > 0, dtype=torch.bool))
                continue
            threshold, equal, kept = next(cuts)
            masks.append(_mask(sizes, threshold, equal[self._index], kept[self._index]))
        return masks

    def ranked(self, sizes: Tensor, places: Sequence[int]) -> list[float]:
        """The numbers that stand at these places, from 0 on, when all of `sizes` (fp32, none negative) are sorted.

        >>> from torch import tensor
        >>> Whole(4).ranked(tensor([3.0, 1.0, 7.0, 2.0]), (0, 2))
        [1.0, 3.0]
        """
        cuts = self._cut([(_bits(sizes), self.elements - place) for place in places])
        return [float(torch.tensor(smallest, dtype=torch.int32).view(torch.float32)) for smallest, _, _ in cuts]

    def _cut(self, asked: list[tuple[Tensor, int]]) -> list[tuple[int, list[int], list[int]]]:
        """For each (bits, count) what `_cuts` says of the `count` largest."""
        counts = [count for _, count in asked]
        buckets = self._ask(lambda: _upper([bits for bits, _ in asked]), _added, lambda found: _buckets(found, counts))
        chosen = [(bits, bucket) for (bits, _), (bucket, _) in zip(asked, buckets, strict=True)]
        left = [still for _, still in buckets]
        cuts: list[tuple[int, list[int], list[int]]] = self._ask(
            lambda: [[_lower(*one)] for one in chosen], _added, lambda found: _cuts(found, buckets, left)
        )
        return cuts

    def _ask(self, part: Callable[[], Any], add: Callable[[Any, Any], Any], answer: Callable[[Any], Any]) -> Any:
        number = self._asked
        self._asked += 1
        if number < len(self._answers):
            return self._answers[number]
        if self._blocks == 1:
            self._answers.append(answer(part()))
            return self._answers[number]
        raise Unanswered(part(), add, answer)


def over_blocks(
    elements: int,
    blocks: int,
    visit: Callable[[int, Whole], Any],
    run: Run = map,
    check: Callable[[], object] = int,
    answers: list[Any] | None = None,
) -> Iterator[Any]:
    """What `visit` gives for each block in order, after as many rounds as the method has questions.

    Args:
        visit: takes a block's number and its `Whole`.
        run: applies a function to numbers and gives the results in order, as `map` does.
        check: called after each block of each round; may raise to stop.
        answers: what is known of the tensor already; filled with what is asked.
    """
    answers = [] if answers is None else answers

    def one(index: int) -> Any:
        try:
            return visit(index, Whole(elements, index, blocks, answers))
        except Unanswered as question:
            return question.with_traceback(None)  # whose frames hold the block

    while True:
        asked: Unanswered | None = None
        known: Any = None
        for result in run(one, range(blocks)):
            check()
            if isinstance(result, Unanswered):
                known = result.part if asked is None else result.add(known, result.part)
                asked = result
            else:
                yield result
        if asked is None:
            return
        answers.append(asked.answer(known))


def _added(known: list[Any], part: list[Any]) -> list[Any]:
    return [one + other for one, other in zip(known, part, strict=True)]


def _dots(pairs: Sequence[tuple[Any, Any]], *, compiled: bool) -> list[float]:
    """By way of arrays, which are what is given where torch is not loaded; on a GPU in pieces of fp64."""
    first = pairs[0][0]
    if isinstance(first, np.ndarray):
        return arrays.dots(pairs, compiled=compiled)
    if first.device.type == "cpu":
        flat = {id(one): array_of(one.detach().reshape(-1)) for pair in pairs for one in pair}
        return arrays.dots([(flat[id(one)], flat[id(other)]) for one, other in pairs], compiled=compiled)
    pieces = {id(one): torch.split(one.reshape(-1), PIECE) for pair in pairs for one in pair}
    totals = [0.0] * len(pairs)
    for number in range(len(next(iter(pieces.values())))):
        wide = {key: parts[number].double() for key, parts in pieces.items()}
        for place, (one, other) in enumerate(pairs):
            totals[place] += float(torch.dot(wide[id(one)], wide[id(other)]))
    return totals


def _sizes(tensors: Sequence[Tensor], *, compiled: bool) -> list[float]:
    if tensors[0].device.type == "cpu":
        return arrays.sizes([array_of(one.detach().reshape(-1)) for one in tensors], compiled=compiled)
    return [float(one.abs().sum(dtype=torch.float64)) for one in tensors]


def _upper(sizes: list[Tensor]) -> list[Tensor]:
    """The histogram of the upper bits of each; made once where two questions are about the same numbers."""
    made: dict[tuple[int, int], Tensor] = {}
    for bits in sizes:
        key = (bits.data_ptr(), bits.numel())
        if key not in made:
            made[key] = torch.zeros(2 ** (31 - LOW_BITS), dtype=torch.int64, device=bits.device)
            for piece in torch.split(bits, BLOCK):
                made[key] += torch.bincount(piece >> LOW_BITS, minlength=len(made[key]))
    return [made[(bits.data_ptr(), bits.numel())] for bits in sizes]


def _buckets(histograms: list[Tensor], counts: list[int]) -> list[tuple[int, int]]:
    """The upper bits of each number asked for, and which one in that bucket it is, from the top."""
    found = []
    for histogram, count in zip(histograms, counts, strict=True):
        from_top = histogram.flip(0).cumsum(0)
        steps = int(torch.searchsorted(from_top, count))
        before = int(from_top[steps - 1]) if steps else 0
        found.append((from_top.numel() - 1 - steps, count - before))
    return found


def _lower(bits: Tensor, bucket: int) -> tuple[Tensor, Tensor]:
    """The different numbers in one bucket and how often each is there."""
    pieces = [piece[(piece >> LOW_BITS) == bucket] for piece in torch.split(bits, BLOCK)]
    values, counts = torch.unique(torch.cat(pieces), return_counts=True)
    return values, counts


def _cuts(
    found: list[list[tuple[Tensor, Tensor]]], buckets: list[tuple[int, int]], left: list[int]
) -> list[tuple[int, list[int], list[int]]]:
    """For each question the smallest number kept, how many equal it in each block, and how many of those stay."""
    cuts = []
    for blocks, (bucket, _), still in zip(found, buckets, left, strict=True):
        histogram = torch.zeros(2**LOW_BITS, dtype=torch.int64, device=blocks[0][0].device)
        for values, counts in blocks:
            histogram.index_add_(0, values & (2**LOW_BITS - 1), counts)
        from_top = histogram.flip(0).cumsum(0)
        steps = int(torch.searchsorted(from_top, still))
        threshold = (bucket << LOW_BITS) | (2**LOW_BITS - 1 - steps)
        room = still - (int(from_top[steps - 1]) if steps else 0)
        equal = [int(counts[values == threshold].sum()) for values, counts in blocks]
        kept = []
        for level in equal:
            kept.append(min(level, room))
            room -= kept[-1]
        cuts.append((threshold, equal, kept))
    return cuts


def _bits(sizes: Tensor) -> Tensor:
    return sizes.contiguous().reshape(-1).view(torch.int32)


def _mask(sizes: Tensor, threshold: int, equal: int, kept: int) -> Tensor:
    bits = _bits(sizes)
    if kept == equal:
        return (bits >= threshold).reshape(sizes.shape)
    mask = bits > threshold
    if kept:
        mask[(bits == threshold).nonzero().reshape(-1)[:kept]] = True
    return mask.reshape(sizes.shape)
