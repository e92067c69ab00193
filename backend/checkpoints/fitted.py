"""A source whose embedding and head are cut, or filled up with the donor's rows, to the rows of the merged model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backend.checkpoints.reader import Source
from backend.checkpoints.tying import find_ends
from backend.checkpoints.vocabularies import Rows
from backend.lazy import torch
from backend.types import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


class Fitted:
    """A `Source` over another one.

    Args:
        donor: holds the rows after the shared ones.
        aligned: says in which dtype the merged model stores them.
    """

    def __init__(self, source: Source, rows: Rows, donor: Source, aligned: Source) -> None:
        self._source, self._rows, self._donor, self._aligned = source, rows, donor, aligned
        self._ends = find_ends(source.names()) or ()

    def names(self) -> list[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._source.shape(name)
        return (self._rows.total, *shape[1:]) if name in self._ends else shape

    def dtype(self, name: str) -> torch.dtype:
        return self._source.dtype(name)

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        if name not in self._ends:
            return self._source.read(name, dtype=dtype)
        shape = self.shape(name)
        tensor = self.read_block(name, 0, math.prod(shape)).reshape(shape)
        return tensor if dtype is None else tensor.to(dtype)

    def read_block(self, name: str, begin: int, end: int, scratch: bytearray | None = None) -> Tensor:
        shared = end if name not in self._ends else self._rows.shared * math.prod(self._source.shape(name)[1:])
        if end <= shared:
            return self._source.read_block(name, begin, end, scratch)
        cut = max(begin, shared)
        kept = self._source.read_block(name, begin, cut)
        tail = self._donor.read_block(name, cut, end).to(self._aligned.dtype(name))
        return torch.cat([kept, tail.to(kept.dtype)])

    def lies(self, name: str) -> TensorInfo | None:
        return None if name in self._ends else self._source.lies(name)

    def prefetch(self, name: str) -> None:
        self._source.prefetch(name)

    def changed_names(self) -> frozenset[str]:
        return self._source.changed_names()
