"""What a fine-tuning reports, read step by step: every look asks only for the rows since the last one.

Shared by all visitors of one page process and thrown away with it; the run's own rows are the truth. No Gradio.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from backend.types import Run


class Kept(NamedTuple):
    """What is known of a run: the life it is in, its steps, its references and those that they replaced."""

    life: tuple[Any, ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()
    references: tuple[Mapping[str, Any], ...] = ()
    replaced: tuple[Mapping[str, Any], ...] = ()


class Telemetry:
    def __init__(self, studio: Any, runs: int = 20) -> None:
        self.studio, self.runs, self.lock = studio, runs, threading.Lock()
        self.kept: OrderedDict[int, Kept] = OrderedDict()

    def read(self, run: Run) -> dict[str, Any]:
        """`Studio.telemetry` with all steps, and under "replaced" the references that the last choice let go.

        A resumed run may repeat steps, so a change of state reads everything again.
        """
        life = (run.started, run.status)
        with self.lock:
            kept = self.kept.get(run.id, Kept())
        before = kept.steps if kept.life == life else ()
        found = self.studio.telemetry(run.id, after=before[-1]["step"] if before else 0)
        steps = (*before, *(found.get("steps") or ()))
        now = tuple(found.get("references") or ())
        with self.lock:
            self.kept[run.id] = Kept(life, steps, now or kept.references, replaced(kept, now))
            self.kept.move_to_end(run.id)
            while len(self.kept) > self.runs:
                self.kept.popitem(last=False)
            left = self.kept[run.id].replaced
        return {**found, "steps": list(steps), "replaced": list(left)}


def replaced(kept: Kept, now: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The references of the set before `now`: telemetry itself holds the present set only.

    >>> replaced(Kept(references=({"id": "a"}, {"id": "b"})), ({"id": "b"}, {"id": "c"}))
    ({'id': 'a'},)
    """
    present = {one["id"] for one in now}
    if not now or present == {one["id"] for one in kept.references}:
        return kept.replaced
    return tuple(one for one in kept.references if one["id"] not in present)
