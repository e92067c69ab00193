"""Plug-ins: a decorator registers a function, `discover` imports every module of a folder.

A plug-in is a function and its signature. What the decorator adds (a paper, a suite, a direction) is kept as `facts`.
Adding one is adding one file; nothing else names it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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


def merge_method(*, paper: str, needs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a merge method: a pure function (aligned, fine_tuned, *, knobs) -> tensor on fp32 tensors.

    Args:
        paper: where the formula comes from, as `arXiv:…`.
        needs: the checkpoints it takes, in words.
    """
    return lambda function: methods.register(function, paper=paper, needs=needs)


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
