"""What a mergekit file says beside the weights: number format, tokenizer and chat template of the merged model.

A merge here keeps the number format of the aligned model, and takes tokenizer and template from it or from the first
fine-tuned one. A file that leads elsewhere in mergekit is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from backend.checkpoints.tokenizer import chat_template, vocabulary
from backend.errors import UserError
from backend.merging.mergekit.words import FIELD
from backend.types import Checkpoint

Find = Callable[[str], Checkpoint | None]
FORMATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
WIDTHS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}


def formats_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The number format of every tensor that holds weights, in mergekit's words."""
    return {name: FORMATS[info.dtype] for name, info in checkpoint.tensors.items() if info.dtype in FORMATS}


def check_format(table: Mapping[str, Any], base: str, read: Iterable[str], find: Find) -> None:
    """Refuse a file whose merged model mergekit writes in another number format than the aligned model's.

    Args:
        read: the models whose weights mergekit reads.
        find: None of a model of which nothing is known; then nothing is compared.
    """
    named = {key: _format(key, table.get(key)) for key in ("dtype", "out_dtype")}
    aligned = find(base)
    if aligned is None:
        return
    ours = formats_of(aligned)
    one = set(ours.values()).pop() if len(set(ours.values())) == 1 else ""
    keep = f"Set `out_dtype: {one}` in it." if one else "Take `dtype` and `out_dtype` out."
    if wanted := named["out_dtype"] or named["dtype"]:
        theirs = dict.fromkeys(ours, wanted)
    else:
        theirs = _widest([found for name in read if (found := find(name)) is not None and found.kind == "full"])
    for name, mine in ours.items():
        if theirs.get(name, mine) != mine:
            problem = f"mergekit writes `{name}` as {theirs[name]} by this file, a merge here keeps the aligned "
            raise UserError(FIELD, problem=f"{problem}model's {mine}", remedy=keep)


def donor_of(table: Mapping[str, Any], base: str, tuned: Sequence[str], find: Find) -> str:
    """Whose tokenizer the merged model gets, "aligned" or "fine_tuned"; a union that adds tokens is not made here.

    Args:
        tuned: the names of the fine-tuned models as the file gives them, an adapter's with its base.
    """
    given = _tokenizer_source(table)
    allowed = " or ".join(["base", *tuned[:1]])
    remedy = "Take it out for the aligned model's tokenizer."
    name = "base" if given is None else str(given).removeprefix("model:").rstrip("/")
    if name in ("base", base.rstrip("/")) or name.startswith(f"{base}+"):  # mergekit asks the model under an adapter
        return "aligned"
    if name in [one.rstrip("/") for one in tuned[:1]]:
        return "fine_tuned"
    if name == "union":
        if _one_vocabulary(base, tuned, find):
            return "aligned"
        allowed += ", or union where all vocabularies are known and equal"
    raise UserError(FIELD, problem=f"tokenizer_source is {given!r}"[:100], allowed=allowed, remedy=remedy)


def check_template(given: Any, donor: str, referenced: Iterable[str], find: Find) -> None:
    """Refuse a chat template that is not the one which comes with the donor's tokenizer.

    Args:
        given: the file's `chat_template`.
        donor: the name of the model whose tokenizer the merged one gets.
        referenced: all models of the file, an adapter with its base.
    """
    if not given:
        return
    remedy = "Take it out: the template comes with the tokenizer."
    if given != "auto":
        raise UserError(FIELD, problem=f"chat_template is {given!r}"[:100], allowed="auto", remedy=remedy)
    seen = Counter(filter(None, (_template(name, find) for name in referenced)))
    first, second = ([*seen.most_common(2), ("", 0), ("", 0)])[:2]
    if seen and (first[0] != _template(donor, find) or first[1] == second[1]):
        problem = f"`chat_template: auto` takes what most of its models have, which is not the one of {donor} alone"
        raise UserError(FIELD, problem=problem, remedy=remedy)


def _format(key: str, given: Any) -> str:
    """The format that the file names; "" for none."""
    name = str(given or "").removeprefix("torch.")
    if name not in ("", "auto", *WIDTHS):
        raise UserError(FIELD, problem=f"{key} is {given!r}"[:100], allowed=", ".join(WIDTHS))
    return "" if name == "auto" else name


def _widest(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """The format that holds the numbers of all of them, by tensor."""
    found: dict[str, str] = {}
    for checkpoint in checkpoints:
        for name, one in formats_of(checkpoint).items():
            other = found.get(name, one)
            alike = WIDTHS[one] == WIDTHS[other]
            found[name] = max(one, other, key=WIDTHS.__getitem__) if not alike or one == other else "float32"
    return found


def _tokenizer_source(table: Mapping[str, Any]) -> Any:
    """What the file names as the tokenizer's source, in either of its two forms; None where it names none."""
    tokenizer = table.get("tokenizer")
    if tokenizer is None:
        return table.get("tokenizer_source")
    if not isinstance(tokenizer, dict) or table.get("tokenizer_source"):
        problem = (
            "tokenizer is no table" if not isinstance(tokenizer, dict) else "it has tokenizer_source and tokenizer"
        )
        raise UserError(FIELD, problem=problem, allowed="one of `tokenizer_source:` and `tokenizer: {source: …}`")
    for key in tokenizer:
        if key != "source":
            problem = f"`{str(key)[:40]}` of tokenizer has no counterpart here"
            raise UserError(FIELD, problem=problem, allowed="source", remedy="Take it out.")
    return tokenizer.get("source", "union")


def _one_vocabulary(base: str, tuned: Sequence[str], find: Find) -> bool:
    """Whether every model is known to have the same token at the same place."""
    names = [base, *(name for name in tuned if not name.startswith(f"{base}+"))]
    maps = [None if found is None else vocabulary(found, field=FIELD) for found in map(find, names)]
    return maps[0] is not None and all(one == maps[0] for one in maps)


def _template(name: str, find: Find) -> str:
    """The chat template of a model, of an adapter that of the model under it; "" where it has none or is not known."""
    found = find(name.split("+")[0])
    return "" if found is None else (chat_template(found) or "").strip()
