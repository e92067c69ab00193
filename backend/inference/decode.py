"""Greedy answers for a batch of prompts, most of their tokens guessed first and only checked by the model.

Along a merge path most answers repeat. So each prompt's answer at the last finished λ is a *draft*: one forward pass
over prompt + draft says how far the model would have written the same, and which token it would have written next.
From there on the next few tokens are guessed from what was written before, the row's own draft first and then all
answers so far, and every pass checks a handful of guesses at once. A token counts only when it is the model's own
arg-max, so in fp32 the result is token for token what plain greedy decoding gives: guesses never change an answer, only
how long it takes. (In half precision a near-tie may fall differently with another batch shape, here as anywhere.)

Rows are padded on the left, so that all end in the same column and a row can be dropped, or join another batch, by
moving its keys and values sideways. It does not know about chat templates, suites or λ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from backend.lazy import transformers

if TYPE_CHECKING:
    from transformers import DynamicCache

MOST_AHEAD = 12
LONGEST_RUN = 3
BATCHES_WAITING = 4  # rows with a few tokens left to write are cheap: they wait for others and go on together


class Decoding(NamedTuple):
    """How answers are written: at most `new_tokens` (1 or more), ended by any of `end`; `batch` prompts at a time."""

    new_tokens: int
    end: frozenset[int]
    pad: int
    batch: int = 32


class Answer(NamedTuple):
    """Token ids with the end token, if it came, and why the answer ended: "stop" or "length"."""

    tokens: tuple[int, ...]
    finish: str


@dataclass
class Statistics:
    """What the guesses saved: tokens that were guessed right, tokens that were not, and forward passes."""

    reused: int = 0
    generated: int = 0
    forwards: int = 0


@dataclass
class _Rows:
    """Unfinished rows of equal width: keys and values, how many of the columns are real, what is written so far."""

    ids: list[int]
    written: list[list[int]]
    drafts: list[Sequence[int]]
    lengths: Tensor
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def width(self) -> int:
        return int(self.layers[0][0].shape[2])


class Guesser:
    """Guesses how an answer goes on, from the tokens that followed the same ones before.

    >>> guesser = Guesser()
    >>> guesser.learn([5, 6, 7, 8, 9])
    >>> guesser.guess([1, 6, 7], [], 3), guesser.guess([6], [3, 6, 4], 2)
    ([8, 9, 9], [4, 4])
    """

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self.ahead = 4

    def look(self, right: float) -> None:
        """Guess as far ahead as pays: a little further than the `right` guesses per row of the last pass."""
        self.ahead = max(1, min(MOST_AHEAD, round(1.5 * right) + 1))

    def learn(self, tokens: Sequence[int]) -> None:
        """Remember what followed each run of one to three tokens; the newest wins."""
        _remember(tokens, self._next)

    def guess(self, written: Sequence[int], draft: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens, the row's own draft asked first; where nothing is known the last token repeats."""
        own: dict[tuple[int, ...], int] = {}
        _remember(draft, own)
        tail = list(written[-LONGEST_RUN:])
        for _ in range(count):
            runs = [tuple(tail[-length:]) for length in range(min(LONGEST_RUN, len(tail)), 0, -1)]
            known = next((table[run] for table in (own, self._next) for run in runs if run in table), tail[-1])
            tail.append(known)
        return tail[-count:] if count else []


def _remember(tokens: Sequence[int], table: dict[tuple[int, ...], int]) -> None:
    for place in range(1, len(tokens)):
        for length in range(1, min(LONGEST_RUN, place) + 1):
            table[tuple(tokens[place - length : place])] = tokens[place]


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    drafts: Sequence[Sequence[int]] | None = None,
    check: Callable[[int], None] = lambda finished: None,
    statistics: Statistics | None = None,
) -> list[Answer]:
    """The greedy answer to every prompt, in order.

    Args:
        model: a causal language model of transformers, in eval mode.
        prompts: token ids, each at least one long.
        decoding: length cap, end tokens, pad token, batch size.
        drafts: one guess per prompt (empty: none), in tokens; never changes the answers.
        check: called with the number of finished answers after every batch and decoding step; raise to stop.
        statistics: counts of re-used and generated tokens are added here.
    """
    stats = statistics if statistics is not None else Statistics()
    guesses = [_cut(draft, decoding) for draft in drafts] if drafts else [[] for _ in prompts]
    guesser = Guesser()
    for guess in guesses:
        guesser.learn(guess)
    answers: dict[int, Answer] = {}
    waiting: list[_Rows] = []
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(guesses[i]))
    for start in range(0, len(by_length), decoding.batch):
        ids = by_length[start : start + decoding.batch]
        rows = _verify(model, ids, prompts, guesses, decoding, answers, stats)
        if rows.ids:
            waiting.append(rows)
        last = start + decoding.batch >= len(by_length)
        if waiting and (last or sum(len(rows.ids) for rows in waiting) >= BATCHES_WAITING * decoding.batch):
            left = _join(waiting)
            waiting = []
            while left.ids:
                left = _round(model, left, decoding, guesser, answers, stats)
                check(len(answers))
        check(len(answers))
    return [answers[i] for i in range(len(prompts))]


@torch.inference_mode()
def stream(model: Any, prompt: Sequence[int], decoding: Decoding) -> Iterator[list[int]]:
    """The greedy answer to one prompt, token by token: yields all tokens so far, the end token left out."""
    answers: dict[int, Answer] = {}
    stats = Statistics()
    rows = _verify(model, [0], [prompt], [[]], decoding, answers, stats)
    while rows.ids:
        yield list(rows.written[0])
        rows = _round(model, rows, decoding, None, answers, stats)
    yield [token for token in answers[0].tokens if token not in decoding.end]


def _verify(
    model: Any,
    ids: list[int],
    prompts: Sequence[Sequence[int]],
    guesses: Sequence[list[int]],
    decoding: Decoding,
    answers: dict[int, Answer],
    stats: Statistics,
) -> _Rows:
    """One pass over prompt + draft: finished answers go to `answers`, the others come back with their cache."""
    device = model.device
    sequences = [[*prompts[i], *guesses[i]] for i in ids]
    width = max(map(len, sequences))
    tokens = torch.tensor([[decoding.pad] * (width - len(row)) + row for row in sequences], device=device)
    lengths = torch.tensor([len(row) for row in sequences], device=device)
    longest = max(len(guesses[i]) for i in ids)
    cache = transformers.DynamicCache()
    predicted = _forward(model, tokens, lengths, width, cache, keep=longest + 1, stats=stats).tolist()
    written, kept, ends, unfinished = [], [], [], []
    for row, i in enumerate(ids):
        draft, says = guesses[i], predicted[row][longest - len(guesses[i]) :]
        same = next((k for k, token in enumerate(draft) if says[k] != token), len(draft))
        complete = same == len(draft) and bool(draft) and (draft[-1] in decoding.end or same == decoding.new_tokens)
        tokens_now = draft if complete else [*draft[:same], says[same]]
        stats.reused += same
        stats.generated += len(tokens_now) - same
        answer = _finished(tokens_now, decoding)
        if answer:
            answers[i] = answer
        else:
            unfinished.append(i)
            written.append(tokens_now)
            kept.append(row)
            ends.append(width - len(draft) + same)
    rows = _Rows(unfinished, written, [guesses[i] for i in unfinished], lengths[kept])
    if kept:
        real = [len(prompts[i]) + len(tokens) - 1 for i, tokens in zip(unfinished, written, strict=True)]
        rows.lengths = torch.tensor(real, device=device)
        rows.layers = _align_right(cache, kept, ends, int(rows.lengths.max()), device)
    return rows


def _align_right(
    cache: DynamicCache, kept: list[int], ends: list[int], width: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the rows `kept`, each moved so that its column `ends` comes last; `width` columns remain."""
    rows = torch.tensor(kept, device=device)
    columns = torch.tensor(ends, device=device)[:, None] - width + torch.arange(width, device=device)[None, :]
    columns = columns.clamp(min=0)  # a column left of the cache is padding, which the mask hides
    picked = []
    for layer in cache.layers:
        index = columns[:, None, :, None]
        pair = []
        for tensor in (layer.keys[rows], layer.values[rows]):
            pair.append(tensor.gather(2, index.expand(-1, tensor.shape[1], -1, tensor.shape[3])))
        picked.append((pair[0], pair[1]))
    return picked


def _join(groups: list[_Rows]) -> _Rows:
    """One batch of all groups, padded on the left to the widest."""
    if len(groups) == 1:
        return groups[0]
    width = max(group.width for group in groups)

    def padded(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0))

    layers = []
    for layer in range(len(groups[0].layers)):
        keys = torch.cat([padded(group.layers[layer][0]) for group in groups])
        values = torch.cat([padded(group.layers[layer][1]) for group in groups])
        layers.append((keys, values))
    return _Rows(
        [i for group in groups for i in group.ids],
        [tokens for group in groups for tokens in group.written],
        [draft for group in groups for draft in group.drafts],
        torch.cat([group.lengths for group in groups]),
        layers,
    )


def _round(
    model: Any,
    rows: _Rows,
    decoding: Decoding,
    guesser: Guesser | None,
    answers: dict[int, Answer],
    stats: Statistics,
) -> _Rows:
    """Check the next guesses of every row in one pass and keep what is right; rows that end leave the batch."""
    device = rows.lengths.device
    ahead = guesser.ahead if guesser else 0
    guesses = [guesser.guess(*row, ahead) if guesser else [] for row in zip(rows.written, rows.drafts, strict=True)]
    tokens = torch.tensor([[row[-1], *guess] for row, guess in zip(rows.written, guesses, strict=True)], device=device)
    cache = transformers.DynamicCache()
    for layer, (keys, values) in enumerate(rows.layers):
        cache.update(keys, values, layer)
    width, block = rows.width, 1 + ahead
    predicted = _forward(model, tokens, rows.lengths + block, width + block, cache, keep=block, stats=stats).tolist()
    going, ends, right = [], [], 0
    for row, (guess, says) in enumerate(zip(guesses, predicted, strict=True)):
        same = next((k for k, token in enumerate(guess) if says[k] != token), len(guess))
        right += same
        new = _cut([*guess[:same], says[same]], decoding, already=len(rows.written[row]))
        stats.reused += min(same, len(new))
        stats.generated += len(new) - min(same, len(new))
        rows.written[row] += new
        answer = _finished(rows.written[row], decoding)
        if answer:
            answers[rows.ids[row]] = answer
            if guesser:
                guesser.learn(answer.tokens)
        else:
            going.append(row)
            ends.append(width + 1 + same)
    if guesser:
        guesser.look(right / len(guesses))
    kept = _Rows([rows.ids[row] for row in going], [rows.written[row] for row in going],
                 [rows.drafts[row] for row in going], rows.lengths[:0])  # fmt: skip
    if going:
        shifts = torch.tensor([ends[k] - width for k in range(len(going))], device=device)
        kept.lengths = rows.lengths[torch.tensor(going, device=device)] + shifts
        kept.layers = _align_right(cache, going, ends, int(kept.lengths.max()), device)
    return kept


def _forward(
    model: Any, tokens: Tensor, lengths: Tensor, width: int, cache: DynamicCache, *, keep: int, stats: Statistics
) -> Tensor:
    """Arg-max tokens of the last `keep` columns. `lengths` are the real columns of each row, which end the row."""
    stats.forwards += 1
    columns = torch.arange(width, device=lengths.device)[None, :]
    first = width - lengths[:, None]
    positions = (columns - first).clamp(min=0)[:, width - tokens.shape[1] :]
    output = model(
        input_ids=tokens,
        attention_mask=(columns >= first).long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
    best: Tensor = output.logits.argmax(dim=-1)
    return best


def _cut(tokens: Sequence[int], decoding: Decoding, already: int = 0) -> list[int]:
    """`tokens` up to their first end token, and up to the length cap when `already` were written before them."""
    end = next((k + 1 for k, token in enumerate(tokens) if token in decoding.end), len(tokens))
    return list(tokens[: min(end, decoding.new_tokens - already)])


def _finished(tokens: Sequence[int], decoding: Decoding) -> Answer | None:
    if tokens[-1] in decoding.end:
        return Answer(tuple(tokens), "stop")
    if len(tokens) >= decoding.new_tokens:
        return Answer(tuple(tokens), "length")
    return None
