"""Prompts that stand in two places: those of the evaluation leave both files, those of the task the references. Pure.

Prompts are the same when they are equal but for white space, case and system turns: a suite's prompt under a system
turn of the file would be trained on all the same. Rephrased ones are not recognised. Within the references a prompt
under two system turns is two prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from backend.tuning.rows import Row, counted


class Apart(NamedTuple):
    """The rows that stay, and how many left for which reason."""

    task: list[Row]
    references: list[Row]
    task_in_evaluation: int
    references_in_evaluation: int
    references_in_task: int
    references_repeated: int

    @property
    def report(self) -> dict[str, int | str]:
        """What a reader is told of the rows that left."""
        return {
            "task_prompts_in_evaluation": self.task_in_evaluation,
            "reference_prompts_in_evaluation": self.references_in_evaluation,
            "reference_prompts_in_task": self.references_in_task,
            "note": "these rows were left out; rephrased prompts are not recognised",
        }

    @property
    def sentences(self) -> list[str]:
        """The same in words, without what did not happen."""
        told = (
            (self.task_in_evaluation, "of the task data with a prompt of a suite"),
            (self.references_in_evaluation, "of the references with a prompt of a suite"),
            (self.references_in_task, "of the references with a prompt of the task data"),
        )
        return [f"{counted(count)} {what} {'is' if count == 1 else 'are'} left out." for count, what in told if count]


def keep_apart(task: Sequence[Row], references: Sequence[Row], evaluated: Collection[str]) -> Apart:
    """Rows whose prompts are in no two places; of references with one prompt the first by id stays.

    Args:
        task: may hold a row several times, which is a weight.
        evaluated: request keys of everything the run is measured on.

    >>> def row(text): return Row(1, text, ({"role": "user", "content": text}, {"role": "assistant", "content": "."}))
    >>> apart = keep_apart([row("a"), row("b")], [row("b"), row("c"), row("C")], {row("a").request})
    >>> [one.id for one in apart.task], [one.id for one in apart.references]
    (['b'], ['C'])
    >>> apart.sentences[1]
    '1 row of the references with a prompt of the task data is left out.'
    """
    kept, task_in_evaluation = _without(task, evaluated)
    pool, references_in_evaluation = _without(references, evaluated)
    pool, in_task = _without(pool, {row.request for row in kept})
    pool, repeated = _distinct(pool)
    return Apart(kept, pool, task_in_evaluation, references_in_evaluation, in_task, repeated)


def _without(rows: Sequence[Row], keys: Collection[str]) -> tuple[list[Row], int]:
    kept = [row for row in rows if row.request not in keys]
    return kept, len(rows) - len(kept)


def _distinct(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The first row of each prompt by id, so that the order of the file changes nothing."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda one: (one.id, one.kind, one.group)):
        found.setdefault(row.key, row)
    return list(found.values()), len(rows) - len(found)
