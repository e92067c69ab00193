"""The checked spec of a merge as mergekit's YAML."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backend.errors import UserError
from backend.merging.mergekit.beside import formats_of
from backend.merging.mergekit.gradients import stacks_of
from backend.merging.mergekit.words import FAMILY, NORMALIZED, PLAIN, RANDOM, SHARED
from backend.merging.place import Place
from backend.types import Checkpoint


def to_mergekit(spec: Mapping[str, Any], *, adapters: Collection[str] = (), aligned: Checkpoint | None = None) -> str:
    """The checked spec of a merge as mergekit's YAML, which gives the same weights but for rounding.

    Methods that drop elements at random drop others there, where the generator is another and the file has no seed.

    Args:
        adapters: those of the fine-tuned names that are adapters of the aligned model.
        aligned: its checkpoint. Where it has one number format, mergekit is told to compute in float32 and to write
            that; otherwise it computes in and writes what it reads.

    Raises:
        UserError: what mergekit does not have: a method, a knob, or the seed of a random method.

    >>> print(to_mergekit({"method": "ties", "aligned": "a", "tuned": "b", "parameters": {"lam": 0.5, "density": 0.2}}))
    merge_method: ties
    base_model: a
    models:
    - model: b
      parameters:
        weight: 1.0
        density: 0.2
    parameters:
      normalize: true
      rescale: false
      lambda: 0.5
    <BLANKLINE>
    """
    import yaml

    method, parameters = str(spec["method"]), dict(spec["parameters"])
    _check_sayable(method, spec)
    base = str(spec["aligned"])
    tuned = [spec["tuned"]] if isinstance(spec["tuned"], str) else list(spec["tuned"])
    if spec.get("donor", "aligned") == "fine_tuned" and tuned[0] in adapters:
        problem = "mergekit takes an adapter's tokenizer from the model under it, this merge takes the adapter's own"
        raise UserError("to-mergekit", problem=problem, remedy="Leave donor=fine_tuned out, or keep the recipe.json.")
    tuned = [f"{base}+{name}" if name in adapters else name for name in tuned]
    lam = float(parameters.pop("lam", 1.0))
    weights = list(parameters.pop("weights", ())) or [1.0] * len(tuned)
    models: list[dict[str, Any]] = [{"model": name} for name in tuned]
    config: dict[str, Any] = {"merge_method": method, "base_model": base, "models": models}
    if method in FAMILY:
        _write_family(method, config, parameters, lam, weights)
    elif method == "linear":
        shares = [1 - lam, *(lam * weight / sum(weights) for weight in weights)]
        models.insert(0, {"model": base})
        for model, share in zip(models, shares, strict=True):
            model["parameters"] = {"weight": share}
    elif method in ("slerp", "slerp_curves"):
        models.insert(0, {"model": base})
        config["merge_method"] = "slerp"
        config["parameters"] = {"t": lam if method == "slerp" else _curves(parameters, lam, aligned)}
    else:
        if lam != 1:
            raise UserError("to-mergekit", problem=f"mergekit's {method} has no λ, here it is {lam:g}", allowed="1")
        _write_others(method, config, parameters, weights)
    if spec.get("donor", "aligned") == "fine_tuned":
        config["tokenizer_source"] = tuned[0]
    return str(yaml.safe_dump(config | _formats(aligned), sort_keys=False, allow_unicode=True))


def _formats(aligned: Checkpoint | None) -> dict[str, str]:
    """In which number format mergekit computes and writes."""
    formats = set() if aligned is None else set(formats_of(aligned).values())
    if len(formats) != 1 or "float64" in formats:
        return {}
    return {"dtype": "float32", "out_dtype": formats.pop()}


def _check_sayable(method: str, spec: Mapping[str, Any]) -> None:
    remedy = "Keep the recipe.json instead."
    if method == "layerwise":
        problem = "layerwise is not written for mergekit, whose lists over the depth reach the final norm too"
        raise UserError("to-mergekit", problem=problem, remedy=remedy)
    if method not in (*SHARED, "slerp_curves"):
        raise UserError("to-mergekit", problem=f"mergekit has no {method}", remedy=remedy)
    if method in RANDOM and spec.get("seed"):
        problem = f"mergekit's file has no seed, and {method} keeps what seed {spec['seed']} draws"
        raise UserError("to-mergekit", problem=problem, remedy=f"Leave the seed out, or: {remedy}")


def _curves(parameters: Mapping[str, Any], lam: float, aligned: Checkpoint | None) -> list[dict[str, Any]]:
    """slerp's `t` by filter, where mergekit's filters find the modules that have the curves."""
    filters = {"attention": "self_attn", "mlp": "mlp"}
    for name in () if aligned is None else aligned.tensors:
        found = next((module for module, part in filters.items() if part in name), "other")
        if found != Place(name).module:
            problem = f"a filter of mergekit does not tell that `{name}` is {Place(name).module}"
            raise UserError("to-mergekit", problem=problem, remedy="Keep the recipe.json instead.")
    names = [] if aligned is None else list(aligned.tensors)
    if stacks_of(names) > 1 and any(len(parameters[module]) > 1 for module in (*filters, "other")):
        problem = "mergekit draws a curve over each of the two stacks of layers of this model"
        raise UserError("to-mergekit", problem=problem, remedy="Keep the recipe.json instead.")
    curves = {module: [lam * value for value in parameters[module]] for module in (*filters, "other")}
    return [{"filter": part, "value": curves[module]} for module, part in filters.items()] + [
        {"value": curves["other"]}
    ]


def _write_family(
    method: str, config: dict[str, Any], parameters: Mapping[str, Any], lam: float, weights: Sequence[Any]
) -> None:
    normalize = parameters.get("normalize", "weights" if method in NORMALIZED else "off")
    election = parameters.get("election", "weighted")
    if normalize == "count" or election != "weighted":
        problem = f"mergekit elects by weighted sum and divides by weights, this is {election} and {normalize}"
        raise UserError("to-mergekit", problem=problem, remedy="Keep the recipe.json instead.")
    rescale = parameters.get("rescale", "none")
    if rescale == "inverse":
        problem = 'mergekit rescales by the sum of magnitudes, this merge by "inverse"'
        raise UserError("to-mergekit", problem=problem, remedy="Set rescale=l1.")
    shared = {key: parameters[key] for key in ("density", "epsilon", "gamma") if key in parameters}
    densities = parameters.get("densities") or [None] * len(weights)
    for model, weight, density in zip(config["models"], weights, densities, strict=True):
        model["parameters"] = {"weight": weight, **({} if density is None else {"density": density}), **shared}
    config["parameters"] = {"normalize": normalize == "weights", "rescale": rescale == "l1", "lambda": lam}


def _write_others(method: str, config: dict[str, Any], parameters: Mapping[str, Any], weights: Sequence[Any]) -> None:
    models = config["models"]
    if method == "nuslerp":
        share, axis = float(parameters["t"]), parameters["axis"]
        weights = [1 - share, share]
        config["parameters"] = {"nuslerp_flatten": axis == "whole", "nuslerp_row_wise": axis == "columns"}
    elif method in PLAIN:
        config["parameters"] = {theirs: parameters[ours] for theirs, ours in PLAIN[method].items()}
    if method in ("nuslerp", "multislerp"):
        for model, weight in zip(models, weights, strict=True):
            model["parameters"] = {"weight": weight}
    if method == "karcher":
        models.insert(0, {"model": config["base_model"]})
    if method == "passthrough":
        del config["base_model"]
