"""A mergekit file as the request of a merge, or the reason why no merge here is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from backend.errors import UserError, unknown_name
from backend.merging.mergekit.gradients import number_everywhere, varies
from backend.merging.mergekit.knobs import WALKS, check_known, knobs_of, layerwise_of
from backend.merging.mergekit.layout import REFUSED, TOP, read_table, sliced_models, whole_models
from backend.merging.mergekit.words import FIELD, SHARED


def from_mergekit(
    text: str,
    aligned: str = "",
    *,
    layers_of: Callable[[str], int | None] = lambda name: None,
    names_of: Callable[[str], Sequence[str]] = lambda name: (),
) -> dict[str, Any]:
    """A mergekit configuration as the request of a merge: method, aligned, tuned, parameters.

    Args:
        text: the YAML.
        aligned: which of its models is the aligned one, where the file has no `base_model`.
        layers_of: how many layers the model of this name has; asked only where the file has a slice, which is taken
            for whole models only if it ends there.
        names_of: the tensors of the model of this name; asked only where weights differ by depth or by tensor.

    Raises:
        UserError: no such configuration, or one that means something that a merge here cannot.

    >>> from_mergekit('''
    ... merge_method: slerp
    ... base_model: org/aligned
    ... models: [{model: org/aligned}, {model: org/tuned}]
    ... parameters: {t: 0.3}
    ... ''')
    {'method': 'slerp', 'aligned': 'org/aligned', 'tuned': ['org/tuned'], 'parameters': {'lam': 0.3}}
    """
    table = read_table(text)
    for key in table:
        if key not in TOP:
            remedy = REFUSED.get(key, "Take it out.")
            raise UserError(FIELD, problem=f"`{str(key)[:40]}` has no counterpart here", remedy=remedy)
    method = str(table.get("merge_method"))
    if method not in SHARED:
        raise unknown_name(f"{FIELD} merge_method", method[:40], SHARED)
    base = str(table.get("base_model") or aligned)
    if not base:
        remedy = "Say which model is the aligned one with --aligned."
        raise UserError("aligned", problem="the configuration has no base_model", remedy=remedy)
    entries = whole_models(table) if table.get("slices") is None else sliced_models(table, base, layers_of)
    common = dict(table.get("parameters") or {})
    for settings in (common, *(settings for _, settings in entries)):
        check_known(method, settings)
    own = [(name, {**common, **settings}) for name, settings in entries]
    tuned = [(name, settings) for name, settings in own if name != base]
    before = [settings for name, settings in own if name == base]
    weights = [one.get("weight", 1.0) for _, one in own]
    if method in WALKS and any(varies(one) and number_everywhere(one) is None for one in weights):
        parameters = layerwise_of(method, common, before, tuned, names_of(base))
        method = "layerwise"
    else:
        parameters = knobs_of(method, common, before, tuned)
    donor = _donor(table.get("tokenizer_source"), base, [name for name, _ in tuned])
    names = [name.split("+", 1)[1] if name.startswith(f"{base}+") else name for name, _ in tuned]
    if any("+" in name for name in names):
        raise UserError(FIELD, problem="an adapter stands on another model than the base", remedy="Merge it first.")
    return {"method": method, "aligned": base, "tuned": names, "parameters": parameters} | donor


def _donor(given: Any, base: str, tuned: Sequence[str]) -> dict[str, str]:
    """Whose tokenizer the merged model gets; a union of vocabularies is not made here."""
    if given in (None, "base", base):
        return {}
    if given in tuned[:1]:
        return {"donor": "fine_tuned"}
    problem, allowed = f"tokenizer_source is {given!r}"[:100], " or ".join(["base", *tuned[:1]])
    raise UserError(FIELD, problem=problem, allowed=allowed, remedy="Take it out for the aligned model's tokenizer.")
