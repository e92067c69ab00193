"""Numbers that differ by depth and by tensor: a curve over the layers, or the first of several whose filter fits.

`[0, 1]` is a curve from the first layer to the last, `[{"filter": "mlp", "value": 0.5}, {"value": 0}]` one number for
tensors with `mlp` in their name and another for the rest, as in mergekit. What lies outside the layers is at depth 0.
No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backend.merging.place import Place, curve_at

Curve = tuple[float, ...]


def settled(parameters: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The knobs of one tensor: in a list, what differs by tensor becomes the number that it is there.

    >>> settled({"weights": [1.0, [0.0, 1.0]], "curve": [0.0, 1.0]}, Place("layers.1.w", layers=3))
    {'weights': [1.0, 0.5], 'curve': [0.0, 1.0]}
    """
    return {
        name: [number_at(one, place.name, place.depth) for one in value] if differs_by_tensor(value) else value
        for name, value in parameters.items()
    }


def differs_by_tensor(value: Any) -> bool:
    """Whether a knob is a list of which a member is no plain number."""
    return isinstance(value, list) and any(isinstance(one, list) for one in value)


def varies(setting: Any) -> bool:
    """Whether it may be another number for another tensor."""
    return isinstance(setting, list | dict)


def number_everywhere(setting: Any) -> float | None:
    """The one number that a setting is for every tensor, however it is written; None where it is not one.

    >>> number_everywhere([0.5, 0.5]), number_everywhere([{"filter": "mlp", "value": 0.5}, {"value": [0.5]}])
    (0.5, 0.5)
    >>> number_everywhere([0, 1]), number_everywhere([{"filter": "mlp", "value": 0.5}])
    (None, None)
    """
    numbers = {number for curve in curves_of(setting) for number in curve}
    return numbers.pop() if len(numbers) == 1 and says_all(setting) else None


def says_all(setting: Any) -> bool:
    """Whether there is a number for every tensor.

    >>> says_all([{"filter": "mlp", "value": 0.5}, {"filter": "*", "value": [0, 1]}]), says_all([{"value": "x"}])
    (True, False)
    """
    return number_at(setting, "", 0.0) is not None


def number_at(setting: Any, name: str, depth: float) -> float | None:
    """What a setting is for the tensor of this name at this depth, 0–1; None where it says nothing of it.

    >>> number_at([0.0, 1.0, 0.0], "w", 0.25), number_at([{"filter": "mlp", "value": 1}], "layers.0.attn.w", 0.0)
    (0.5, None)
    """
    if is_number(setting):
        return float(setting)
    if not isinstance(setting, list) or not setting:
        return None
    if all(is_number(one) for one in setting):
        return curve_at(setting, depth)
    for one in setting:
        if not isinstance(one, dict) or not one.keys() <= {"filter", "value"}:
            return None
        if one.get("filter") in (None, "*") or (name and str(one["filter"]) in name):
            return number_at(one.get("value"), name, depth)
    return None


def until_all(setting: Any, default: Any) -> Any:
    """A setting that says something of every tensor, with nothing behind the entry that fits all.

    >>> until_all([{"filter": "mlp", "value": 0.5}], [0.0, 1.0])
    [{'filter': 'mlp', 'value': 0.5}, {'value': [0.0, 1.0]}]
    >>> until_all([{"filter": "*", "value": 0.5}, {"filter": "mlp", "value": 1}], 1.0)
    [{'filter': '*', 'value': 0.5}]
    """
    if not differs_by_name(setting):
        return setting
    last = next((at for at, one in enumerate(setting) if one.get("filter") in (None, "*")), None)
    if last is not None:
        return setting[: last + 1]
    return [*setting, *(default if differs_by_name(default) else [{"value": default}])]


def differs_by_name(setting: Any) -> bool:
    """Whether it is a list of {filter, value}."""
    return isinstance(setting, list) and bool(setting) and all(isinstance(one, dict) for one in setting)


def divided(setting: Any, by: float) -> Any:
    """A setting with every number divided.

    >>> divided([{"filter": "mlp", "value": [0, 1]}, {"value": 2}], 2)
    [{'filter': 'mlp', 'value': [0.0, 0.5]}, {'value': 1.0}]
    """
    if is_number(setting):
        return setting / by
    return [one | {"value": divided(one["value"], by)} if isinstance(one, dict) else one / by for one in setting]


def curves_of(setting: Any) -> Iterator[Curve]:
    """Every list over depth in a setting; a number is one of one."""
    if is_number(setting):
        yield (float(setting),)
    elif isinstance(setting, list) and setting and all(is_number(one) for one in setting):
        yield tuple(float(one) for one in setting)
    elif isinstance(setting, list):
        for one in setting:
            yield from curves_of(one.get("value") if isinstance(one, dict) else None)


def is_number(value: Any) -> bool:
    """Whether it is a plain number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
