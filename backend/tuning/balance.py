"""Whether the references hold both kinds that a model needs: refusals protect, helpful answers keep it helpful. Pure.

A pool of refusals only teaches refusing. Kinds are what the file says of its rows; the answers are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

FEWEST_OF_A_KIND = 0.2
HELPFUL, REFUSAL = "benign", "refusal"
KINDS = (HELPFUL, REFUSAL, "unsafe")


def balance_warnings(kinds: Iterable[str]) -> list[str]:
    """Sentences about a kind that is nearly missing and about rows that say no kind; none for a good pool.

    Args:
        kinds: of each reference: benign, refusal, unsafe, or "" where the file does not say.

    >>> balance_warnings(["benign", "refusal"])
    []
    >>> balance_warnings(["refusal"] * 9 + ["benign"])[0]
    'Only 10% of the references are helpful answers (kind benign); the model may learn to refuse everything.'
    """
    counts = Counter(kinds)
    unlabelled, total = counts.pop("", 0), counts.total()
    if not unlabelled + total:
        return []
    if not total:
        return [
            f"None of the {unlabelled} references says its kind ({HELPFUL} or {REFUSAL}), so it is unknown whether "
            "they hold both refusals and helpful answers; with refusals alone the model may learn to refuse everything."
        ]
    which = f"{total} references that say their kind" if unlabelled else "references"
    found = []
    for kind, what, harm in (
        (HELPFUL, "helpful answers", "the model may learn to refuse everything"),
        (REFUSAL, "refusals", "they may not protect"),
    ):
        if counts[kind] < FEWEST_OF_A_KIND * total:
            found.append(f"Only {counts[kind] / total:.0%} of the {which} are {what} (kind {kind}); {harm}.")
    if unlabelled:
        found.append(f"{unlabelled} of {unlabelled + total} references say no kind ({HELPFUL} or {REFUSAL}).")
    return found
