"""The checked spec of a merge as mergekit's YAML."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backend.errors import UserError
from backend.merging.mergekit.words import FAMILY, NORMALIZED, PLAIN, RANDOM, SHARED


def to_mergekit(spec: Mapping[str, Any], *, adapters: Collection[str] = ()) -> str:
    """The checked spec of a merge as mergekit's YAML, which gives the same weights but for rounding.

    Methods that drop elements at random drop others there, where the generator is another and the file has no seed.

    Args:
        adapters: those of the fine-tuned names that are adapters of the aligned model.

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
    dtype: float32
    <BLANKLINE>
    """
    import yaml

    method, parameters = str(spec["method"]), dict(spec["parameters"])
    _check_sayable(method, spec)
    aligned = str(spec["aligned"])
    tuned = [spec["tuned"]] if isinstance(spec["tuned"], str) else list(spec["tuned"])
    tuned = [f"{aligned}+{name}" if name in adapters else name for name in tuned]
    lam = float(parameters.pop("lam", 1.0))
    weights = [float(weight) for weight in parameters.pop("weights", ())] or [1.0] * len(tuned)
    models: list[dict[str, Any]] = [{"model": name} for name in tuned]
    config: dict[str, Any] = {"merge_method": method, "base_model": aligned, "models": models}
    if method in FAMILY:
        _write_family(method, config, parameters, lam, weights)
    elif method == "linear":
        del config["base_model"]
        shares = [1 - lam, *(lam * weight / sum(weights) for weight in weights)]
        models.insert(0, {"model": aligned})
        for model, share in zip(models, shares, strict=True):
            model["parameters"] = {"weight": share}
    elif method == "slerp":
        models.insert(0, {"model": aligned})
        config["parameters"] = {"t": lam}
    else:
        if lam != 1:
            raise UserError("to-mergekit", problem=f"mergekit's {method} has no λ, here it is {lam:g}", allowed="1")
        _write_others(method, config, parameters, weights)
    if spec.get("donor", "aligned") == "fine_tuned":
        config["tokenizer_source"] = tuned[0]
    return str(yaml.safe_dump(config | {"dtype": "float32"}, sort_keys=False, allow_unicode=True))


def _check_sayable(method: str, spec: Mapping[str, Any]) -> None:
    remedy = "Keep the recipe.json instead."
    if method == "layerwise":
        problem = "layerwise is not written for mergekit, whose lists over the depth reach the final norm too"
        raise UserError("to-mergekit", problem=problem, remedy=remedy)
    if method not in SHARED:
        raise UserError("to-mergekit", problem=f"mergekit has no {method}", remedy=remedy)
    if method in RANDOM and spec.get("seed"):
        problem = f"mergekit's file has no seed, and {method} keeps what seed {spec['seed']} draws"
        raise UserError("to-mergekit", problem=problem, remedy=f"Leave the seed out, or: {remedy}")


def _write_family(
    method: str, config: dict[str, Any], parameters: Mapping[str, Any], lam: float, weights: Sequence[float]
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
    for model, weight in zip(config["models"], weights, strict=True):
        model["parameters"] = {"weight": weight, **shared}
    config["parameters"] = {"normalize": normalize == "weights", "rescale": rescale == "l1", "lambda": lam}


def _write_others(method: str, config: dict[str, Any], parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
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
        models.insert(0, {"model": config.pop("base_model")})
    if method == "passthrough":
        del config["base_model"]
