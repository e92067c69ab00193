"""mergekit's YAML, read and written, for the methods that both have. No torch and no mergekit.

What mergekit can say and the studio cannot (layers of different models, settings by tensor or depth) is refused by
name, so that no recipe means something else here than it did there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from backend.errors import UserError, unknown_name
from backend.merging.gradients import curves_of, layerwise_knobs, number_at, number_everywhere, varies

ARITHMETIC = ("task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "della", "breadcrumbs")
FAMILY = (*ARITHMETIC, "breadcrumbs_ties")
NORMALIZED = ("ties", "della")
RANDOM = RESCALED = ("dare_linear", "dare_ties", "della_linear", "della")
# Settings of the whole merge by method, ours under mergekit's name.
PLAIN = {
    "model_stock": {"filter_wise": "filter_wise"},
    "sce": {"select_topk": "select_topk"},
    "nearswap": {"t": "t"},
    "karcher": {"max_iter": "max_iter", "tol": "tol"},
    "arcee_fusion": {},
    "passthrough": {"scale": "scale"},
}
SHARED = (*FAMILY, "linear", "slerp", "nuslerp", "multislerp", *PLAIN)
IGNORED = ("int8_mask", "eps")  # they change memory and the last bits, not what is meant
OWN = {
    **dict.fromkeys(FAMILY, ("weight", "normalize", "rescale", "lambda")),
    "linear": ("weight", "normalize"),
    "slerp": ("t",),
    "nuslerp": ("weight", "nuslerp_flatten", "nuslerp_row_wise"),
    "multislerp": ("weight", "normalize_weights"),
}
TOP = ("models", "slices", "merge_method", "base_model", "parameters", "dtype", "name", "tokenizer_source")
REFUSED = {
    "out_dtype": "Take it out: the merged model keeps the aligned model's number format.",
    "chat_template": "Take it out: the template comes with the tokenizer.",
}
WALKS = ("linear", "task_arithmetic")  # with one fine-tuned model a straight line for each tensor
FIELD = "from-mergekit"


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
    table = _table(text)
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
    entries = _models(table) if table.get("slices") is None else _sliced_models(table, base, layers_of)
    common = dict(table.get("parameters") or {})
    for settings in (common, *(settings for _, settings in entries)):
        _check_known(method, settings)
    own = [(name, {**common, **settings}) for name, settings in entries]
    tuned = [(name, settings) for name, settings in own if name != base]
    before = [settings for name, settings in own if name == base]
    weights = [one.get("weight", 1.0) for _, one in own]
    if method in WALKS and any(varies(one) and number_everywhere(one) is None for one in weights):
        parameters = _layerwise(method, common, before, tuned, names_of(base))
        method = "layerwise"
    else:
        parameters = _parameters(method, common, before, tuned)
    donor = _donor(table.get("tokenizer_source"), base, [name for name, _ in tuned])
    names = [name.split("+", 1)[1] if name.startswith(f"{base}+") else name for name, _ in tuned]
    if any("+" in name for name in names):
        raise UserError(FIELD, problem="an adapter stands on another model than the base", remedy="Merge it first.")
    return {"method": method, "aligned": base, "tuned": names, "parameters": parameters} | donor


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


def _parameters(
    method: str, common: Mapping[str, Any], before: Sequence[Mapping[str, Any]], tuned: Sequence[Any]
) -> dict[str, Any]:
    settings = [one for _, one in tuned]
    weights = [_number(one, "weight", 1.0) for one in settings]
    if method in FAMILY:
        return _family(method, common, settings, weights)
    if method == "slerp":
        return {"lam": _number(common, "t", None)}
    if method == "linear":
        start = sum(_number(one, "weight", 1.0) for one in before)
        total = start + sum(weights)
        if not total or (not common.get("normalize", True) and abs(total - 1) > 1e-9):
            problem = f"the weights sum to {total:g}"
            raise UserError(FIELD, problem=problem, allowed="1, or normalize true and a sum above 0")
        return {"lam": sum(weights) / total} | ({"weights": weights} if len(weights) > 1 else {})
    if method == "nuslerp":
        flat, columns = common.get("nuslerp_flatten", True), common.get("nuslerp_row_wise", False)
        share = weights[1] / sum(weights) if len(weights) == 2 and abs(sum(weights)) >= 1e-6 else 0.5
        return {"lam": 1.0, "t": share, "axis": "whole" if flat else "columns" if columns else "rows"}
    if method == "multislerp":
        if not common.get("normalize_weights", True):
            raise UserError(FIELD, problem="normalize_weights is off", allowed="on", remedy="Take it out.")
        return {"lam": 1.0, "weights": weights}
    source = {**common, **(settings[0] if method == "passthrough" and settings else {})}
    given = {ours: source[theirs] for theirs, ours in PLAIN[method].items() if source.get(theirs) is not None}
    return given if method in ("nearswap", "passthrough") else {"lam": 1.0, **given}


def _layerwise(
    method: str,
    common: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]],
    tuned: Sequence[tuple[str, Mapping[str, Any]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """The knobs of `layerwise` that give every tensor the weight that the file gives it."""
    if len(tuned) != 1:
        problem = f"weight of {method} differs by depth or by tensor, with {len(tuned)} fine-tuned models"
        raise UserError(FIELD, problem=problem, allowed="one number for each", remedy="layerwise takes one model.")
    if common.get("rescale"):
        raise UserError(FIELD, problem=f"{method} with rescale has no counterpart here", remedy="Set rescale false.")
    end, starts = tuned[0][1].get("weight", 1), [one.get("weight", 1) for one in before]
    normal = bool(common.get("normalize", method == "linear"))
    lam = _number(common, "lambda", 1.0)

    def share(name: str, depth: float) -> float | None:
        far = number_at(end, name, depth)
        near = [number_at(one, name, depth) for one in starts]
        if far is None or any(one is None for one in near):
            return None
        if method == "task_arithmetic":
            return lam * (float(far != 0) if normal else far)
        total = far + sum(one or 0.0 for one in near)
        return far / total if normal and total else far if abs(total - 1) < 1e-9 else None

    knobs = layerwise_knobs(share, [curve for one in (end, *starts) for curve in curves_of(one)], names)
    if knobs is None:
        problem = f"weight of {method} differs by depth or by tensor in a way that no merge here does"
        allowed = "what layerwise has: one curve over the layers, a share for each of attention, MLP, norms with the "
        allowed += "final one, embedding and head"
        raise UserError(FIELD, problem=problem, allowed=allowed, remedy="Use layerwise with a curve near it.")
    return knobs


def _family(
    method: str, common: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], weights: Sequence[float]
) -> dict[str, Any]:
    normalize = bool(common.get("normalize", method in NORMALIZED))
    lam = _number(common, "lambda", 1.0)
    found: dict[str, Any] = {}
    for key, default in _kept(method).items():
        values = {_number(one, key, default) for one in settings}
        if len(values) > 1:
            problem = f"{key} differs between the models"
            raise UserError(FIELD, problem=problem, remedy="Use one value for all.")
        found[key] = values.pop() if values else default
    rescale = bool(common.get("rescale", method in RESCALED))
    if method in RESCALED:
        found["rescale"] = "l1" if rescale else "none"
    elif rescale:
        raise UserError(FIELD, problem=f"{method} with rescale has no counterpart here", remedy="Set rescale false.")
    if len(weights) == 1:  # dividing by the weight takes it out again
        return {"lam": lam if normalize else lam * weights[0], **found}
    return {"lam": lam, "weights": list(weights), "normalize": "weights" if normalize else "off", **found}


def _kept(method: str) -> dict[str, float]:
    """The settings of one of the family's methods that say which entries are kept, with mergekit's defaults."""
    if method == "task_arithmetic":
        return {}
    known = {"density": 1.0}
    known |= {"epsilon": 0.15} if method.startswith("della") else {}
    return known | ({"gamma": 0.01} if method.startswith("breadcrumbs") else {})


def _table(text: str) -> dict[str, Any]:
    import yaml

    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(FIELD, problem=f"the file is no YAML{line}", remedy="Check the file.") from None
    if not isinstance(table, dict) or "merge_method" not in table:
        raise UserError(FIELD, problem="the file has no merge_method", remedy="Name a configuration of mergekit.")
    if not isinstance(table.get("parameters") or {}, dict):
        raise UserError(FIELD, problem="parameters is no table", remedy="Check the file.")
    return table


def _donor(given: Any, base: str, tuned: Sequence[str]) -> dict[str, str]:
    """Whose tokenizer the merged model gets; a union of vocabularies is not made here."""
    if given in (None, "base", base):
        return {}
    if given in tuned[:1]:
        return {"donor": "fine_tuned"}
    problem, allowed = f"tokenizer_source is {given!r}"[:100], " or ".join(["base", *tuned[:1]])
    raise UserError(FIELD, problem=problem, allowed=allowed, remedy="Take it out for the aligned model's tokenizer.")


def _check_known(method: str, settings: Mapping[str, Any]) -> None:
    known = {*OWN.get(method, PLAIN.get(method, {})), *(_kept(method) if method in FAMILY else ()), *IGNORED}
    for key in settings:
        if key not in known:
            raise unknown_name(f"{FIELD} parameter of {method}", str(key)[:40], known)


def _check_keys(what: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for key in table:
        if key not in allowed:
            raise UserError(FIELD, problem=f"{what} has `{str(key)[:40]}`", allowed=", ".join(allowed))


def _sliced_models(
    table: Mapping[str, Any], base: str, layers_of: Callable[[str], int | None]
) -> list[tuple[str, dict[str, Any]]]:
    """The models of one slice that takes all their layers; another is a stack of parts, which no merge here makes."""
    slices, allowed = table["slices"], "`models`, or one slice of whole models"
    if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict) or "models" in table:
        raise UserError(FIELD, problem="it puts layers of different models together", allowed=allowed)
    _check_keys("a slice", slices[0], ("sources",))
    entries = slices[0].get("sources")
    layers = layers_of(base)
    for one in entries if isinstance(entries, list) else ():
        if isinstance(one, dict) and one.get("layer_range") != [0, layers]:
            problem = f"its slice takes the layers {one.get('layer_range')!r} of {base} with {layers or 'unknown'}"
            raise UserError(FIELD, problem=problem[:200], allowed=allowed, remedy="List the models without layers.")
    return _named(entries, ("model", "layer_range", "parameters"))


def _models(table: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings) in order."""
    return _named(table.get("models"), ("model", "parameters"))


def _named(entries: Any, allowed: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(entries, list):
        raise UserError(FIELD, problem="its models are no list", allowed="`models:` with one `- model:` each")
    found = []
    for one in entries:
        if not isinstance(one, dict) or not isinstance(one.get("model"), str):
            raise UserError(FIELD, problem="a model has no name", remedy="Give each its `model:`.")
        _check_keys("a model", one, allowed)
        settings = one.get("parameters") or {}
        if not isinstance(settings, dict):
            raise UserError(FIELD, problem=f"the parameters of {one['model'][:80]} are no table")
        found.append((one["model"], settings))
    return found


def _number(settings: Mapping[str, Any], key: str, default: float | None) -> float:
    value = settings.get(key, default)
    if varies(value) and (value := number_everywhere(value)) is None:
        problem = f"{key} differs by depth or by tensor"
        remedy = "For that only layerwise has knobs: λ by curve and by kind of module, on a straight line"
        remedy += ", which is near slerp where the models are." if key == "t" else "."
        raise UserError(FIELD, problem=problem, allowed="one number", remedy=remedy)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UserError(FIELD, problem=f"{key} is {value!r}"[:100], allowed="a number") from None
