"""Ask a model every prompt of every suite and turn each answer into an outcome.

The model comes as a function from token ids to answers, so this module knows neither weights nor λ. A `Runner` lives
as long as a path: it remembers every prompt's last answer as the draft for the next model, and every (prompt, answer)
already judged, because along a path most repeat.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from backend.evaluation import outcomes
from backend.evaluation.suites import Suite, messages_of, sample_hash
from backend.registry import Plugin, judges, tasks
from backend.types import HARM_AXES, Message, Outcome, Score


class Answered(Protocol):
    """What a model gives back for a prompt."""

    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def finish(self) -> str: ...


class Model(Protocol):
    """What the runner needs of a model in memory."""

    def encode(self, messages: Sequence[Message]) -> list[int]: ...
    def text(self, tokens: Sequence[int]) -> str: ...


Answering = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]], Callable[[int], None]], Sequence[Answered]]


class Measured(NamedTuple):
    """One model's scores by axis, its classes by suite, and every outcome behind them."""

    scores: dict[str, Score]
    counts: dict[str, dict[str, int]]
    outcomes: list[Outcome]


class _Sample(NamedTuple):
    suite: Suite
    row: dict[str, Any]
    prompt: list[int]


class Runner:
    """Measures models on the same prompts, one after the other."""

    def __init__(self, suites: Sequence[Suite], model: Model) -> None:
        self._model = model
        self.judges = {suite.name: suite.judge for suite in suites}
        self._samples = [_Sample(suite, row, model.encode(messages_of(row))) for suite in suites for row in suite.rows]
        self._drafts: list[Sequence[int]] = [() for _ in self._samples]
        self._judged: dict[tuple[int, str], tuple[str, float | None]] = {}

    @property
    def prompts(self) -> int:
        return len(self._samples)

    def measure(self, answer: Answering, check: Callable[[int], None] = lambda finished: None) -> Measured:
        """Ask every prompt through `answer(prompts, drafts, check)` and judge what comes back."""
        answers = answer([sample.prompt for sample in self._samples], self._drafts, check)
        self._drafts = [one.tokens for one in answers]
        texts = [self._model.text(one.tokens) for one in answers]
        self._judge([key for key in enumerate(texts) if key not in self._judged], check)
        found = [
            _outcome(sample, text, one, *self._judged[(place, text)])
            for place, (sample, text, one) in enumerate(zip(self._samples, texts, answers, strict=True))
        ]
        return Measured(outcomes.score_axes(found), outcomes.count(found), found)

    def _judge(self, new: Sequence[tuple[int, str]], check: Callable[[int], None]) -> None:
        """Verdict and score of each new (place, answer). Threads, since code answers wait for their sandbox."""

        def judge_one(key: tuple[int, str]) -> tuple[str, float | None]:
            check(self.prompts)
            suite, row = self._samples[key[0]].suite, self._samples[key[0]].row
            judge = judges.get(suite.judge)
            verdict = str(judge.function(row, key[1]))
            if suite.axis in HARM_AXES and verdict == "safe_complied" and not judge.facts["sees_harm"]:
                verdict = "judge_failed"
            score = float(tasks.get(suite.scorer).function(row, key[1])) if suite.scorer else None
            return verdict, score

        with ThreadPoolExecutor(max_workers=2) as pool:
            self._judged.update(zip(new, pool.map(judge_one, new), strict=True))


def _outcome(sample: _Sample, text: str, answer: Answered, verdict: str, score: float | None) -> Outcome:
    return Outcome(
        suite=sample.suite.name,
        axis=sample.suite.axis,
        sample=str(sample.row["id"]),
        sample_hash=sample_hash(sample.row),
        category=str(sample.row.get("category", "")),
        prompt=messages_of(sample.row)[-1].content,
        answer=text,
        outcome=outcomes.classify(text, verdict, answer.finish),
        score=score,
        tokens=len(answer.tokens),
        finish="stop" if answer.finish == "stop" else "length",
    )


def plugin_hash(plugin: Plugin) -> str:
    """What a judge or scorer is, for the recipe: the SHA-256 of its module's source."""
    source = inspect.getsource(sys.modules[plugin.function.__module__])
    return hashlib.sha256(source.encode()).hexdigest()[:16]
