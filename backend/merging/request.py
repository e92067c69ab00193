"""What a method accepts: how many models, which checkpoints beside them, and the values of its knobs. No tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.errors import UserError
from backend.merging.by_tensor import differs_by_tensor
from backend.params import check_parameters
from backend.registry import EXTRA_INPUTS, Plugin


def check_request(
    method: Plugin, parameters: Mapping[str, Any], *, tuned: int = 1, extras: Sequence[str] = ()
) -> dict[str, Any]:
    """The knobs completed and checked, those left out that say nothing with `tuned` fine-tuned models.

    Raises:
        UserError: too few or too many models, a checkpoint that is missing or not used, a knob out of range, without
            effect, or that does not go with another.

    >>> from backend.registry import methods
    >>> check_request(methods.get("ties"), {"density": 0.2})
    {'lam': 0.6, 'density': 0.2}
    >>> check_request(methods.get("sce"), {})
    Traceback (most recent call last):
    backend.errors.UserError: tuned: sce takes 2 or more fine-tuned models, 1 was given; with one fine-tuned model no \
element varies: it gives that model, or the aligned one.
    """
    _check_count(method, tuned)
    for name in method.facts["extras"]:
        if name not in extras:
            remedy = "Name its checkpoint."
            raise UserError(name, problem=f"{method.name} needs {EXTRA_INPUTS[name]}", remedy=remedy)
    for name in extras:
        if name not in method.facts["extras"]:
            raise UserError(name, problem=f"{method.name} does not use it", remedy="Leave it out.")
    checked = check_parameters(method.name, method.parameters, parameters)
    several = [parameter for parameter in method.parameters if parameter.several]
    alone = tuned < 2 and not any(differs_by_tensor(checked[parameter.name]) for parameter in several)
    for parameter in several:
        value = checked[parameter.name]
        if alone:
            if value != (list(parameter.default) if parameter.kind == "list" else parameter.default):
                problem = "it changes nothing with one fine-tuned model"
                raise UserError(parameter.name, problem=problem, remedy=f"Leave it out; {method.facts['knob']} does.")
            del checked[parameter.name]
        elif parameter.kind == "list" and value and len(value) != tuned:
            allowed = f"one number for each of the {tuned} fine-tuned models" if tuned > 1 else "one, for the one model"
            raise UserError(parameter.name, got=value, allowed=allowed)
        elif parameter.name == "weights" and value and parameter.low == 0 and not sum(value):
            raise UserError("weights", got=value, allowed="at least one above 0")
    _settle_densities(method, checked)
    if method.facts["check"]:
        method.facts["check"](checked)
    return checked


def _settle_densities(method: Plugin, checked: dict[str, Any]) -> None:
    """Leave one of density and densities in the recipe: with both it would be open which counts."""
    if not checked.get("densities"):
        checked.pop("densities", None)  # as in recipes made before there was this knob
        return
    density = next(parameter for parameter in method.parameters if parameter.name == "density")
    if checked.pop("density") != density.default:
        remedy = f"Empty densities, or leave density at {density.default:g}."
        raise UserError("density", problem="densities says it for every model", remedy=remedy)


def _check_count(method: Plugin, tuned: int) -> None:
    least, most = method.facts["fine_tunes"]
    if tuned >= least and (most is None or tuned <= most):
        return
    wanted = "no" if most == 0 else f"{least} or more" if most is None else f"exactly {least}"
    reason = f"; {method.facts['why']}" if tuned < least and method.facts["why"] else ""
    models = "model" if wanted == "exactly 1" else "models"
    given = f"{tuned} was given" if tuned == 1 else f"{tuned or 'none'} were given"
    raise UserError("tuned", problem=f"{method.name} takes {wanted} fine-tuned {models}, {given}{reason}")
