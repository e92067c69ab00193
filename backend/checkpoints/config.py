"""What we take from a foreign `config.json`: numbers and names, never code, never a switch that loads some."""

from __future__ import annotations

from typing import Any

from backend.errors import UserError

# Model families that are run here. Merging goes by name and shape and builds no model, so it takes others too.
MODEL_TYPES = (
    "cohere",
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "glm",
    "glm4",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
)

# Keys that name code, kernels or number formats; dropped wherever they stand.
DROPPED = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "quantization_config",
        "attn_implementation",
        "experts_implementation",
        "kernel_config",
        "use_kernels",
        "compression_config",
    }
)


def sanitised(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`config` without what could run code, and the names of what was dropped.

    >>> sanitised({"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}, "text_config": {"_attn": "hub/kernel"}})
    ({'model_type': 'llama', 'text_config': {}}, ('auto_map', 'text_config._attn'))
    """
    dropped: list[str] = []
    kept = _kept(config, "", dropped)
    return kept, tuple(dropped)


def _kept(table: dict[str, Any], path: str, dropped: list[str]) -> dict[str, Any]:
    kept = {}
    for key, value in table.items():
        if key in DROPPED or key.startswith(("_", "custom_")):
            dropped.append(path + key)
        elif isinstance(value, dict):
            kept[key] = _kept(value, f"{path}{key}.", dropped)
        else:
            kept[key] = value
    return kept


def check_model_type(config: dict[str, Any], *, field: str) -> None:
    """Refuse to run a family that is not on the list.

    Raises:
        UserError: `model_type` is another.
    """
    given = config.get("model_type")
    if given not in MODEL_TYPES:
        problem = f"config.json has model_type {str(given)[:60]!r}"
        remedy = "Pick a model of these families; others can be inspected and merged."
        raise UserError(field, problem=problem, allowed=", ".join(MODEL_TYPES), remedy=remedy)


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's own table: `text_config` where a model also sees, else the whole."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def layer_count(config: dict[str, Any]) -> int | None:
    """How many layers the language model has, where the config says so.

    >>> layer_count({"text_config": {"num_hidden_layers": 26}}), layer_count({"n_layer": 12}), layer_count({})
    (26, 12, None)
    """
    own = text_part(config)
    return own.get("num_hidden_layers", own.get("n_layer"))
