"""The pre-flight check of a pair: everything that would go wrong later, found from headers, configs and tokenizers.

Each finding is one sentence with the file or tensor, both values and what to do. Errors block; warnings go into the
recipe. No torch, and no weights but those of small integer tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from backend.checkpoints.adapter import Update, head_follows, updates_of
from backend.checkpoints.config import text_part
from backend.checkpoints.headers import FLOATS
from backend.checkpoints.inspect import main_dtype
from backend.checkpoints.kinship import NOT_A_CHILD, relative_change, relative_step
from backend.checkpoints.names import is_derived
from backend.checkpoints.space import size_words
from backend.checkpoints.tokenizer import chat_template
from backend.checkpoints.tying import EMBEDDINGS, HEADS, Ends, find_ends, is_tied, same_bytes
from backend.checkpoints.vocabularies import only_rows, vocabulary_findings
from backend.errors import UserError
from backend.types import Checkpoint, Estimate, Finding

MOST_SHOWN = 5
INTERPRETER, LIGHT_INTERPRETER = 400 * 2**20, 170 * 2**20  # with torch and without
BYTES_PER_SECOND = 400e6  # of a common SSD, read and written at once
SECONDS_TO_START, LIGHT_SECONDS_TO_START = 3.0, 1.5
BLOCK, BLOCKS_HELD, THREADS = 2**19, 4, 4  # as in backend.merging, which this does not import

# What is no Linear layer inside the model, or is fed what the layer before it is fed.
FED_WITH_ANOTHER = (*EMBEDDINGS, *HEADS, "k_proj.weight", "v_proj.weight", "up_proj.weight")

# Settings without a tensor of their own that change what the same weights compute.
SHAPELESS = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rms_norm_eps",
    "layer_norm_eps",
    "hidden_act",
    "sliding_window",
)


def check_pair(aligned: Checkpoint, tuned: Checkpoint, *, donor: str = "aligned") -> tuple[Finding, ...]:
    """What speaks against merging `tuned` into `aligned`, errors first.

    Args:
        donor: whose tokenizer, config and template the merged model gets, "aligned" or "fine_tuned".
    """
    findings = list(_findings(aligned, tuned, donor.replace("_", "-")))
    return tuple(sorted(findings, key=lambda finding: finding.level != "error"))


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise the first error among `findings`, if there is one."""
    for finding in findings:
        if finding.level == "error":
            raise UserError(finding.field, problem=finding.sentence.rstrip("."))


def estimate_merge(
    aligned: Checkpoint,
    *others: Checkpoint,
    whole: bool = False,
    grams: bool = False,
    arithmetic: float = 0,
    light: bool = False,
) -> Estimate:
    """Seconds, peak memory and disk of merging checkpoints into a folder, for a common disk and two cores.

    Args:
        whole: whether the method must see whole tensors; else memory does not grow with the model.
        grams: whether the aligned model is measured in fp32 first.
        arithmetic: seconds that the method computes, beyond what the disk hides.
        light: whether torch is not loaded.
    """
    largest = max((tensor.elements for tensor in aligned.tensors.values()), default=0)
    moved = 2 * aligned.bytes
    moved += sum(one.bytes + (aligned.bytes if one.kind == "adapter" else 0) for one in others)
    held = largest if whole else min(largest, THREADS * BLOCKS_HELD * BLOCK)
    # Inputs as stored and in fp32, their changes and what the method makes of them, in fp64 at worst.
    memory = (LIGHT_INTERPRETER if light else INTERPRETER) + (12 + (40 if whole else 16) * len(others)) * held
    memory += 4 * aligned.parameters + gram_bytes(aligned) if grams else 0
    start = LIGHT_SECONDS_TO_START if light else SECONDS_TO_START
    return Estimate(start + moved / BYTES_PER_SECOND + arithmetic, memory, aligned.bytes)


def gram_bytes(aligned: Checkpoint) -> int:
    """Bytes of one Gram matrix for every Linear layer, layers that are fed the same tensor sharing one."""
    matrices = [tensor.shape for name, tensor in aligned.tensors.items() if not name.endswith(FED_WITH_ANOTHER)]
    return sum(4 * shape[1] ** 2 for shape in matrices if len(shape) == 2)


def estimate_resident(aligned: Checkpoint, *others: Checkpoint, steps: bool = False, grams: bool = False) -> int:
    """Bytes of memory that a sweep holds: every model, the one they are written into, with `steps` the step too."""
    largest = max((tensor.elements for tensor in aligned.tensors.values()), default=0)
    fp32 = 4 * aligned.parameters
    ends = aligned.bytes + sum(fp32 if one.kind == "adapter" else one.bytes for one in others)
    return INTERPRETER + ends + fp32 * (2 if steps else 1) + 16 * largest + (gram_bytes(aligned) if grams else 0)


def _findings(aligned: Checkpoint, tuned: Checkpoint, donor: str) -> Iterator[Finding]:
    if aligned.kind == "adapter":
        sentence = f"{aligned.name} is an adapter, only the change to another model: give the model it was trained on."
        yield Finding("error", "aligned", sentence)
        return
    yield from _quantised(aligned, "aligned")
    yield from _quantised(tuned, "tuned")
    yield from _headless(aligned, "aligned")
    if tuned.kind == "adapter":
        adapter = list(_adapter(aligned, tuned))
        yield from adapter
        if any(finding.level == "error" for finding in adapter):
            return
    else:
        ours, theirs = aligned.config.get("model_type"), tuned.config.get("model_type")
        if ours != theirs:
            sentence = f"the aligned model is a {ours}, the fine-tuned one a {theirs}: pick a pair of one architecture."
            yield Finding("error", "tuned", sentence)
            return
        yield from _headless(tuned, "tuned")
        yield from _names(aligned, tuned)
        yield from _shapes(aligned, tuned)
        yield from _integers(aligned, tuned)
        yield from _ties(aligned, tuned)
        yield from _settings(aligned, tuned, donor)
        yield from _kinship(aligned, tuned)
    yield from vocabulary_findings(aligned, tuned, donor)
    yield from _templates(aligned, tuned, donor)
    yield from _dtypes(aligned, tuned)


def _quantised(checkpoint: Checkpoint, field: str) -> Iterator[Finding]:
    for tensor in checkpoint.tensors.values():
        if tensor.dtype not in FLOATS and tensor.name.endswith("weight"):
            sentence = (
                f"`{tensor.name}` is stored as {tensor.dtype}, so the model is quantised; "
                "allowed are F32, F16 and BF16: dequantise it first."
            )
            yield Finding("error", field, sentence)
            return


def _headless(checkpoint: Checkpoint, field: str) -> Iterator[Finding]:
    ends = find_ends(checkpoint.tensors)
    flag = checkpoint.config.get("tie_word_embeddings")
    if ends and ends.head not in checkpoint.tensors and flag is False:
        sentence = (
            f"config.json says tie_word_embeddings false but no file holds `{ends.head}`: "
            "download the missing file, or correct the flag."
        )
        yield Finding("error", field, sentence)


def _adapter(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    ends = find_ends(aligned.tensors)
    shapes = {name: tensor.shape for name, tensor in aligned.tensors.items()}
    if ends:
        shapes.setdefault(ends.head, shapes[ends.embedding])
    try:
        updates = updates_of(tuned, aligned.tensors)
        for update in updates.values():
            update.check_fit(tuned, shapes[update.target])
    except UserError as error:
        yield Finding("error", error.field, str(error).removeprefix(f"{error.field}: "))
        return
    named = str(tuned.adapter.get("base_model_name_or_path") or "").rstrip("/").split("/")[-1]
    chosen = aligned.name.split("@")[0].rstrip("/").split("/")[-1]
    if named and named.lower() not in (chosen.lower(), aligned.folder.name.lower()):
        sentence = (
            f'the adapter names "{named[:80]}" as its model, the aligned one is "{chosen}"; '
            "the shapes fit: make sure that it was trained on this one."
        )
        yield Finding("warning", "tuned", sentence)
    if ends and _parts_from_head(updates, aligned, tuned, ends):
        changed = next(name for name in ends if name in updates)
        sentence = (
            f"the aligned model ties its output head to the embedding, but the adapter changes `{changed}` without "
            "ensure_weight_tying: the merged model gets a head of its own, as in PEFT."
        )
        yield Finding("warning", "tuned", sentence)
    yield from _distance(relative_step(aligned, tuned, updates))


def _parts_from_head(updates: Mapping[str, Update], aligned: Checkpoint, adapter: Checkpoint, ends: Ends) -> bool:
    """Whether embedding and head, one tensor in the aligned model, are two with the adapter."""
    if ends.head in aligned.tensors:
        return False
    return ends.head in updates or (ends.embedding in updates and not head_follows(adapter, ends))


def _names(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    ends = find_ends(aligned.tensors) or find_ends(tuned.tensors)
    head = ends.head if ends else ""
    sides = ((aligned, tuned, "aligned", "fine-tuned"), (tuned, aligned, "fine-tuned", "aligned"))
    for here, there, present, absent in sides:
        missing = [name for name in here.tensors if name not in there.tensors]
        lost = [name for name in missing if name != head and not is_derived(name)]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            known = {name.split(".")[0] for name in there.tensors}
            part = lost[0].split(".")[0]
            remedy = "pick a pair of one architecture"
            if not any(name.split(".")[0] in known for name in lost):
                remedy = (
                    f"if `{part[:60]}` is only a head for training, as of a value or reward, save the {present} model "
                    f"again without it; else {remedy}"
                )
            yield Finding("error", "tuned", f"the {absent} model has no tensor `{lost[0][:120]}`{more}: {remedy}.")


def _shapes(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    differing = [
        (ours, tuned.tensors[name])
        for name, ours in aligned.tensors.items()
        if name in tuned.tensors
        and tuned.tensors[name].shape != ours.shape
        and not only_rows(ours, tuned.tensors[name])
    ]
    for ours, theirs in differing[:MOST_SHOWN]:
        sentence = (
            f"`{ours.name}` is {_by(ours.shape)} in the aligned and {_by(theirs.shape)} in the fine-tuned model; "
            "they must be equal: pick a pair of one size."
        )
        yield Finding("error", "tuned", sentence)
    if len(differing) > MOST_SHOWN:
        count = len(differing) - MOST_SHOWN
        yield Finding("error", "tuned", f"{count} more tensors differ in shape: pick a pair of one size.")


def _integers(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    for name, ours in aligned.tensors.items():
        theirs = tuned.tensors.get(name)
        if theirs is None or (ours.dtype in FLOATS and theirs.dtype in FLOATS):
            continue
        if ours.dtype != theirs.dtype or (ours.shape == theirs.shape and not same_bytes(ours, theirs)):
            sentence = (
                f"`{name}` holds integers ({ours.dtype} in aligned, {theirs.dtype} in fine-tuned) that differ; "
                "they cannot be merged: pick a matching pair."
            )
            yield Finding("error", "tuned", sentence)


def _ties(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    if is_tied(aligned) != is_tied(tuned):
        who, other = ("aligned", "fine-tuned") if is_tied(aligned) else ("fine-tuned", "aligned")
        sentence = (
            f"the {who} model ties its output head to the embedding, the {other} one does not: "
            "the merged model gets a head of its own."
        )
        yield Finding("warning", "tuned", sentence)


def _settings(aligned: Checkpoint, tuned: Checkpoint, donor: str) -> Iterator[Finding]:
    ours, theirs = text_part(aligned.config), text_part(tuned.config)
    for key in SHAPELESS:
        one, other = ours.get(key), theirs.get(key)
        if one != other and one is not None and other is not None:
            sentence = (
                f"config.json has {key} {_short(one)} in the aligned and {_short(other)} in the fine-tuned model: "
                f"the merged model gets the {donor} one's; check that the pair belongs together."
            )
            yield Finding("warning", "tuned", sentence)


def _kinship(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    if aligned.folder == tuned.folder:
        yield Finding("warning", "tuned", "both ends are the same checkpoint: every merge of them is that model again.")
        return
    yield from _distance(relative_change(aligned, tuned))


def _distance(change: float | None) -> Iterator[Finding]:
    if change is not None and change > NOT_A_CHILD:
        sentence = (
            f"the fine-tuned weights differ from the aligned ones by {change:.2f} times their size (a sample), more "
            f"than the {NOT_A_CHILD:g} of any fine-tune: between models that are not parent and child a merge computes "
            "nothing of either; check the pair, or lower the learning rate."
        )
        yield Finding("warning", "tuned", sentence)


def _templates(aligned: Checkpoint, tuned: Checkpoint, donor: str) -> Iterator[Finding]:
    ours, theirs = chat_template(aligned), chat_template(tuned)
    if ours != theirs and (theirs is not None or tuned.kind == "full"):
        how = "has no" if ours is None or theirs is None else "has another"
        who = "aligned" if ours is None else "fine-tuned"
        sentence = (
            f"the {who} model {how} chat template: "
            f"every point is asked with the {donor} one's; use one in training and here to compare like with like."
        )
        yield Finding("warning", "tuned", sentence)


def _dtypes(aligned: Checkpoint, tuned: Checkpoint) -> Iterator[Finding]:
    ours, theirs = main_dtype(aligned), main_dtype(tuned)
    if tuned.kind == "full" and ours != theirs:
        sentence = (
            f"the weights are {ours} in aligned and {theirs} in fine-tuned: "
            f"they are merged in F32 and stored as {ours} ({size_words(aligned.bytes)})."
        )
        yield Finding("warning", "tuned", sentence)


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(str(size) for size in shape) or "a single number"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
