"""Tensors of a merge straight into the files they belong in, block by block and in the order of the files.

Each thread reads a block of every model, merges it and writes it to its place, so that reading, computing and writing
overlap and memory does not grow with the model. Methods that must see a whole tensor get one at a time, with all
threads for the arithmetic, while the system reads the next.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from backend.checkpoints.headers import FLOATS
from backend.checkpoints.reader import Scratch, read_array
from backend.checkpoints.writer import FolderWriter, Slot
from backend.merging.arithmetic import merge_block, merge_whole
from backend.merging.blocks import Splits, Whole, over_blocks, spans
from backend.merging.crew import lone_threads
from backend.merging.direct import direct
from backend.merging.inputs import Bundle, Models
from backend.merging.ops import Effect, Walk
from backend.registry import Plugin
from backend.threads import set_thread_count, thread_count

MOST_THREADS = 4
AHEAD = 3  # blocks that wait for each thread
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h


class Stream:
    """One merge on its way into a folder.

    Args:
        writer: what it has finished before is not computed again.
        check: called between blocks; may raise to stop.
        device: where the arithmetic is done; blocks are the same everywhere.
    """

    def __init__(
        self,
        models: Models,
        method: Plugin,
        parameters: dict[str, Any],
        writer: FolderWriter,
        *,
        seed: int,
        check: Callable[[], None],
        device: str = "cpu",
    ) -> None:
        self._models = models
        self._method = method
        self._parameters = parameters
        self._writer = writer
        self._seed = seed
        self._check = check
        self._device = device
        self._threads = max(1, min(MOST_THREADS, thread_count()))
        self._scratch = Scratch()
        self._direct = direct(models, method, parameters, seed=seed) if device == "cpu" else None
        self._pool = ThreadPoolExecutor(self._threads) if self._direct else lone_threads(self._threads)
        _keep_freed_memory()

    def run(self, slots: list[Slot], effect: Effect) -> Iterator[Slot]:
        """Write every tensor; each is given back when it is finished."""
        threads = thread_count()
        knob = self._parameters[self._method.facts["knob"]]
        try:
            for number, slot in enumerate(slots):
                if number + 1 < len(slots):
                    self._prefetch(slots[number + 1].name)
                known = self._writer.finished.get(slot.name)
                walk = self._tensor(slot) if known is None else Walk(*known)
                effect.count(walk, knob)
                self._writer.finish(slot.name, walk)
                yield slot
        finally:
            self._pool.shutdown(cancel_futures=True)
            set_thread_count(threads)

    def _tensor(self, slot: Slot) -> Walk:
        if slot.dtype not in FLOATS:
            self._check()
            self._writer.put(slot.name, 0, self._models.constant(slot.name))
            return Walk()
        equal = self._models.equal_ones(slot.name)
        if all(equal) and self._method.facts["keeps_equal"]:
            return self._blocks(slot, "elements", self._copy)
        if self._method.facts["splits"] == "tensor":
            return self._whole(slot)

        def merge(name: str, begin: int, end: int, whole: Whole) -> Walk:
            if self._direct:
                numbers, walk = self._direct.merge(name, begin, end, whole)
                self._writer.put(name, begin, numbers)
                return walk
            splits, scratch = self._method.facts["splits"], self._scratch
            block = self._models.block(name, begin, end, splits, equal, seed=self._seed, scratch=scratch)
            merged, walk = merge_block(self._placed(block), self._method, self._parameters, whole)
            self._writer.put(name, begin, merged)
            return Walk() if all(equal) else walk

        return self._blocks(slot, self._method.facts["splits"], merge)

    def _blocks(self, slot: Slot, splits: Splits, merge: Callable[[str, int, int, Whole], Walk]) -> Walk:
        cuts = spans(slot.shape, splits)

        def visit(index: int, whole: Whole) -> Walk:
            return merge(slot.name, *cuts[index], whole)

        walk = Walk()
        for one in over_blocks(cuts[-1][1], len(cuts), visit, self._in_order, self._check):
            walk += one
        return walk

    def _copy(self, name: str, begin: int, end: int, whole: Whole) -> Walk:
        source, scratch = self._models.aligned, self._scratch.part(0, end - begin)
        info = source.lies(name)
        numbers = read_array(info, begin, end, scratch) if info else source.read_block(name, begin, end, scratch)
        self._writer.put(name, begin, numbers)
        return Walk()

    def _whole(self, slot: Slot) -> Walk:
        self._check()
        bundle = self._models.read(slot.name, seed=self._seed)
        assert isinstance(bundle, Bundle)
        merged, walk = merge_whole(self._placed(bundle), self._method, self._parameters)
        self._writer.put(slot.name, 0, merged)
        return Walk() if bundle.equal else walk

    def _placed(self, bundle: Bundle) -> Bundle:
        """The bundle where the arithmetic is done."""
        return bundle if self._device == "cpu" else bundle.to(self._device)

    def _in_order(self, visit: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for number in numbers:
            waiting.append(self._pool.submit(visit, number))
            if len(waiting) > AHEAD * self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _prefetch(self, name: str) -> None:
        sources = [*self._models.tuned, *self._models.extras.values()] if name in self._models.changed else []
        for source in (self._models.aligned, *sources):
            source.prefetch(name)


def _keep_freed_memory() -> None:
    """Have glibc give a block's memory to the next block instead of back to the system, which costs half the time."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)
        library.mallopt(M_TRIM_THRESHOLD, 2**26)
    except (OSError, AttributeError):
        pass  # another C library: only slower
