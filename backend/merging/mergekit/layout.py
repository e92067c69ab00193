"""How a mergekit file is laid out: one table, its models in order with their settings. Knows nothing of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend.errors import UserError
from backend.merging.mergekit.words import FIELD

TOP = (
    *("models", "slices", "merge_method", "base_model", "parameters", "name"),
    *("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
)


def read_table(text: str) -> dict[str, Any]:
    """The file's top level; it names a method."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UserError(FIELD, problem="the file has aliases", remedy="Write out what they stand for.")
        table = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(FIELD, problem=f"the file is no YAML{line}", remedy="Check the file.") from None
    if not isinstance(table, dict) or "merge_method" not in table:
        raise UserError(FIELD, problem="the file has no merge_method", remedy="Name a configuration of mergekit.")
    for key in table:
        if key not in TOP:
            problem = f"`{str(key)[:40]}` has no counterpart here"
            raise UserError(FIELD, problem=problem, remedy="Take it out.")
    if not isinstance(table.get("parameters") or {}, dict):
        raise UserError(FIELD, problem="parameters is no table", remedy="Check the file.")
    return table


def _check_keys(what: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for key in table:
        if key not in allowed:
            raise UserError(FIELD, problem=f"{what} has `{str(key)[:40]}`", allowed=", ".join(allowed))


def sliced_models(table: Mapping[str, Any], layers_of: Callable[[str], int | None]) -> list[tuple[str, dict[str, Any]]]:
    """The models of one slice that takes all their layers; another is a stack of parts, which no merge here makes.

    Args:
        layers_of: how many layers a model has, None where that is not known.
    """
    slices, allowed = table["slices"], "`models`, or one slice of whole models"
    if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict) or "models" in table:
        raise UserError(FIELD, problem="it puts layers of different models together", allowed=allowed)
    _check_keys("a slice", slices[0], ("sources",))
    entries = slices[0].get("sources")
    found = _named(entries, ("model", "layer_range", "parameters"))
    for (name, _), one in zip(found, entries or (), strict=True):
        layers = layers_of(name.split("+")[0])
        if layers is None or one.get("layer_range") != [0, layers]:
            problem = f"its slice takes the layers {one.get('layer_range')!r} of {name} with {layers or 'unknown'}"
            raise UserError(FIELD, problem=problem[:200], allowed=allowed, remedy="List the models without layers.")
    return found


def whole_models(table: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
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
