"""A first pass over all tensors, for methods that choose among them: one number each, then their order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from backend.merging.blocks import Whole
from backend.merging.inputs import Arguments, Bundle, Models
from backend.registry import Plugin


def survey(
    models: Models,
    method: Plugin,
    parameters: dict[str, Any],
    *,
    seed: int = 0,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Fill `models.standings` for this method and these knobs; reads no tensor where the method needs no survey.

    Args:
        check: called before each tensor; may raise to stop.
    """

    def bundles() -> Iterator[Bundle]:
        for name in models.names:
            check()
            if isinstance(read := models.read(name, seed=seed), Bundle):
                yield read

    found = standings(bundles(), method, parameters)
    models.standings.clear()
    models.standings.update(found)


def standings(bundles: Iterable[Bundle], method: Plugin, parameters: dict[str, Any]) -> dict[str, int]:
    """Tensor name -> its rank among those that take part, 0 where the number is smallest; equal ones in given order."""
    knob, measure = method.facts["survey"] or ("", None)
    if measure is None or not parameters[knob]:
        return {}
    takes = list(inspect.signature(measure).parameters)
    numbers: dict[str, float] = {}
    for bundle in bundles:
        arguments = Arguments(bundle, Whole(bundle.aligned.numel()))
        number = None if bundle.equal else measure(*[getattr(arguments, name) for name in takes])
        if number is not None:
            numbers[bundle.place.name] = number
    return {name: rank for rank, name in enumerate(sorted(numbers, key=numbers.__getitem__))}
