"""A data set mixed from parts: what a mix file may say, how many rows each part gives, and which. Pure, and seeded.

A row is drawn by a hash of the seed and what it says, so the order in which a file lists its rows changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import UserError, unknown_name
from backend.tuning.balance import KINDS
from backend.tuning.rows import Row

MOST_ROWS = 10_000_000
MIX_KEYS = ("rows", "seed", "parts")
PART_KEYS = ("data", "share", "kind", "repeat")
SHARES_OFF = 1e-6
SHAPE = "{rows, seed, parts: [{data, share, kind, repeat}, …]}"


@dataclass(frozen=True)
class MixPart:
    """One source of a mix: which data, its share of the rows, the label they get, and whether rows may come again."""

    data: str
    share: float
    kind: str = ""
    repeat: bool = False


@dataclass(frozen=True)
class Mix:
    """A checked mix file."""

    rows: int
    seed: int
    parts: tuple[MixPart, ...]

    @property
    def counts(self) -> list[int]:
        """Rows of each part."""
        return counts_of([part.share for part in self.parts], self.rows)


def check_mix(given: Any, *, field: str) -> Mix:
    """The mix that a file describes.

    Args:
        given: the file's content, {"rows", "seed", "parts"}; `seed` is 0 where it is left out.
        field: whom an error is about.

    Raises:
        UserError: an unknown or missing key, a number out of range, shares that do not add up to 1.

    >>> check_mix({"rows": 10, "parts": [{"data": "a.jsonl", "share": 1}]}, field="task_data").counts
    [10]
    >>> check_mix({"rows": 10, "parts": [{"data": "a.jsonl", "share": 0.3}]}, field="task_data")
    Traceback (most recent call last):
    backend.errors.UserError: task_data: the shares of the mix add up to 0.3; allowed is 1. Change a share.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("parts"), list) or not given["parts"]:
        raise UserError(field, problem="the mix has no list of parts", allowed=SHAPE, remedy="Add at least one part.")
    _check_keys(given, MIX_KEYS, field)
    rows = _whole(given.get("rows"), "rows of the mix", 1, MOST_ROWS, field)
    seed = _whole(given.get("seed", 0), "seed of the mix", 0, 2**32 - 1, field)
    parts = tuple(_part(one, number, field) for number, one in enumerate(given["parts"], start=1))
    total = sum(part.share for part in parts)
    if abs(total - 1) > SHARES_OFF:
        problem = f"the shares of the mix add up to {total:.6g}"
        raise UserError(field, problem=problem, allowed="1", remedy="Change a share.")
    return Mix(rows, seed, parts)


def counts_of(shares: Sequence[float], rows: int) -> list[int]:
    """Whole rows for each share, `rows` together; what rounding down leaves goes to the largest remainders.

    >>> counts_of([0.9, 0.1], 2000), counts_of([1 / 3, 1 / 3, 1 / 3], 10)
    ([1800, 200], [4, 3, 3])
    """
    wanted = [round(share * rows, 6) for share in shares]  # 0.29 * 100 is a little less than 29
    counts = [int(one) for one in wanted]
    order = sorted(range(len(shares)), key=lambda part: (counts[part] - wanted[part], part))
    for part in order[: rows - sum(counts)]:
        counts[part] += 1
    return counts


def draw(rows: Sequence[Row], count: int, *, seed: int, part: int) -> list[Row]:
    """`count` of the rows by seed, whatever their order; all of them once before any comes a second time.

    Args:
        rows: at least one.
        part: the number of the part, so that the same data in two parts is drawn independently.

    >>> rows = [Row(line, "", ({"role": "assistant", "content": text},)) for line, text in enumerate("abc", 1)]
    >>> drawn = draw(rows, 5, seed=0, part=1)
    >>> drawn == draw(rows[::-1], 5, seed=0, part=1), len({row.line for row in drawn[:3]})
    (True, 3)
    """
    named = _named(rows)
    drawn: list[Row] = []
    while len(drawn) < count:
        ranked = sorted(named, key=lambda name: _hash(seed, part, len(drawn), name))
        drawn += [named[name] for name in ranked[: count - len(drawn)]]
    return drawn


def interleave(parts: Sequence[Sequence[Row]], *, seed: int) -> list[tuple[int, Row]]:
    """All rows of all parts, each with its part's number (from 1), in an order by seed."""
    numbered = [(part, place, row) for part, rows in enumerate(parts, 1) for place, row in enumerate(rows)]
    numbered.sort(key=lambda one: _hash("order", seed, one[0], one[1]))
    return [(part, row) for part, _, row in numbered]


def _named(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows by what they say; those that say the same are numbered, and it does not matter which is which."""
    seen: Counter[str] = Counter()
    named = {}
    for row in rows:
        says = _hash(row.messages, row.kind, row.group)
        named[f"{says} {seen[says]}"] = row
        seen[says] += 1
    return named


def _hash(*what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _part(given: Any, number: int, field: str) -> MixPart:
    where = f"part {number} of the mix"
    if not isinstance(given, Mapping):
        raise UserError(field, problem=f"{where} is no table", allowed="{data, share, kind, repeat}")
    _check_keys(given, PART_KEYS, field)
    data, share = given.get("data"), given.get("share")
    if not isinstance(data, str) or not data.strip():
        raise UserError(field, problem=f"{where} names no data", remedy="Give a demo set, a file or a Hub id as data.")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        problem = f"share of {where}: got {_said(share)}"
        raise UserError(field, problem=problem, allowed="a number above 0 and up to 1", remedy="All add up to 1.")
    kind, repeat = given.get("kind") or "", given.get("repeat") or False
    if kind and not (isinstance(kind, str) and kind in KINDS):
        problem = f"kind of {where}: got {_said(kind)}"
        raise UserError(field, problem=problem, allowed=", ".join(KINDS), remedy="Leave it out to keep the rows' own.")
    if not isinstance(repeat, bool):
        raise UserError(field, problem=f"repeat of {where}: got {_said(repeat)}", allowed="true or false")
    return MixPart(data.strip(), float(share), kind, repeat)


def _check_keys(given: Mapping[str, Any], known: Sequence[str], field: str) -> None:
    for key in given:
        if key not in known:
            raise unknown_name(field, _said(key).strip("'"), known)


def _whole(value: Any, name: str, low: int, high: int, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        allowed = f"a whole number from {low} to {high}"
        raise UserError(
            field, problem=f"{name}: got {_said(value)}", allowed=allowed, remedy="Change it in the mix file."
        )
    return value


def _said(value: Any) -> str:
    """A value as an error shows it; of a table or list only what it is, since YAML can nest it without end."""
    return repr(value)[:60] if isinstance(value, str | int | float) or value is None else f"a {type(value).__name__}"
