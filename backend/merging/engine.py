"""The merge: tensor by tensor from two sources through one method, to memory or to a folder.

A method sees two fp32 tensors of one shape and its knobs. Everything around that is here: which tensors there are, what
happens to integers and to tied heads, one rounding at the end. It does not know where tensors come from.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.checkpoints.card import merged_config, model_card, public_name, put_side_files
from backend.checkpoints.hashes import file_hashes
from backend.checkpoints.reader import Source, open_source
from backend.checkpoints.space import check_space
from backend.checkpoints.tying import find_ends
from backend.checkpoints.writer import FolderWriter, Slot, shards_like
from backend.errors import Cancelled, UserError
from backend.lazy import torch
from backend.merging.ops import Effect, round_once
from backend.params import check_parameters
from backend.registry import Plugin
from backend.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("torch", "safetensors", "transformers")

Report = Callable[[float, str], None]
Donor = Literal["aligned", "fine_tuned"]


def output_names(aligned: Source, fine_tuned: Source) -> list[str]:
    """The tensors of the merged model, in the aligned model's order.

    A head that only the fine-tuned model holds makes the merged model untied: it comes last.

    Raises:
        UserError: a tensor that one of the two does not have.
    """
    names, theirs = aligned.names(), fine_tuned.names()
    here, there = set(names), set(theirs)
    ends = find_ends(here)
    head = ends.head if ends else ""
    missing = [name for name in names if name not in there and name != head]
    extra = [name for name in theirs if name not in here and name != head]
    if missing or extra:
        who, name = ("fine-tuned", missing[0]) if missing else ("aligned", extra[0])
        raise UserError("tuned", problem=f"the {who} model has no tensor `{name}`", remedy="Pick a matching pair.")
    return [*names, head] if head in there and head not in here else names


def merged_tensors(
    aligned: Source,
    fine_tuned: Source,
    method: Plugin,
    parameters: dict[str, Any],
    *,
    effect: Effect | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the merged model in turn, in the aligned model's dtype.

    Args:
        method: a registered merge method.
        parameters: its knobs, already checked.
        effect: summed up on the way where given.
    """
    changed = fine_tuned.changed_names()
    for name in output_names(aligned, fine_tuned):
        start = aligned.read(name)
        if name not in changed:
            check_constant(name, start, fine_tuned)
            yield name, start
            continue
        goal = fine_tuned.read(name)
        merged = merge_one(name, start, goal, method, parameters)
        if effect is not None:
            effect.add(start, merged, goal)
        yield name, merged


def merge_one(name: str, aligned: Tensor, fine_tuned: Tensor, method: Plugin, parameters: dict[str, Any]) -> Tensor:
    """One tensor: to fp32, through the method, rounded once to the aligned dtype. Inputs stay as they are.

    Equal inputs are returned as they are: every method gives a model merged with itself back.
    """
    if aligned.shape != fine_tuned.shape:
        problem = f"`{name}` is {list(aligned.shape)} in aligned, {list(fine_tuned.shape)} in fine_tuned"
        raise UserError("tuned", problem=problem, allowed="equal shapes", remedy="Pick a matching pair.")
    start, goal = aligned.float(), fine_tuned.float()
    if torch.equal(start, goal):
        return aligned
    return round_once(method.function(start, goal, **parameters), aligned.dtype, name)


def check_constant(name: str, start: Tensor, fine_tuned: Source) -> None:
    """Integers are no weights: they must be equal in both."""
    if not start.dtype.is_floating_point and not torch.equal(start, fine_tuned.read(name)):
        problem = f"`{name}` holds integers ({start.dtype}) that differ between the two models"
        raise UserError("tuned", problem=problem, remedy="Dequantise both, or pick a matching pair.")


def merge_to_folder(
    aligned: Checkpoint,
    tuned: Checkpoint,
    method: Plugin,
    parameters: dict[str, Any],
    out: Path,
    *,
    seed: int = 0,
    donor: Donor = "aligned",
    scores: Mapping[str, Any] | None = None,
    report: Report = lambda fraction, phrase: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the merged model as a Hugging Face folder; it appears whole or not at all.

    Args:
        out: the new folder; refused where it exists and is not empty.
        donor: whose config, tokenizer and chat template the folder gets.
        scores: axis -> {"value", "low", "high", "n"} in percent for the card; none says "not evaluated".
        report: told the fraction of bytes written, at each tensor.
        should_stop: asked before each tensor.

    Returns:
        The recipe, as written to `recipe.json`, with the effective projection and distance.

    Raises:
        Cancelled: `should_stop` said so; nothing is left.
        UserError: knobs, models or folder are wrong.
        RunFailed: the disk is full or cannot be written.
    """
    checked = check_parameters(method.name, method.parameters, parameters)
    start, goal = open_source(aligned), open_source(tuned, aligned)
    slots = [Slot(name, _stored(aligned, name), start.shape(name)) for name in output_names(start, goal)]
    total = sum(slot.bytes for slot in slots)
    check_space(out, total)
    effect, done = Effect(), 0
    with FolderWriter(out, shards_like(aligned, slots)) as writer:
        merged = merged_tensors(start, goal, method, checked, effect=effect)
        for slot, (name, tensor) in zip(slots, merged, strict=True):
            if should_stop():
                raise Cancelled("The merge was cancelled; nothing was written.")
            writer.write(name, tensor)
            done += slot.bytes
            report(done / total if total else 1.0, f"merging {name}")
        donors = (aligned, tuned) if donor == "aligned" else (tuned, aligned)
        config = merged_config(aligned, tuned, donors[0], [slot.name for slot in slots])
        put_side_files(writer, config, donors)
        recipe = {
            "method": method.name,
            "paper": method.facts.get("paper", ""),
            "parameters": checked,
            "seed": seed,
            "aligned": _input(aligned, should_stop),
            "fine_tuned": _input(tuned, should_stop),
            "donor": donor,
            "effective": effect.to_json(),
            "files": writer.hashes,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        }
        writer.put_json("recipe.json", recipe)
        writer.put_text("README.md", model_card(out.name, recipe, (aligned, tuned), scores=scores))
        writer.commit()
    return recipe


def _stored(aligned: Checkpoint, name: str) -> str:
    """The dtype a merged tensor is stored in: the aligned model's, for a new head that of the embedding."""
    if name not in aligned.tensors and (ends := find_ends(aligned.tensors)):
        return aligned.tensors[ends.embedding].dtype
    return aligned.tensors[name].dtype


def _input(checkpoint: Checkpoint, should_stop: Callable[[], bool]) -> dict[str, Any]:
    return {
        "name": public_name(checkpoint),
        "revision": checkpoint.revision,
        "files": file_hashes(checkpoint, should_stop=should_stop),
    }
