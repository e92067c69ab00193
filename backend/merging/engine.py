"""The merge: tensor by tensor from two sources through one method, to memory or to a folder.

A method sees fp32 tensors of one shape and its knobs. Everything around that is here: casting, the walk along a step,
one rounding at the end, the folder. It does not know where tensors come from.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.checkpoints.card import merged_config, model_card, public_name, put_side_files
from backend.checkpoints.hashes import file_hashes
from backend.checkpoints.reader import open_source
from backend.checkpoints.space import check_space
from backend.checkpoints.tying import find_ends
from backend.checkpoints.writer import FolderWriter, Slot, shards_like
from backend.errors import Cancelled, UserError
from backend.lazy import torch
from backend.merging.inputs import SURELY_FINITE, Arguments, Bundle, Models, check_request
from backend.merging.ops import Effect, round_once
from backend.registry import Plugin
from backend.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("torch", "safetensors", "transformers")

Report = Callable[[float, str], None]
Donor = Literal["aligned", "fine_tuned"]
Step = tuple["Tensor | None", "Tensor"]


def merged_tensors(
    models: Models,
    method: Plugin,
    parameters: dict[str, Any],
    *,
    seed: int = 0,
    effect: Effect | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the merged model in turn, in the aligned model's dtype.

    Args:
        method: a registered merge method.
        parameters: its knobs, already checked.
        effect: summed up on the way where given.
    """
    for name in models.names:
        bundle = models.read(name, seed=seed)
        if not isinstance(bundle, Bundle):
            yield name, bundle
            continue
        merged = merge_one(bundle, method, parameters)
        if effect is not None and not bundle.equal:
            effect.add(bundle.aligned, merged, bundle.goal)
        yield name, merged


def merge_one(bundle: Bundle, method: Plugin, parameters: dict[str, Any], *, step: Step | None = None) -> Tensor:
    """One tensor: to fp32, through the method, rounded once to the aligned dtype. Inputs stay as they are.

    Where every model has the same tensor it is returned as it is: merging a model with itself gives it back.

    Args:
        step: what `step_of` gave for the same bundle and knobs, where a sweep has it already.
    """
    if bundle.equal and method.facts["keeps_equal"]:
        return bundle.aligned
    if method.facts["gives"] == "step":
        start, direction = step_of(bundle, method, parameters) if step is None else step
        start = bundle.aligned.float() if start is None else start
        strength = parameters[method.facts["knob"]]
        # Two plain operations: a fused one rounds differently in the last elements of a block.
        exact = torch.mul(direction, strength).add_(start) if strength else start
    else:
        exact = _call(bundle, method, parameters)
    rounded = round_once(exact, bundle.aligned.dtype, bundle.place.name)
    if bundle.largest > SURELY_FINITE:
        _check_finite(rounded, bundle, method)
    return rounded


def step_of(bundle: Bundle, method: Plugin, parameters: dict[str, Any]) -> Step:
    """What a method that gives steps says of a tensor: (start, τ) in fp32; a start of None is the aligned tensor."""
    given = _call(bundle, method, {key: value for key, value in parameters.items() if key != method.facts["knob"]})
    return given if isinstance(given, tuple) else (None, given)


def _call(bundle: Bundle, method: Plugin, parameters: dict[str, Any]) -> Any:
    arguments = Arguments(bundle)
    return method.function(*[getattr(arguments, name) for name in method.takes], **parameters)


def _check_finite(merged: Tensor, bundle: Bundle, method: Plugin) -> None:
    if not bool(torch.isfinite(merged).all()):
        problem = f"`{bundle.place.name}` overflows in {method.name}: it holds numbers up to {bundle.largest:g}"
        raise UserError("tuned", problem=problem, remedy="Use a checkpoint whose training did not diverge.")


def open_models(
    aligned: Checkpoint, tuned: Sequence[Checkpoint], extras: Mapping[str, Checkpoint] | None = None
) -> Models:
    """The sources of a merge; adapters stand on the aligned model."""
    beside = {role: open_source(one, aligned) for role, one in (extras or {}).items()}
    return Models(open_source(aligned), [open_source(one, aligned) for one in tuned], beside)


def merge_to_folder(
    aligned: Checkpoint,
    tuned: Checkpoint | Sequence[Checkpoint],
    method: Plugin,
    parameters: dict[str, Any],
    out: Path,
    *,
    extras: Mapping[str, Checkpoint] | None = None,
    seed: int = 0,
    donor: Donor = "aligned",
    scores: Mapping[str, Any] | None = None,
    report: Report = lambda fraction, phrase: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the merged model as a Hugging Face folder; it appears whole or not at all.

    Args:
        tuned: one fine-tuned model or adapter, or as many as the method takes.
        extras: the checkpoints that the method needs beside these, by the names in its signature.
        seed: of random methods; the same seed gives the same bytes.
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
    others, beside = [tuned] if isinstance(tuned, Checkpoint) else list(tuned), dict(extras or {})
    checked = check_request(method, parameters, tuned=len(others), extras=list(beside))
    models = open_models(aligned, others, beside)
    slots = [Slot(name, _stored(aligned, name), models.aligned.shape(name)) for name in models.names]
    total = sum(slot.bytes for slot in slots)
    check_space(out, total)
    effect, done = Effect(), 0
    with FolderWriter(out, shards_like(aligned, slots)) as writer:
        merged = merged_tensors(models, method, checked, seed=seed, effect=effect)
        for slot, (name, tensor) in zip(slots, merged, strict=True):
            if should_stop():
                raise Cancelled("The merge was cancelled; nothing was written.")
            writer.write(name, tensor)
            done += slot.bytes
            report(done / total if total else 1.0, f"merging {name}")
        donors = [aligned, *others] if donor == "aligned" else [*others, aligned]
        config = merged_config(aligned, others, donors[0], [slot.name for slot in slots])
        put_side_files(writer, config, donors)
        recipe = {
            "method": method.name,
            "paper": method.facts.get("paper", ""),
            "parameters": checked,
            "seed": seed,
            "aligned": _input(aligned, should_stop),
            "fine_tuned": [_input(one, should_stop) for one in others],
            "extras": {role: _input(one, should_stop) for role, one in beside.items()},
            "donor": donor,
            "effective": effect.to_json(),
            "files": writer.hashes,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        }
        writer.put_json("recipe.json", recipe)
        parents = [("aligned", aligned), *(("fine-tuned", one) for one in others), *beside.items()]
        writer.put_text("README.md", model_card(out.name, recipe, parents, scores=scores))
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
