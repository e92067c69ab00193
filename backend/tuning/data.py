"""Training rows: chat turns in, padded tensors out. Knows a tokenizer's chat template, and nothing of models.

The loss looks at the last assistant turn and its end-of-turn token; everything before it is prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # torch's cross entropy skips labels of this value


@dataclass(frozen=True)
class Example:
    """One encoded chat: token ids, of which the first `prompt` are not trained on."""

    tokens: tuple[int, ...]
    prompt: int
    id: str = ""
    kind: str = ""
    group: str = ""

    @property
    def targets(self) -> int:
        """How many of its tokens are learned."""
        return len(self.tokens) - self.prompt

    def cut(self, targets: int) -> Example:
        """The same chat, its answer ending after so many tokens.

        >>> Example((7, 8, 1, 2, 3), 2).cut(1).tokens
        (7, 8, 1)
        """
        return replace(self, tokens=self.tokens[: self.prompt + targets])


class Batch(NamedTuple):
    """Right-padded examples; all three are [rows, length], labels hold `IGNORED` where nothing is learned."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON rows of a training file, in file order."""
    # `splitlines` would also cut at U+2028 and its like, which may stand inside a JSON line.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


class NoPrefix(ValueError):
    """Why a chat cannot be cut into a prompt and its answer, in words that can stand behind a line number."""


def encode(tokenizer: Any, row: Mapping[str, Any]) -> Example:
    """Encode a row `{"messages": [...], "id"?, "kind"?, "group"?}` whose last turn is the assistant's.

    Raises:
        NoPrefix: the chat template or the tokenizer does not write the prompt as a prefix of the whole chat.
        jinja2.TemplateError: the chat template refuses the row, a system turn for one.
    """
    messages = list(row["messages"])
    whole: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    prompt = encode_prompt(tokenizer, messages[:-1])
    if whole[: len(prompt)] != prompt:
        whole = prompt + _encode_answer(tokenizer, messages, prompt, whole)
    return Example(tuple(whole), len(prompt), row.get("id", ""), row.get("kind", ""), row.get("group", ""))


def _encode_answer(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], prompt: list[int], whole: list[int]
) -> list[int]:
    """The answer's tokens where a token of `whole` reaches over the prompt's end, as for an answer that begins with the
    line break that a prompt ends in. A model that answers reads the prompt alone, so the answer is encoded by itself.
    """
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    if not text.startswith(asked):
        raise NoPrefix("the chat template rewrites earlier turns")
    answer: list[int] = tokenizer(text[len(asked) :], add_special_tokens=False)["input_ids"]
    if tokenizer.decode(prompt + answer) != tokenizer.decode(whole):
        raise NoPrefix("the tokenizer cannot tell where the prompt ends and the answer begins")
    return answer


def encode_prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The token ids of a chat up to where its answer begins."""
    prompt: list[int] = tokenizer.apply_chat_template(
        list(messages), tokenize=True, add_generation_prompt=True, return_dict=False
    )
    return prompt


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Pad to the longest example.

    >>> collate([Example((5, 6, 7), 2), Example((5, 8), 1)], pad=0).labels
    tensor([[-100, -100,    7],
            [-100,    8, -100]])
    """
    length = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), length), pad)
    mask = torch.zeros(len(examples), length, dtype=torch.long)
    labels = torch.full((len(examples), length), IGNORED)
    for row, example in enumerate(examples):
        size = len(example.tokens)
        tokens[row, :size] = torch.tensor(example.tokens)
        mask[row, :size] = 1
        labels[row, example.prompt : size] = tokens[row, example.prompt : size]
    return Batch(tokens, mask, labels)


def shuffled_batches(examples: Sequence[Example], size: int, *, seed: int, pool: int = 1) -> Iterator[list[Example]]:
    """Batches without end: a fresh permutation each epoch, full batches only (an epoch's rest is left out).

    Args:
        pool: how many batches are cut from one pool sorted by length. 1 keeps them random; more waste less padding, and
            make the rows of a batch alike.

    >>> rows = [Example((number,), 0) for number in range(5)]
    >>> batches = shuffled_batches(rows, 2, seed=0)
    >>> [len(next(batches)) for _ in range(3)]
    [2, 2, 2]
    """
    if not 0 < size <= len(examples):
        raise ValueError(f"a batch of {size} does not fit {len(examples)} rows")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        order = order[: len(order) - len(order) % size]
        for start in range(0, len(order), pool * size):
            drawn = [examples[index] for index in order[start : start + pool * size]]
            if pool > 1:
                drawn.sort(key=lambda example: len(example.tokens))
            starts = range(0, len(drawn), size)
            places = range(len(starts)) if pool == 1 else torch.randperm(len(starts), generator=generator).tolist()
            for place in places:
                yield drawn[starts[place] : starts[place] + size]
