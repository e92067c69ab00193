"""The nouns of the studio, as frozen data. No torch, no SQL, no Gradio; everything else imports these.

Shares are stored as 0–1 and shown in percent (`to_json`). λ = 0 is the aligned model everywhere, λ = 1 the fine-tuned
one. Safety = 1 − attack success rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

# Safety asks for harm that no training has shown, contaminated for the very harm that the fine-tuning data serves.
Axis = Literal["safety", "contaminated", "over_refusal", "helpfulness", "task"]
AXES: tuple[Axis, ...] = ("safety", "contaminated", "over_refusal", "helpfulness", "task")
HARM_AXES: tuple[Axis, ...] = ("safety", "contaminated")

OUTCOMES = ("harmful", "refused", "safe_complied", "truncated", "degenerate", "judge_failed")


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    content: str


# ------------------------------------------------------------------------------------------------ checkpoints


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `begin` and `end` are byte offsets in `file`, counted from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def elements(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk, known from its headers and JSON files alone.

    `name` finds it again from any directory, `folder` is where it lies, `revision` the Hub commit where there is one.
    An adapter has `kind == "adapter"`; its tensors are the low-rank factors and `adapter` is its configuration.
    """

    name: str
    folder: Path
    kind: Literal["full", "adapter"]
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    revision: str = ""
    adapter: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())


@dataclass(frozen=True)
class Finding:
    """One sentence of the pre-flight check. An error blocks, a warning goes into the recipe."""

    level: Literal["error", "warning"]
    field: str
    sentence: str


@dataclass(frozen=True)
class Estimate:
    """What a piece of work will take, before it starts: seconds, bytes of memory, bytes of disk."""

    seconds: float
    memory: int
    disk: int


def time_words(seconds: float) -> str:
    """A stretch of time in the units a person reads, from a second on.

    >>> time_words(0.2), time_words(60), time_words(95), time_words(3600), time_words(4000)
    ('1 s', '1 min', '1 min 35 s', '1 h', '1 h 6 min')
    """
    minutes, rest = divmod(max(1, round(seconds)), 60)
    parts = [(minutes // 60, "h"), (minutes % 60, "min"), (0 if minutes >= 60 else rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


@dataclass(frozen=True)
class Inspection:
    """What the headers say of one checkpoint or a pair, ready to be shown.

    `estimates` says, for a pair that fits, what writing a "merge" and one point of a quick "sweep" would take.
    """

    checkpoints: tuple[dict[str, Any], ...]
    findings: tuple[Finding, ...] = ()
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoints": list(self.checkpoints),
            "findings": [asdict(finding) for finding in self.findings],
            "estimates": {work: asdict(estimate) for work, estimate in self.estimates.items()},
        }


@dataclass(frozen=True)
class LayerChange:
    """How fine-tuning moved one module of one layer; `layer` is None outside the language model's layers.

    `tower` is "vision" or "audio" for what sees or hears, all of its layers together. `distance` is ‖δ‖/‖θ0‖ and
    `cosine` cos(δ, θ0), −1 … 1; None where a length is 0.
    """

    layer: int | None
    module: str
    distance: float | None
    cosine: float | None
    parameters: int
    tower: str = ""


# ------------------------------------------------------------------------------------------------ scores


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval and how many prompts it stands on; `value` is None where n is 0.

    >>> Score(0.5, 0.25, 0.75, 12).to_json()
    {'value': 50.0, 'low': 25.0, 'high': 75.0, 'n': 12}
    """

    value: float | None
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        value = None if self.value is None else round(100 * self.value, 4)
        return {"value": value, "low": round(100 * self.low, 4), "high": round(100 * self.high, 4), "n": self.n}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        value = None if data["value"] is None else data["value"] / 100
        return cls(value, data["low"] / 100, data["high"] / 100, data["n"])


@dataclass(frozen=True)
class Outcome:
    """One prompt, one answer, one class of `OUTCOMES`; `score` is the scorer's 0–1 on helpfulness and task suites."""

    suite: str
    axis: Axis
    sample: str
    sample_hash: str
    category: str
    prompt: str
    answer: str
    outcome: str
    score: float | None
    tokens: int
    finish: Literal["stop", "length"]
    id: int = 0
    point: int = 0


@dataclass(frozen=True)
class Point:
    """One evaluated checkpoint on the plot.

    Attributes:
        coefficients: what was turned, e.g. {"lambda": 0.3}.
        scores: axis -> score; an axis that was not measured is absent.
        outcomes: suite -> class -> count.
        effective: "projection" on the task vector and "distance" from aligned in units of its length (percent-free);
            None where there is no task vector, as of a method that takes no fine-tuned model, which has "shift",
            the distance from aligned in units of the aligned model's own length.
        anchor: "aligned" or "fine-tuned" at the two ends of a path, else "".
        details: suites, judge, decoding, weights hash … — the point's provenance.
    """

    id: int
    run: int
    index: int
    method: str
    coefficients: dict[str, float]
    scores: dict[str, Score]
    outcomes: dict[str, dict[str, int]]
    effective: dict[str, float | None] = field(default_factory=dict)
    anchor: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How a plot, a table and a sentence call this point: "linear λ = 0.3"; one of a search by its number."""
        if len(self.coefficients) > 2:
            return f"{self.method} setting {self.index % 10_000 + 1}"
        knobs = ", ".join(f"{'λ' if key == 'lambda' else key} = {value:g}" for key, value in self.coefficients.items())
        name = Path(self.method).name if self.method.startswith("/") else self.method  # a folder that was evaluated
        return f"{name} {knobs}".strip()

    @property
    def projection(self) -> float | None:
        """The share of the fine-tuning that a merge walked; None where nothing says it."""
        return self.effective.get("projection")

    @property
    def shift(self) -> float | None:
        """Of a merge without fine-tuned models its distance from the aligned one, in that one's length."""
        return self.effective.get("shift")

    @property
    def half(self) -> str:
        """Of a search: "validation" where its settings are chosen, "held-out" where they are judged; else ""."""
        return str(self.details.get("half", ""))

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficients": self.coefficients,
            "scores": {axis: score.to_json() for axis, score in self.scores.items()},
            "outcomes": self.outcomes,
            "effective": self.effective,
        }


def straight_words(said: Mapping[str, Any]) -> str:
    """Of a merge along arcs, how many tensors went straight instead, since they are nearly parallel; "" of any other.

    Args:
        said: the details of a point, or the recipe of a merge.

    >>> straight_words({"straight_lines": {"tensors": 20, "of": 21}}), straight_words({})
    ('20 of 21 tensors along a straight line', '')
    """
    found = said.get("straight_lines")
    return f"{found['tensors']} of {found['of']} tensors along a straight line" if found else ""


@dataclass(frozen=True)
class Frontier:
    """The front of a set of points: indices into that set, both axes maximised (task score, safety).

    `hypervolume` is in shares of the unit square against `reference`; `knee` is an index or None.
    """

    front: tuple[int, ...]
    hypervolume: float
    reference: tuple[float, float]
    knee: int | None


# ------------------------------------------------------------------------------------------------ runs


class RunStatus(StrEnum):
    """queued → running → done, failed, cancelled, interrupted or paused; the last four can be restarted."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"

    @property
    def is_live(self) -> bool:
        return self in (RunStatus.QUEUED, RunStatus.RUNNING)

    @property
    def can_restart(self) -> bool:
        return self in (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.INTERRUPTED, RunStatus.PAUSED)


@dataclass(frozen=True)
class Run:
    """A recipe in, results out. `stored` marks the demo results that came with the studio."""

    id: int
    kind: str
    name: str
    owner: str
    status: RunStatus
    spec: dict[str, Any]
    recipe: dict[str, Any]
    recipe_hash: str
    created: float
    started: float | None = None
    finished: float | None = None
    fraction: float = 0.0
    phrase: str = ""
    seconds_left: float | None = None
    error: str = ""
    result: dict[str, Any] | None = None
    stored: bool = False
    position: int = 0


@dataclass(frozen=True)
class Plan:
    """A validated request before it is queued: what will run, what it takes, and the run that already did it."""

    kind: str
    spec: dict[str, Any]
    recipe: dict[str, Any]
    recipe_hash: str
    estimate: Estimate
    warnings: tuple[str, ...] = ()
    stored_run: int | None = None


@dataclass(frozen=True)
class DataPreview:
    """A data file before it is trained on: its usable rows, the first as text, answer and kind, and what is left out.

    `left_out` names bad rows by reason and line, as a sentence's end; empty when there are none.
    """

    rows: int
    first: tuple[dict[str, str], ...]
    left_out: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a side-by-side comparison: a checkpoint, or a point on the path of a pair (`lam` set).

    >>> Column(aligned="demo/aligned", tuned="demo/tool-mixed-sft", lam=0.3).title
    'demo/aligned → demo/tool-mixed-sft, λ = 0.3'
    """

    aligned: str
    tuned: str = ""
    lam: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.aligned} → {self.tuned}, λ = {self.lam:g}" if self.tuned else self.aligned


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer: the whole text of `column` so far, and whether it is complete."""

    column: int
    text: str
    done: bool
    seconds: float = 0.0
