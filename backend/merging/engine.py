"""The merge as users ask for it: tensors in turn, or a folder with everything that belongs to a model.

It knows checkpoints, recipes and cards; arithmetic.py does the sums and stream.py moves the bytes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.checkpoints.card import merged_config, model_card, public_name, put_side_files
from backend.checkpoints.fitted import Fitted
from backend.checkpoints.hashes import HashesAhead, file_hashes, file_state, note, recall, remember
from backend.checkpoints.reader import open_source
from backend.checkpoints.space import check_space, size_words
from backend.checkpoints.tying import find_ends
from backend.checkpoints.vocabularies import shared_rows
from backend.checkpoints.writer import FolderWriter, Slot, leftover, shards_like
from backend.errors import Cancelled, RunFailed, UserError
from backend.lazy import torch
from backend.merging.arithmetic import Step, merge_one, merge_whole, step_of
from backend.merging.inputs import Bundle, Models
from backend.merging.ops import Effect
from backend.merging.request import check_request
from backend.merging.stream import Stream
from backend.merging.survey import survey
from backend.registry import Plugin
from backend.types import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Step", "merge_one", "merge_to_folder", "merged_tensors", "open_models", "step_of"]

SECONDS_BETWEEN_REPORTS = 0.1
PACKAGES = ("torch", "safetensors", "transformers")

Report = Callable[[float, str], None]
Donor = Literal["aligned", "fine_tuned"]


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
    survey(models, method, parameters, seed=seed)
    for name in models.names:
        bundle = models.read(name, seed=seed)
        if not isinstance(bundle, Bundle):
            yield name, bundle
            continue
        merged, walk = merge_whole(bundle, method, parameters)
        if effect is not None and not bundle.equal:
            effect.count(walk, parameters[method.facts["knob"]])
        yield name, merged


def open_models(
    aligned: Checkpoint,
    tuned: Sequence[Checkpoint],
    extras: Mapping[str, Checkpoint] | None = None,
    *,
    grams: Mapping[str, Tensor] | None = None,
    donor: Donor = "aligned",
) -> Models:
    """The sources of a merge; adapters stand on the aligned model, and vocabularies that differ are made to fit.

    Args:
        grams: Gram matrices of the aligned model's layers by weight name, for methods that take them.
        donor: whose tokenizer the merged model gets, and so whose rows beyond those that all models share.
    """
    others, beside = list(tuned), dict(extras or {})
    sources = {id(one): open_source(one, aligned) for one in (aligned, *others, *beside.values())}
    first = sources[id(aligned)]
    given = aligned if donor == "aligned" else others[0]
    rows = shared_rows(aligned, [*others, *beside.values()], given)
    if rows is not None:
        sources = {key: Fitted(source, rows, sources[id(given)], first) for key, source in sources.items()}
    return Models(
        sources[id(aligned)],
        [sources[id(one)] for one in others],
        {role: sources[id(one)] for role, one in beside.items()},
        dict(grams or {}),
        rows=rows and rows.shared,
    )


def merge_to_folder(
    aligned: Checkpoint,
    tuned: Checkpoint | Sequence[Checkpoint],
    method: Plugin,
    parameters: dict[str, Any],
    out: Path,
    *,
    extras: Mapping[str, Checkpoint] | None = None,
    grams: Mapping[str, Tensor] | None = None,
    calibration: Mapping[str, str] | None = None,
    seed: int = 0,
    donor: Donor = "aligned",
    scores: Mapping[str, Any] | None = None,
    measured: str = "",
    hashes_in: Path | None = None,
    device: str = "cpu",
    report: Report = lambda fraction, phrase: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the merged model as a Hugging Face folder; it appears whole or not at all.

    A merge that was killed leaves `<out>.tmp`; the same merge to the same place goes on with it and gives the same
    bytes. Memory does not grow with the model, but for methods that must see a whole tensor it does with the largest.

    Args:
        tuned: one fine-tuned model or adapter, or as many as the method takes.
        extras: the checkpoints that the method needs beside these, by the names in its signature.
        grams: as `open_models` takes them; `calibration` says for the recipe where they come from.
        seed: of random methods; the same seed gives the same bytes.
        out: the new folder; refused where it exists and is not empty.
        donor: whose config, tokenizer and chat template the folder gets.
        scores: axis -> {"value", "low", "high", "n"} in percent for the card; none says "not evaluated".
        measured: how these were measured, as `model_card` takes it.
        device: where the arithmetic is done; another kind gives other last bits.
        hashes_in: keeps the SHA-256 of large files for the next merge; they are read again when they were changed.
        report: told the fraction of bytes written, at most ten times a second.
        should_stop: asked between blocks.

    Returns:
        The recipe, as written to `recipe.json`, with the effective projection and distance.

    Raises:
        Cancelled: `should_stop` said so; nothing is left.
        Interrupted: `should_stop` or `report` raised it; what is left is as after a kill.
        UserError: knobs, models or folder are wrong.
        RunFailed: the disk is full or cannot be written, or an input changed meanwhile.
    """
    others, beside = [tuned] if isinstance(tuned, Checkpoint) else list(tuned), dict(extras or {})
    checked = check_request(method, parameters, tuned=len(others), extras=list(beside))
    if method.facts["calibration"] and not grams:
        problem = f"{method.name} needs the aligned model's activations on safe chats"
        raise UserError("calibration", problem=problem, remedy="Name a .jsonl of chats.")
    check = partial(_check, should_stop)
    inputs = [aligned, *others, *beside.values()]
    before = [file_state(one) for one in inputs]
    if hashes_in:
        recall(hashes_in)
    with HashesAhead(inputs) as hashes:
        models = open_models(aligned, others, beside, grams=grams, donor=donor)
        slots = [Slot(name, _stored(aligned, name), models.aligned.shape(name)) for name in models.names]
        total = sum(slot.bytes for slot in slots)
        check_space(out, total - leftover(out))
        beyond = {
            "donor": donor,
            "calibration": dict(calibration or {}),
            "grams": _digest(grams or {}),
            "device": device,
        }
        key = _key(method, checked, seed, slots, inputs, beyond)
        effect = Effect()
        with FolderWriter(out, shards_like(aligned, slots), key=key) as writer:
            survey(models, method, checked, seed=seed, check=check)
            stream = Stream(models, method, checked, writer, seed=seed, check=check, device=device)
            done, said = 0, 0.0
            for slot in stream.run(slots, effect):
                done += slot.bytes
                if (now := time.monotonic()) - said > SECONDS_BETWEEN_REPORTS or done == total:
                    said = now
                    phrase = f"merging {slot.name}: {size_words(done)} of {size_words(total)}"
                    report(done / total if total else 1.0, phrase)
            donors = [aligned, *others] if donor == "aligned" else [*others, aligned]
            config = merged_config(aligned, others, donors[0], [slot.name for slot in slots])
            put_side_files(writer, config, donors)
            writer.settle()
            hashes.wait(should_stop)
            recipe = {
                "method": method.name,
                "paper": method.facts.get("paper", ""),
                "parameters": checked,
                "seed": seed,
                "aligned": _input(aligned, should_stop),
                "fine_tuned": [_input(one, should_stop) for one in others],
                "extras": {role: _input(one, should_stop) for role, one in beside.items()},
                "donor": donor,
                "device": device,
                "effective": effect.to_json(),
                **effect.lines_json(),
                "files": writer.hashes,
                "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            }
            recipe |= {"calibration": dict(calibration)} if calibration else {}
            _check_unchanged(inputs, before)
            writer.put_json("recipe.json", recipe)
            parents = [("aligned", aligned), *(("fine-tuned", one) for one in others), *beside.items()]
            card = model_card(out.name, recipe, parents, knob=_knob_words(method), scores=scores, measured=measured)
            writer.put_text("README.md", card)
            writer.commit()
    if hashes_in:
        for name, digest in writer.hashes.items():
            note(out / name, digest)
        remember(hashes_in)
    return recipe


def _knob_words(method: Plugin) -> str:
    """What the number that a sweep of this method turns means, as its own help says.

    >>> from backend.registry import methods
    >>> _knob_words(methods.get("resta"))
    '`gamma`: γ, no unit; 0 is the fine-tuned model, 1 adds the whole safety vector.'
    """
    knob = method.facts["knob"]
    return next((f"`{knob}`: {one.help}" for one in method.parameters if one.name == knob and one.help), "")


def _check(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Cancelled("Cancelled; nothing was written.")


def _check_unchanged(inputs: Sequence[Checkpoint], before: Sequence[Any]) -> None:
    """Refuse to finish when an input was written to meanwhile: its hash would not be that of the merged bytes."""
    for one, state in zip(inputs, before, strict=True):
        try:
            same = file_state(one) == state
        except OSError:
            same = False
        if not same:
            raise RunFailed(f"{public_name(one)} changed while it was merged; nothing was kept. Start the merge again.")


def _key(
    method: Plugin,
    parameters: Mapping[str, Any],
    seed: int,
    slots: Sequence[Slot],
    inputs: Sequence[Checkpoint],
    beyond: Mapping[str, Any],
) -> str:
    """What an unfinished merge must share with this one for its tensors to be taken over."""
    work = {
        "method": [method.name, inspect.getsource(inspect.getmodule(method.function) or method.function)],
        "below": _shared_source(),
        "parameters": dict(parameters),
        "seed": seed,
        "slots": slots,
        "inputs": [[one.kind, one.adapter, file_state(one)] for one in inputs],
        "versions": {name: version(name) for name in PACKAGES},
        **beyond,
    }
    return hashlib.sha256(json.dumps(work, sort_keys=True, default=str).encode()).hexdigest()


def _shared_source() -> str:
    """What all methods stand on: tensors that an older version of it finished are not mixed with new ones."""
    digest, merging = hashlib.sha256(), Path(__file__).parent
    for folder in (merging, merging.with_name("checkpoints")):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _digest(grams: Mapping[str, Tensor]) -> str:
    """What the matrices hold: chats alone do not say it, since another device measures other last bits."""
    digest = hashlib.sha256()
    for name in sorted(grams):
        digest.update(name.encode())
        digest.update(grams[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
