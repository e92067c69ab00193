"""Parameters declared once: in the signature of the plug-in that uses them.

`lam: Annotated[float, Between(0, 1)] = 0.5` is the slider, the check and the documentation. This module reads such
signatures and checks values against them. It knows nothing of tensors, and evaluates no annotation but those of
keyword-only parameters, so that reading a catalogue imports no torch.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from backend.errors import UserError, unknown_name


@dataclass(frozen=True)
class Between:
    """A closed range of numbers, with its unit where it has one.

    `beyond` is the wider range that may be typed; sliders, grids by default and forms keep to the range itself.
    """

    low: float
    high: float
    unit: str = ""
    step: float | None = None
    fine: bool = False  # people use values far below a hundredth of the range: no slider
    beyond: tuple[float, float] | tuple[()] = ()


@dataclass(frozen=True)
class EveryPreset:
    """Marks a knob that still counts where a preset sets the others."""


@dataclass(frozen=True)
class Several:
    """Marks a knob that says something only from two fine-tuned models on; with one it is hidden and refused."""


@dataclass(frozen=True)
class ByTensor:
    """Marks a list whose members may each differ by tensor: a list over the depth, or [{filter, value}, …, {value}]."""


@dataclass(frozen=True)
class Help:
    """The sentence of a knob that several plug-ins share; a docstring's own sentence goes before it.

    >>> def blend(a, b, *, lam: Annotated[float, Help("how far to walk.")] = 0.5): ...
    >>> parameters_of(blend)[0].help
    'how far to walk.'
    """

    sentence: str


@dataclass(frozen=True)
class Parameter:
    """One knob of a plug-in: `kind` is float, int, bool, choice, text or list (of numbers)."""

    name: str
    kind: str
    default: Any
    required: bool
    low: float | None = None
    high: float | None = None
    step: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    several: bool = False
    every_preset: bool = False
    by_tensor: bool = False
    fine: bool = False
    help: str = ""
    beyond: tuple[float, ...] = ()

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """The smallest and the largest value that is allowed."""
        return (self.beyond[0], self.beyond[1]) if self.beyond else (self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        given = {key: value for key, value in asdict(self).items() if value not in (None, "", ())}
        default = list(self.default) if isinstance(self.default, tuple) else self.default
        return given | {"default": default}


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The keyword-only parameters of `function`, in order, with the sentence its docstring or a `Help` gives each.

    >>> def blend(a, b, *, lam: Annotated[float, Between(0, 1)] = 0.5):
    ...     '''Blend.
    ...
    ...     Args:
    ...         lam: how far to walk.
    ...     '''
    >>> [(p.name, p.kind, p.default, p.low, p.high, p.help) for p in parameters_of(blend)]
    [('lam', 'float', 0.5, 0, 1, 'how far to walk.')]
    """
    sentences = _argument_sentences(inspect.getdoc(function) or "")
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            annotation = parameter.annotation
            if isinstance(annotation, str):
                annotation = eval(annotation, function.__globals__)  # our own source text, never user input
            found.append(_parameter(name, annotation, parameter.default, sentences.get(name, "")))
    return tuple(found)


def check_parameters(owner: str, declared: tuple[Parameter, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` completed with defaults and converted, or a `UserError` naming the field.

    Under a preset other than the default only the parameters marked `EveryPreset` are left.

    >>> lam = Parameter("lam", "float", 0.5, required=False, low=0, high=1)
    >>> check_parameters("linear", (lam,), {"lam": "0.25"})
    {'lam': 0.25}
    >>> check_parameters("linear", (lam,), {"lam": 3})
    Traceback (most recent call last):
    backend.errors.UserError: lam: got 3; allowed is a number from 0 to 1. The default is 0.5.
    """
    by_name = {parameter.name: parameter for parameter in declared}
    for name in given:
        if name not in by_name:
            raise unknown_name(f"parameter of {owner}", name, by_name)
    checked = {}
    for parameter in declared:
        if parameter.name in given:
            checked[parameter.name] = check_value(parameter, given[parameter.name])
        elif parameter.required:
            raise UserError(parameter.name, problem=f"{owner} needs it and it has no default", remedy="Give a value.")
        else:
            default = parameter.default
            checked[parameter.name] = list(default) if isinstance(default, tuple) else default
    preset = by_name.get("preset")
    if preset is not None and checked["preset"] != preset.default:
        _leave_to_preset(declared, checked)
    return checked


def _leave_to_preset(declared: tuple[Parameter, ...], checked: dict[str, Any]) -> None:
    """Take out what the chosen preset sets itself; a value given for it would be ignored, so it is refused."""
    for parameter in declared:
        if parameter.name == "preset" or parameter.every_preset:
            continue
        value = checked.pop(parameter.name)
        if value != parameter.default:
            problem = f"got {value!r}, but the preset {checked['preset']} sets it itself"
            raise UserError(parameter.name, problem=problem, remedy="Leave it out, or choose another preset.")


def check_value(parameter: Parameter, value: Any) -> Any:
    """`value` as the parameter's kind and inside its range."""
    kind = parameter.kind
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "on", "yes", "1", "false", "off", "no", "0"):
            return str(value).lower() in ("true", "on", "yes", "1")
        raise _refusal(parameter, value, "on or off")
    if kind == "choice":
        if value in parameter.choices:
            return value
        raise unknown_name(parameter.name, str(value), parameter.choices)
    if kind == "text":
        return str(value)
    if kind == "list":
        return _numbers(parameter, value)
    return _number(parameter, value)


def _numbers(parameter: Parameter, value: Any) -> list[Any]:
    """A list of numbers, given as one or as text with commas; where a member may differ by tensor, also as JSON.

    >>> check_value(Parameter("curve", "list", (), required=False, low=0, high=1), "0.2, 1")
    [0.2, 1.0]
    >>> check_value(Parameter("weights", "list", (), required=False, by_tensor=True), "[1, [0, 0.5]]")
    [1.0, [0.0, 0.5]]
    """
    allowed = "numbers with commas" + _range_words(parameter)
    if parameter.by_tensor:
        allowed += ", or [1, [0, 0.5]] with a list over the depth, or of {filter, value} with a last one without filter"
    parts = value
    if isinstance(value, str):
        parts = _json_list(value) if parameter.by_tensor and value.strip().startswith("[") else value.split(",")
    if isinstance(parts, str | bytes) or not isinstance(parts, Sequence):
        raise _refusal(parameter, value, allowed)
    if parts and isinstance(value, str) and not value.strip():
        return []
    try:
        return [_member(parameter, part) for part in parts]
    except UserError:
        raise _refusal(parameter, value, allowed) from None


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _member(parameter: Parameter, part: Any) -> Any:
    """One member of a list: a number or, where that is allowed, what is a number for every tensor."""
    if not (parameter.by_tensor and isinstance(part, list) and part):
        return float(_number(parameter, part))
    if not any(isinstance(one, dict) for one in part):
        return [float(_number(parameter, one)) for one in part]
    last = len(part) - 1
    for number, one in enumerate(part):
        for_all = isinstance(one, dict) and one.get("filter") in (None, "*")
        if (
            not isinstance(one, dict)
            or not {"value"} <= one.keys() <= {"filter", "value"}
            or for_all != (number == last)
        ):
            raise _refusal(parameter, part, "")
    return [one | {"value": _member(parameter, one["value"])} for one in part]


def _number(parameter: Parameter, value: Any) -> float | int:
    whole = parameter.kind == "int"
    allowed = ("a whole number" if whole else "a number") + _range_words(parameter)
    if isinstance(value, bool):
        raise _refusal(parameter, value, allowed)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # the last for an integer beyond every float
        raise _refusal(parameter, value, allowed) from None
    low, high = parameter.limits
    too_low, too_high = low is not None and number < low, high is not None and number > high
    if not math.isfinite(number) or too_low or too_high or (whole and number != int(number)):
        raise _refusal(parameter, value, allowed)
    return int(number) if whole else number


def _refusal(parameter: Parameter, value: Any, allowed: str) -> UserError:
    default = ", ".join(map(str, parameter.default)) if parameter.kind == "list" else parameter.default
    remedy = "" if parameter.required or default == "" else f"The default is {default}."
    return UserError(parameter.name, got=value, allowed=allowed, remedy=remedy)


def _range_words(parameter: Parameter) -> str:
    low, high = parameter.limits
    if low is None or high is None:
        return ""
    unit = f" {parameter.unit}" if parameter.unit else ""
    return f" from {low:g} to {high:g}{unit}"


def _parameter(name: str, annotation: Any, default: Any, sentence: str) -> Parameter:
    extras: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        extras = tuple(rest)
    required = default is inspect.Parameter.empty
    shared = next((extra.sentence for extra in extras if isinstance(extra, Help)), "")
    several = any(isinstance(extra, Several) for extra in extras)
    common: dict[str, Any] = {"name": name, "required": required, "help": sentence or shared, "several": several}
    common["every_preset"] = any(isinstance(extra, EveryPreset) for extra in extras)
    common["by_tensor"] = any(isinstance(extra, ByTensor) for extra in extras)
    common["default"] = None if required else default
    if get_origin(annotation) is Literal:
        return Parameter(kind="choice", choices=tuple(get_args(annotation)), **common)
    kinds: dict[Any, str] = {float: "float", int: "int", bool: "bool", str: "text", tuple[float, ...]: "list"}
    if annotation not in kinds:
        raise TypeError(
            f"{name}: {annotation!r} is no parameter; use float, int, bool, str, tuple[float, ...], Literal"
        )
    between = next((extra for extra in extras if isinstance(extra, Between)), None)
    if between is None:
        return Parameter(kind=kinds[annotation], **common)
    return Parameter(
        kind=kinds[annotation],
        low=between.low,
        high=between.high,
        step=between.step,
        unit=between.unit,
        fine=between.fine,
        beyond=between.beyond,
        **common,
    )


def _argument_sentences(doc: str) -> dict[str, str]:
    """The `Args:` block of a Google-style docstring as name -> sentence."""
    block = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, flags=re.MULTILINE)
    if not block:
        return {}
    entries = re.split(r"^ {4}(?=\w+:)", block.group(1), flags=re.MULTILINE)
    pairs = (entry.split(":", 1) for entry in entries if ":" in entry)
    return {name.strip(): " ".join(text.split()) for name, text in pairs}
