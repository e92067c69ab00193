"""Rows of random tokens and tiny models to train, in fp64 where equality is claimed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from backend.registry import strategies
from backend.tuning.data import Example
from backend.tuning.loop import TrainingSettings, add_lora, train
from backend.tuning.tools import Tools
from tests import tiny

PAD = 0


def rows(
    count: int, *, seed: int = 0, name: str = "row", kinds: Sequence[str] = ("",), length: int = 12
) -> list[Example]:
    """Rows of different lengths, so that batches have padding."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        size = int(torch.randint(5, length, (1,), generator=generator))
        tokens = torch.randint(5, tiny.VOCABULARY, (size,), generator=generator).tolist()
        found.append(Example(tuple(tokens), 2, f"{name}-{number:03}", kinds[number % len(kinds)]))
    return found


def references(count: int, *, seed: int = 100) -> list[Example]:
    return rows(count, seed=seed, name="reference", kinds=("benign", "refusal"))


def lora(*, seed: int = 0, dtype: torch.dtype = torch.float64, started: bool = True) -> Any:
    """A tiny Llama with an adapter; `started` has B factors that are not zero."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        model = add_lora(tiny.model("llama", dtype=dtype), rank=3, alpha=6.0, seed=seed).to(dtype)
        if started:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.normal_(0, 0.1)
    return model


def full(*, seed: int = 0, dtype: torch.dtype = torch.float64, family: str = "llama", tied: bool = True) -> Any:
    return tiny.model(family, seed=seed, dtype=dtype, tied=tied)


def tools(model: Any, scorer: str = "sample", *, chunk: int = 8, task: int = 16, pool: int = 20) -> Tools:
    found = Tools(model, rows(task), references(pool), PAD, chunk=chunk, steps=20, batch=8)
    found.choose_scorer(scorer)
    return found


def fit(
    model: Any,
    strategy: str = "sft",
    knobs: dict[str, Any] | None = None,
    *,
    task: Sequence[Example] | None = None,
    pool: Sequence[Example] | None = None,
    hooks: Any = None,
    saver: Any = None,
    control: Any = lambda: "",
    report: Any = lambda progress: None,
    **changes: Any,
) -> list[float]:
    """Train `model` for a few steps with a strategy of the registry."""
    plan = TrainingSettings(**{"steps": 8, "batch": 4, "lr": 1e-2, "seed": 3} | changes)
    return train(
        model,
        rows(16) if task is None else task,
        plan,
        pad=PAD,
        strategy=hooks or strategies.get(strategy).function(**(knobs or {})),
        references=references(20) if pool is None else pool,
        saver=saver,
        control=control,
        report=report,
    )


def weights(model: Any) -> list[torch.Tensor]:
    return [one.detach().clone() for one in model.parameters() if one.requires_grad]


def same(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
