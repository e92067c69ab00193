"""What a PEFT LoRA adapter changes, read from its tensor names and its configuration. No torch, no weights.

ΔW = s·B·A with s = α/r, or α/√r for rsLoRA. Whole tensors saved beside the factors (`modules_to_save`, biases) replace
the aligned ones. Variants whose update is not this sum are refused, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from backend.checkpoints.names import bare, by_bare
from backend.checkpoints.tying import Ends, find_ends
from backend.errors import UserError
from backend.types import Checkpoint

PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?")
WHOLE = re.compile(r"(?P<module>.+?)(?:\.modules_to_save|\.base_layer|\.original_module)?\.(?P<leaf>weight|bias)")

# Each of these changes what the factors mean; a truthy value is refused by name.
REFUSED = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "megatron_config",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
PLAIN_KEY = re.compile(r"[\w.]+")
PLAIN_STARTS = (True, False, None, "true", "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Update:
    """What happens to one tensor of the aligned model: replaced by a whole one, then s·B·A is added.

    `a`, `b` and `whole` are names in the adapter's file; `transposed` means that (B·A)ᵀ is what fits.
    """

    target: str
    scale: float = 0.0
    a: str = ""
    b: str = ""
    whole: str = ""
    transposed: bool = False

    def delta_shape(self, adapter: Checkpoint) -> tuple[int, ...]:
        """The shape the update has once the factors are multiplied."""
        if not self.a:
            return adapter.tensors[self.whole].shape
        rows, columns = adapter.tensors[self.b].shape[0], adapter.tensors[self.a].shape[1]
        return (columns, rows) if self.transposed else (rows, columns)

    def check_fit(self, adapter: Checkpoint, shape: tuple[int, ...], *, field: str = "tuned") -> None:
        """Refuse an update of another shape than its target's, `shape`."""
        made = [self.delta_shape(adapter)] + ([adapter.tensors[self.whole].shape] if self.whole else [])
        for other in made:
            if other != shape:
                sizes = " × ".join(map(str, other)), " × ".join(map(str, shape))
                problem = f"the adapter makes `{self.target}` {sizes[0]}, in the aligned model it is {sizes[1]}"
                raise UserError(field, problem=problem, remedy="Pick the model that the adapter was trained on.")


def updates_of(adapter: Checkpoint, names: Collection[str], *, field: str = "tuned") -> dict[str, Update]:
    """The updates by target tensor.

    Args:
        adapter: a checkpoint of kind "adapter".
        names: the tensor names of the model it is put on, as its files have them. PEFT names modules as a loaded
            model does, which may wrap them otherwise.

    Raises:
        UserError: a PEFT type or variant that is not plain LoRA, a factor without its partner, a module that the
            model does not have, or two for one of its modules.
    """
    check_variant(adapter, field=field)
    ends = find_ends(names)
    whole_model = {*names, *([ends.head] if ends else [])}
    known = by_bare(whole_model) | {name: name for name in whole_model}
    pairs: dict[tuple[str, bool], dict[str, str]] = {}
    wholes: dict[str, str] = {}
    for name in adapter.tensors:
        bare = name.removeprefix(PREFIX)
        factor = FACTOR.fullmatch(bare)
        if factor:
            pairs.setdefault((factor["module"], bool(factor["embedding"])), {})[factor["side"]] = name
            continue
        whole = WHOLE.fullmatch(bare)
        if whole is None or ".lora_" in bare:
            raise UserError(field, problem=f"the adapter holds {bare[:120]!r}, which is no part of plain LoRA")
        wholes[f"{whole['module']}.{whole['leaf']}"] = name
    updates: dict[str, Update] = {}
    for name, source in wholes.items():
        target = _target(name, known, field)
        _check_first(target, target in updates, field)
        updates[target] = Update(target, whole=source)
    for (module, embedding), sides in pairs.items():
        target = _target(f"{module}.weight", known, field)
        before = updates.get(target, Update(target))
        _check_first(target, bool(before.a), field)
        updates[target] = _low_rank(adapter, target, module, sides, embedding, before.whole, field)
    if ends and ends.head not in names and ends.embedding in updates and head_follows(adapter, ends):
        updates.pop(ends.head, None)
    return updates


def head_follows(adapter: Checkpoint, ends: Ends) -> bool:
    """Whether a head that is tied to the embedding of these `ends` goes where the adapter takes that.

    In PEFT it stays as it was, and the model is tied no more, unless the adapter asks for the opposite; it can for an
    embedding of this name only. Its file then holds the change of the head too, which is the embedding's.
    """
    return bool(adapter.adapter.get("ensure_weight_tying")) and ends.embedding.endswith("embed_tokens.weight")


def check_variant(adapter: Checkpoint, *, field: str = "tuned") -> None:
    """Refuse what is not plain LoRA."""
    config = adapter.adapter
    kind = str(config.get("peft_type", "")).removeprefix("PeftType.")
    if kind != "LORA":
        remedy = "Merge it into its model with PEFT first and give that folder."
        raise UserError(field, problem=f"the adapter has peft_type {kind[:40]!r}", allowed="LORA", remedy=remedy)
    for key in REFUSED:
        if config.get(key):
            problem = f"the adapter uses {key}, which is not plain LoRA"
            raise UserError(
                field, problem=problem, remedy="Merge it into its model with PEFT first and give that folder."
            )
    _check_pattern(config.get("alpha_pattern"), "alpha_pattern", field)  # ranks are those of the factors
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        problem = (
            f"the adapter was started with init_lora_weights {str(start)[:40]!r}, which changes the model under it"
        )
        raise UserError(field, problem=problem, remedy="Save it as plain LoRA, or merge it with PEFT first.")


def _check_pattern(patterns: Any, table: str, field: str) -> None:
    """Refuse keys that PEFT would run as regular expressions: a stranger's can take for ever."""
    if not patterns:
        return
    if not isinstance(patterns, dict):
        raise UserError(field, problem=f"the adapter's {table} is no table", remedy="Save the adapter again.")
    for key in patterns:
        if not PLAIN_KEY.fullmatch(key):
            remedy = "Write the modules out by name in adapter_config.json, or merge the adapter with PEFT first."
            allowed = "the name of a module or a dotted end of it"
            raise UserError(
                field, problem=f"the adapter's {table} has the key {key[:80]!r}", allowed=allowed, remedy=remedy
            )


def _low_rank(
    adapter: Checkpoint, target: str, module: str, sides: dict[str, str], embedding: bool, whole: str, field: str
) -> Update:
    if set(sides) != {"A", "B"}:
        there, missing = min(sides), "B" if "A" in sides else "A"
        raise UserError(field, problem=f"the adapter holds lora_{there} of {module} but no lora_{missing}")
    a, b = adapter.tensors[sides["A"]], adapter.tensors[sides["B"]]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
        problem = f"the factors of {module} are {list(a.shape)} and {list(b.shape)}, which cannot be multiplied"
        raise UserError(field, problem=problem, remedy="Save the adapter again.")
    rank = a.shape[0]
    alpha = _pattern(adapter.adapter.get("alpha_pattern"), module, adapter.adapter.get("lora_alpha", 8), field)
    scale = alpha / (math.sqrt(rank) if adapter.adapter.get("use_rslora") else rank)
    transposed = embedding or bool(adapter.adapter.get("fan_in_fan_out"))
    return Update(target, scale, a.name, b.name, whole, transposed)


def _pattern(patterns: Any, module: str, default: Any, field: str) -> float:
    """PEFT's rule for plain keys: the first that is the module's name or a dotted end of it."""
    table = patterns if isinstance(patterns, dict) else {}
    value = next((given for key, given in table.items() if f".{module}".endswith(f".{key}")), default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(
            field, problem=f"the adapter gives {module} an alpha of {str(value)[:40]!r}", allowed="a number"
        )
    return float(value)


def _target(name: str, known: Mapping[str, str], field: str) -> str:
    if (target := known.get(name) or known.get(bare(name))) is not None:
        return target
    remedy = "Pick the model it was trained on."
    raise UserError(
        field, problem=f"the adapter changes {name[:120]}, which the aligned model does not have", remedy=remedy
    )


def _check_first(target: str, taken: bool, field: str) -> None:
    if taken:
        problem = f"the adapter changes `{target[:120]}` twice, under two names"
        raise UserError(field, problem=problem, remedy="Save the adapter again.")
