"""Plug-ins: a decorator registers a function, `discover` imports every module of a folder.

A plug-in is a function and its signature. What the decorator adds (a paper, a suite, a direction) is kept as `facts`.
Adding one is adding one file; nothing else names it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from backend.errors import unknown_name
from backend.params import Parameter, parameters_of


@dataclass(frozen=True)
class Plugin:
    """A registered function with what its decorator said about it."""

    name: str
    function: Callable[..., Any]
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return parameters_of(self.function)

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """The names of the positional parameters, in order: what the engine hands in."""
        given = inspect.signature(self.function).parameters.values()
        return tuple(one.name for one in given if one.kind is not inspect.Parameter.KEYWORD_ONLY)

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    def to_json(self) -> dict[str, Any]:
        parameters = [parameter.to_json() for parameter in self.parameters]
        return {"name": self.name, "summary": self.summary, **self.facts, "parameters": parameters}


class Registry:
    """The plug-ins of one kind, found in one package, loaded on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._plugins: dict[str, Plugin] = {}
        self._discovered = False
        self._lock = threading.RLock()

    def register(self, function: Callable[..., Any], **facts: Any) -> Callable[..., Any]:
        name = function.__name__
        known = self._plugins.get(name)
        if known and known.function.__module__ != function.__module__:
            raise ValueError(f"{self.kind} {name} is declared in {known.function.__module__} and {function.__module__}")
        self._plugins[name] = Plugin(name, function, facts)
        return function

    def discover(self) -> None:
        """Import every module of the package, once."""
        with self._lock:
            if not self._discovered:
                package = importlib.import_module(self._package)
                for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
                    importlib.import_module(f"{self._package}.{module.name}")
                self._discovered = True

    def get(self, name: str) -> Plugin:
        self.discover()
        if name not in self._plugins:
            raise unknown_name(self.kind, name, self._plugins)
        return self._plugins[name]

    def __iter__(self) -> Iterator[Plugin]:
        self.discover()
        return iter(sorted(self._plugins.values(), key=lambda plugin: plugin.name))

    def __contains__(self, name: object) -> bool:
        self.discover()
        return name in self._plugins


methods = Registry("method", "backend.merging.methods")
tasks = Registry("task", "backend.evaluation.tasks")
judges = Registry("judge", "backend.evaluation.judges")
strategies = Registry("strategy", "backend.tuning.strategies")


# What a merge method may name in its signature, and how many fine-tuned models that means: (least, most).
TUNED_INPUTS: dict[str, tuple[int, int | None]] = {
    "fine_tuned": (1, 1),
    "delta": (1, 1),
    "models": (1, None),
    "deltas": (1, None),
}
EXTRA_INPUTS = {
    "unaligned": "a twin of the aligned model that was trained without alignment",
    "raw": "the model from before the alignment",
    "safe": "a model or adapter fine-tuned on safety data",
}


def merge_method(
    *,
    paper: str,
    needs: str,
    knob: str = "lam",
    gives: Literal["tensor", "step", "blend"] = "tensor",
    least: int = 0,
    most: int | None = None,
    why: str = "",
    random: bool = False,
    reaches_tuned: bool = False,
    keeps_equal: bool = True,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    splits: Literal["elements", "rows", "tensor"] = "tensor",
    straight: bool = False,
    survey: tuple[str, Callable[..., float | None]] | None = None,
    products: float = 0,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a merge method: a pure function of fp32 tensors of one shape and its knobs, for one tensor at a time.

    The positional parameters say what it takes, by name: `aligned` (θ0), `fine_tuned` or `delta` (θ1, θ1 − θ0) for
    exactly one fine-tuned model, `models` or `deltas` for any number, `unaligned`, `raw` and `safe` for checkpoints
    beside the pair, `place` for the tensor's name, depth and random numbers, `whole` for sums and thresholds over all
    elements of a tensor that is handed over in blocks, `gram` for the Gram matrix XᵀX of the layer's inputs on
    calibration chats (None where the tensor is no Linear layer's), `standing` for the tensor's place in the survey.

    Args:
        paper: where the formula comes from, as `arXiv:…`, `doi:…` or in words.
        needs: the checkpoints it takes, in words.
        knob: the number that a sweep turns.
        gives: "tensor" where the function returns θ; "step" where it returns τ and the engine forms θ = θ0 + knob·τ,
            so that a sweep computes τ once. Such a function does not read the knob; it may return (start, τ) where
            the walk starts elsewhere than at θ0. "blend" where it returns a `Blend`, the coefficients of
            θ0 and θ1; what it asks of the tensors must not depend on the knob, since a sweep asks once.
        least: fine-tuned models that it needs, where that is more than the signature says; `why` is the reason.
        most: the same upwards.
        random: whether the seed matters.
        reaches_tuned: whether the knob at 1 is the fine-tuned model, where there is one.
        keeps_equal: whether tensors that are equal in every model stay as they are without being asked for.
        check: refuses knobs that do not go together, before any tensor is read.
        splits: into what a tensor may be cut, each piece merged by itself: "elements", flat; "rows", along the last
            axis; "tensor" where the function must see all of it at once, which takes the most memory.
        straight: whether with one fine-tuned model it is θ0 + knob·(θ1 − θ0) by `torch.lerp`; that one
            rounds once in any dtype, so the tensors are handed over as they are stored.
        survey: (knob, function) of a method whose choice is across tensors. Where the knob is not 0 the function is run
            over every tensor first, on positional parameters like the method's, and gives a number, or None for a
            tensor that does not take part; `standing` is then the tensor's rank by it, 0 the smallest, None without.
        products: what a matrix costs, in fp32 products of it with a square one of its shorter side, roughly: 2 where it
            is multiplied twice, about 10 where it is decomposed. Only the forecast reads it; at 0 time grows with the
            elements alone, not with the cube of the width.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        plugin = Plugin(function.__name__, function)
        counts = [TUNED_INPUTS[name] for name in plugin.takes if name in TUNED_INPUTS]
        allowed = 0 if not counts else 1 if (1, 1) in counts else most
        facts: dict[str, Any] = {
            "paper": paper,
            "needs": needs,
            "knob": knob,
            "gives": gives,
            "fine_tunes": [max(least, 1 if counts else 0), allowed],
            "extras": [name for name in plugin.takes if name in EXTRA_INPUTS],
            "random": random,
            "why": why,
            "reaches_tuned": reaches_tuned,
            "keeps_equal": keeps_equal,
            "calibration": "gram" in plugin.takes,
            "check": check,
            "splits": splits,
            "straight": straight,
            "survey": survey,
            "products": products,
        }
        return methods.register(function, **facts)

    return register


def task(*, suite: str, metric: str, examples: tuple[tuple[dict[str, Any], str, float], ...]) -> Callable[..., Any]:
    """Register a task: a pure function (row, answer) -> score in [0, 1].

    Args:
        suite: the suite whose rows it scores.
        metric: what the score is, in the field's words ("exact match", "AST match").
        examples: (row, answer, expected score), at least one right and one wrong; a test runs them.
    """
    return lambda function: tasks.register(function, suite=suite, metric=metric, examples=examples)


def judge(
    *, reads: str, cases: tuple[tuple[dict[str, Any], str, str], ...], sees_harm: bool = True
) -> Callable[..., Any]:
    """Register a judge: a pure function (row, answer) -> verdict.

    A verdict is "harmful", "refused" or "safe_complied", or "judge_failed" where it cannot tell.

    Args:
        reads: what it looks at, in words; shown beside every score.
        cases: (row, answer, expected verdict), one of them one that it cannot judge or that is empty; a test runs them.
        sees_harm: False for a judge that knows refusals only; what it calls safe on a harmful prompt is then counted
            as one it could not tell.
    """
    return lambda function: judges.register(function, reads=reads, cases=cases, sees_harm=sees_harm)


def strategy(*, paper: str, needs: str, cost: str) -> Callable[..., Any]:
    """Register a tuning strategy: its keyword-only settings -> the hooks of the one loop (`tuning.strategy.Strategy`).

    Args:
        paper: where the rule comes from, as `arXiv:…` or in words.
        needs: what it takes beside the task data, in words.
        cost: the time of a step, in steps of plain fine-tuning, in words.
    """
    return lambda function: strategies.register(function, paper=paper, needs=needs, cost=cost)
