"""Which checkpoints the drop-downs offer, likely ones first. The catalogue's JSON is the only thing it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Entries = Sequence[Mapping[str, Any]]


def names(found: Entries) -> list[str]:
    """All of them."""
    return [one["name"] for one in found]


def starts(found: Entries) -> list[str]:
    """Models that a fine-tuning may start from or that stand at λ = 0, the unaligned twins last.

    >>> starts([{"name": "unaligned", "role": "unaligned"}, {"name": "x", "role": "fine-tuned"},
    ...         {"name": "merge-7", "role": "merged"}])
    ['merge-7', 'unaligned']
    """
    roles = ("aligned", "unaligned", "merged")
    return sorted((one["name"] for one in found if one.get("role") in roles), key=lambda name: "unaligned" in name)


def tunes(found: Entries) -> list[str]:
    """Models that may stand at λ = 1."""
    return [one["name"] for one in found if one["name"].split("/")[-1] not in ("aligned", "unaligned")]


def favourite(offered: Sequence[str]) -> str | None:
    """The fine-tuned model that is chosen at first."""
    return next((name for name in offered if name.endswith("tool-mixed-sft")), next(iter(offered), None))


def trainable(found: Entries) -> list[str]:
    """Models to fine-tune, the aligned one first."""
    return sorted(names(found), key=lambda name: (name.split("/")[-1] != "aligned", "unaligned" in name))
