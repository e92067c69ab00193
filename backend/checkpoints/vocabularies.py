"""Which rows of embedding and head several models share, by their tokens and not by their sizes. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from backend.checkpoints.folder import TOKENIZER_FILES, VOCABULARIES
from backend.checkpoints.tokenizer import vocabulary
from backend.checkpoints.tying import EMBEDDINGS, HEADS, find_ends
from backend.errors import UserError
from backend.types import Checkpoint, Finding, TensorInfo


class Rows(NamedTuple):
    """The first `shared` rows are merged; those from there to `total` are the donor's."""

    shared: int
    total: int


def rows_of(checkpoint: Checkpoint) -> int | None:
    """Rows of the embedding; None where there is none, as in most adapters."""
    ends = find_ends(checkpoint.tensors) if checkpoint.kind == "full" else None
    return checkpoint.tensors[ends.embedding].shape[0] if ends else None


def shared_rows(aligned: Checkpoint, others: Sequence[Checkpoint], donor: Checkpoint) -> Rows | None:
    """How embeddings of one width fit together; None where every row of every model has its counterpart.

    Where the token maps are equal, all rows that every model has are shared, padding too. Where they differ, the rows
    up to the last token that all have are; what one of them added comes from the donor or is dropped.
    """
    counts = [rows for one in (aligned, *others) if (rows := rows_of(one)) is not None]
    if rows_of(aligned) is None:
        return None
    shared = min(counts)
    maps = [words for one in (aligned, *others) if (words := vocabulary(one)) is not None]
    if any(words != maps[0] for words in maps):
        everywhere = set(maps[0]).intersection(*maps)
        shared = min(shared, 1 + max(everywhere, default=-1))
    if all(count == shared for count in counts):
        return None
    return Rows(shared, rows_of(donor) or counts[0])


def only_rows(ours: TensorInfo, theirs: TensorInfo) -> bool:
    """Whether two tensors are embeddings or heads of one width."""
    return ours.name.endswith((*EMBEDDINGS, *HEADS)) and ours.shape[1:] == theirs.shape[1:]


def vocabulary_findings(aligned: Checkpoint, tuned: Checkpoint, donor: str) -> Iterator[Finding]:
    """What token maps and row counts say of a pair; `donor` is "aligned" or "fine-tuned"."""
    try:
        ours, theirs = vocabulary(aligned, field="aligned"), vocabulary(tuned, field="tuned")
    except UserError as error:
        yield Finding("error", error.field, str(error).removeprefix(f"{error.field}: "))
        return
    rows, their_rows = rows_of(aligned), rows_of(tuned)
    differ = None not in (rows, their_rows) and rows != their_rows
    for who, field, words in ((aligned, "aligned", ours), (tuned, "tuned", theirs)):
        if words is None and (who is aligned or who.kind == "full"):
            sentence = f"{who.name} has no {TOKENIZER_FILES[0]}: its vocabulary cannot be compared; add the file."
            yield Finding("error" if differ else "warning", field, sentence)
    yield from _wordless(aligned, tuned, donor)
    if ours is None or theirs is None:
        return
    clashes = sorted(number for number in ours.keys() & theirs.keys() if ours[number] != theirs[number])
    if clashes:
        first = clashes[0]
        sentence = (
            f"token {first} is {_short(ours[first])} in the aligned and {_short(theirs[first])} in the fine-tuned "
            f"tokenizer ({len(clashes)} differ): pick a pair of one vocabulary."
        )
        yield Finding("error", "tuned", sentence)
        return
    if ours != theirs:
        yield Finding("warning", "tuned", _added(ours, theirs, donor))
    ends = find_ends(aligned.tensors)
    if differ and ends:
        sentence = (
            f"`{ends.embedding}` has {rows} rows in the aligned and {their_rows} in the fine-tuned model: "
            f"the merged model gets as many as the {donor} one, and its rows beyond those that both have."
        )
        yield Finding("warning", "tuned", sentence)
    words, room = (ours, rows) if donor == "aligned" else (theirs, their_rows or rows)
    if room is not None and max(words, default=0) >= room:
        last = max(words)
        sentence = (
            f"the {donor} tokenizer has token {last}, {_short(words[last])}, but the {donor} model {room} rows: "
            "resize its embeddings, or take the other model's tokenizer."
        )
        yield Finding("error", "aligned" if donor == "aligned" else "tuned", sentence)


def _wordless(aligned: Checkpoint, tuned: Checkpoint, donor: str) -> Iterator[Finding]:
    """That the donor has no tokenizer in any format; of an adapter as donor the aligned one's is expected."""
    ours, theirs = (any((one.folder / name).is_file() for name in VOCABULARIES) for one in (aligned, tuned))
    if not ours and not theirs:
        sentence = (
            "neither model has a tokenizer: the merged one gets none and cannot be asked anything; "
            f"copy {TOKENIZER_FILES[0]} and its neighbours beside the aligned weights."
        )
        yield Finding("warning", "aligned", sentence)
    elif not (ours if donor == "aligned" else theirs or tuned.kind == "adapter"):
        other = "fine-tuned" if donor == "aligned" else "aligned"
        sentence = f"the {donor} model has no tokenizer: the merged one gets the {other} one's; check that it fits."
        yield Finding("warning", "aligned" if donor == "aligned" else "tuned", sentence)


def _added(ours: Mapping[int, str], theirs: Mapping[int, str], donor: str) -> str:
    """The sentence on tokens that only one tokenizer has."""
    new, gone = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    what = []
    if new:
        what.append(f"the fine-tuned tokenizer adds tokens: {len(new)}, from {new[0]} {_short(theirs[new[0]])}")
    if gone:
        what.append(f"the fine-tuned tokenizer lacks tokens: {len(gone)}, from {gone[0]} {_short(ours[gone[0]])}")
    fate = (
        "donor fine_tuned keeps its tokens, donor aligned, chosen here, the aligned one's"
        if donor == "aligned"
        else "donor fine_tuned, chosen here, keeps its tokens, donor aligned the aligned one's"
    )
    return f"{' and '.join(what)}: {fate}."


def _short(token: str) -> str:
    text = repr(token)
    return text if len(text) <= 60 else text[:57] + "…"
