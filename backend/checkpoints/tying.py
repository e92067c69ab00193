"""Tied embeddings: the output head that is the embedding under another name. Names only, no torch.

Three things may say so and disagree: the config's flag, the presence of a head in the files, and equality. Here a
checkpoint without a head tensor is tied; one with a head is untied unless every byte equals the embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from backend.types import Checkpoint, TensorInfo

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight")


class Ends(NamedTuple):
    """The two ends of a language model by tensor name; `head` is also given where no file holds it."""

    embedding: str
    head: str


def find_ends(names: Collection[str]) -> Ends | None:
    """Embedding and head among `names`, or None where there is no embedding we know.

    >>> find_ends(["model.embed_tokens.weight", "model.norm.weight"])
    Ends(embedding='model.embed_tokens.weight', head='lm_head.weight')
    """
    embedding = _with_end(names, EMBEDDINGS)
    if embedding is None:
        return None
    head = _with_end(names, HEADS)
    if head is None:
        prefix = "language_model." if embedding.startswith("language_model.") else ""
        head = prefix + ("embed_out.weight" if embedding.endswith("embed_in.weight") else "lm_head.weight")
    return Ends(embedding, head)


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the head is the embedding: it is in no file, or it is there with the same bytes."""
    ends = find_ends(checkpoint.tensors)
    if ends is None:
        return False
    head = checkpoint.tensors.get(ends.head)
    return head is None or same_bytes(head, checkpoint.tensors[ends.embedding])


def same_bytes(one: TensorInfo, other: TensorInfo, *, block: int = 2**22) -> bool:
    """Whether two stored tensors are equal to the last bit; reads on only while they are."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.begin)
        right.seek(other.begin)
        remaining = one.end - one.begin
        while remaining:
            size = min(block, remaining)
            if left.read(size) != right.read(size):
                return False
            remaining -= size
    return True


def _with_end(names: Iterable[str], endings: tuple[str, ...]) -> str | None:
    return next((name for name in names for end in endings if name == end or name.endswith("." + end)), None)
