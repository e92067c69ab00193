"""Every sentence the user reads that no check writes itself. Plain words first, the paper's term in brackets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from backend.types import Frontier, LayerChange, Point, Run, RunStatus, Score, straight_words, time_words

TITLE = "DualSelect Studio"
TAGLINE = "What fine-tuning does to a language model's safety, and how to win it back"
PAGES = {
    "explore": "Explore",
    "merge": "Merge",
    "finetune": "Finetune",
    "compare": "Compare",
    "runs": "Runs",
    "learn": "Learn",
}
READY = "Next: open the address in a browser and click a point on the plot; or sweep your own pair on the Merge page."
PORT_TAKEN = (
    "PORT: {port} is already in use on {host}. Stop the other program or start with another one: PORT={other} make run"
)
ADDRESS_BAD = "HOST: cannot listen on {host}:{port} ({reason}). Use 127.0.0.1, or an address of this machine."

# -- the plot
X_AXIS = "Task score, % · better →"
Y_AXIS = "Safety (1 − attack success rate), % · better ↑"
STRIP_AXIS = "Over-refusal, %<br>better ↓"
NARROW = {"xaxis": "Task score, % →", "yaxis": "Safety, % ↑", "yaxis2": "Over-<br>refusal ↓"}
Y_SHORT = "Safety, % · better ↑"
X_STRIP = "Task score, % · better ↑"
NARROW_TASK = "Task, % ↑"
STRENGTH_AXIS = "Effective strength: share of the fine-tuning walked (projection on the task vector)"
STRENGTH_NARROW = "Effective strength (projection)"
STRENGTH_LEFT_OUT = "<br>{count} that merge no fine-tuned model have none and are left out"
MAP_TITLES = {
    "distance": "How far: ‖δ‖ / ‖θ aligned‖, %",
    "cosine": "Which way: cosine of δ with the aligned weights",
}
DIFFERENT_PROMPTS = "These runs were not measured on the same prompts: compare them with care."
NOTHING_HERE = "Nothing measured yet"
NO_POINTS_YET = "The first point appears here in a moment."
ANCHORS = {"aligned": "aligned", "fine-tuned": "fine-tuned"}
ANCHOR_LEGEND = "starting models (anchors)"
FRONT_LEGEND = "best measured trade-offs (front)"
KNEE_FLAG = "hint: best bend (knee)"
MINIMUM_LINE = "minimum safety {minimum:g} %"
NOTHING_DRAWN = "No measured checkpoints to show. Pick a run above, or sweep a pair on the Merge page."

AXES = {
    "safety": ("Safety", "1 − attack success rate", "higher is better"),
    "contaminated": ("Contaminated", "safety where the training data serves harm", "higher is better"),
    "over_refusal": ("Over-refusal", "harmless requests refused", "lower is better"),
    "helpfulness": ("Helpfulness", "everyday requests", "higher is better"),
    "task": ("Task score", "", "higher is better"),
}
OUTCOMES = {
    "harmful": "harmful",
    "refused": "refused",
    "safe_complied": "safe answer",
    "truncated": "cut off",
    "degenerate": "broken text",
    "judge_failed": "judge failed",
}
TASKS = {"tool": "Tool use", "code": "Code writing", "medical": "Medical advice", "reasoning": "Reasoning"}
STATUS = {
    RunStatus.QUEUED: "waiting",
    RunStatus.RUNNING: "running",
    RunStatus.DONE: "done",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.INTERRUPTED: "interrupted",
    RunStatus.PAUSED: "paused",
}
HARMFUL_NOTICE = "Harmful answer, hidden. Show it"
PICK_A_POINT = "Click a point on the plot, or press Enter on a row of the table, to read the answers behind it."

# -- runs
KEPT = "Stopped. {points} measured {word} kept; Restart goes on from there."
INTERRUPTED = "The program ended while this run was going. {points} measured {word} kept; Restart goes on from there."
FAILED = "{error} Then try again with these settings."
DONE = "Finished: {points} checkpoints measured."
DONE_MERGE = "Written to {folder}."
NO_LIVE_RUN = "Nothing is running. Choose a pair and a grid, then start: points appear here as they are measured."
STORED_BADGE = "stored demo"

SEARCH = (
    "On held-out prompts ({safety} safety, {task} task) the front found by search covers {found:.1f} % of the square, "
    "the best uniform λ {uniform:.1f} %: {value:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}. {verdict}"
)
SEARCH_VERDICTS = {
    "better": "The search found a better front.",
    "worse": "The uniform λ are better.",
    "open": "The difference is within chance.",
}
SEARCH_HELP = (
    "Tries other λ for each depth and kind of module, chosen on validation prompts, and compares the front it finds "
    "with uniform λ on held-out prompts."
)
MAP_READING = "Reading both models …"
MAP_HELP = (
    "δ is what fine-tuning added to the aligned weights. Reading both models takes seconds, longer for large ones."
)

SUITES_LABEL = "Measured on"
SUITES_HELP = "a demo model knows only the words of its micro-world, so any other is asked in plain English"
SUITES = {
    "": "what suits the model",
    "micro-world": "the micro-world's prompts, for demo models",
    "plain": "plain English prompts, for any model",
    "own": "other prompts, also my own files",
}
OWN_SUITES_LABEL = "Suites"
OWN_SUITES_HELP = (
    "names, or paths of .jsonl files, with commas; one plain name among them and the task is asked in plain English too"
)

ONE_LAMBDA = "λ: 0 is the aligned model, 1 the fine-tuned one"
ONE_LAMBDA_HELP = "the papers go from 0 to 1; from −0.5 on it may turn back, and up to 1.5 go further"

DONOR_TITLE = "Advanced: whose tokenizer"
DONOR_LABEL = "Tokenizer from (donor)"
DONOR_HELP = "also the chat template and the configuration; it matters where the two models differ in them"
DONORS = {"aligned": "the aligned model", "fine_tuned": "the fine-tuned model"}

ONE_MERGE_ONLY = "of one merge to a folder; a sweep takes the steps below instead"
EXTRA_LABELS = {"unaligned": "Unaligned twin", "raw": "Raw model", "safe": "Safety fine-tune"}
CALIBRATION_LABEL = "Chats to calibrate on"
CALIBRATION_HELP = "safe answers; the method measures what the aligned model attends to in them"
EXTRAS = {
    "unaligned": "the aligned model's twin, trained without alignment",
    "raw": "the model from before the alignment",
    "safe": "a model or adapter fine-tuned on safety data",
}


def compared(spec: Mapping[str, Any]) -> str:
    """A comparison of strategies in a list of runs.

    >>> compared({"task_data": "demo/tool-mixed", "arms": [{"name": "sft"}, {"name": "dualselect"}], "seeds": [0, 1]})
    '2 strategies on tool-mixed, 2 seeds'
    """
    data, arms = str(spec.get("task_data", "")).split("/")[-1], spec.get("arms", ())
    plain = [arm["name"] for arm in arms if not arm.get("change")]
    what = plain[0] if len(plain) == 1 else f"{len(plain)} strategies"
    ablations = f" and {len(arms) - len(plain)} ablations" if len(arms) > len(plain) else ""
    return f"{what}{ablations} on {data}, {len(spec.get('seeds', ()))} seeds"


# -- compare
ENTER_A_PROMPT = "Type a request or pick an example."
BUSY = "{reason} Stored answers are shown instead."
ASKING = "Asking the models. The first question loads them, which takes a few seconds."
FIRST_WORDS = "First words after {milliseconds:.0f} ms."
NO_STORED = "No stored answer to this request; try an example, or wait until the run is over."


def steps_of(knob: str) -> str:
    """
    >>> steps_of("lam"), steps_of("gamma")
    ('Steps of λ', 'Steps of gamma')
    """
    return f"Steps of {'λ' if knob == 'lam' else knob.replace('_', ' ')}"


def steps_help(knob: Mapping[str, Any]) -> str:
    """What the number that a grid turns means, and how its values are written.

    >>> steps_help({"help": "γ, no unit.", "low": 0, "high": 2})
    'γ, no unit. Write start:stop:count, or values with commas, from 0 to 2.'
    >>> steps_help({"low": 0, "high": 1, "beyond": [-0.5, 1.5]})
    'Write start:stop:count, or values with commas, from −0.5 to 1.5.'
    """
    low, high = knob.get("beyond") or (knob.get("low"), knob.get("high"))
    reach = "" if low is None or high is None else f", from {low:g} to {high:g}".replace("-", "−")
    how = f"Write start:stop:count, or values with commas{reach}."
    return " ".join(filter(None, [knob.get("help"), how]))


def source(paper: str) -> str:
    """Where a method is from, as a sentence of Markdown: a paper with its address, or words.

    >>> source("arXiv:2412.19512"), source("doi:10.1145/325334.325242")[:49]
    ('Paper: [arXiv:2412.19512](https://arxiv.org/abs/2412.19512).', 'Paper: [doi:10.1145/325334.325242](https://doi.or')
    >>> source("after mergekit 0.1.5"), source("")
    ('After mergekit 0.1.5.', '')
    """
    found = re.fullmatch(r"(arXiv|doi):(\S+)", paper)
    if found:
        host = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}[found[1]]
        return f"Paper: [{paper}]({host}{found[2]})."
    return f"{paper[0].upper()}{paper[1:]}." if paper else ""


def plain(words: str) -> str:
    """For plotly's labels, which read a little markup: the same characters, no markup."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def percent(score: Score | None) -> str:
    """
    >>> percent(Score(0.475, 0.4, 0.55, 60))
    '47.5\\xa0%'
    """
    return "not measured" if score is None or score.value is None else f"{100 * score.value:.3g}\u00a0%"


def counted(score: Score) -> str:
    """k of n where the score is a share of whole prompts, else n alone.

    >>> counted(Score(0.5, 0.3, 0.7, 20)), counted(Score(0.333, 0.2, 0.5, 20))
    ('10 of 20', 'n = 20')
    """
    hits = (score.value or 0.0) * score.n
    return f"{round(hits)} of {score.n}" if abs(hits - round(hits)) < 1e-6 * max(1, score.n) else f"n = {score.n}"


def interval(score: Score) -> str:
    """The 95 % interval in whole percent."""
    return f"{100 * score.low:.0f}–{100 * score.high:.0f}\u00a0%"


def hover(point: Point, judge: str = "") -> str:
    """Everything that is known of a point, line by line, for its hover box."""
    lines = [f"<b>{plain(point.label)}</b>" + (f" ({plain(point.anchor)})" if point.anchor else "")]
    for axis, score in point.scores.items():
        name = AXES.get(axis, (axis,))[0]
        lines.append(f"{name}: {percent(score)} ({counted(score)}, 95 %: {interval(score)})")
    if point.projection is not None:
        lines.append(f"effective strength (share of the fine-tuning walked): {point.projection:.2f}")
    if point.shift is not None:
        lines.append(shifted(point.shift))
    if len(point.coefficients) > 2:
        lines.append(turned(point))
    lines.append(f"run {point.run}, point {point.index}" + (f", judge {plain(judge)}" if judge else ""))
    return "<br>".join(lines)


def shifted(shift: float) -> str:
    """How far a merge without fine-tuned models is from the aligned one.

    >>> shifted(0.01234)
    'distance from the aligned model: 1.23\xa0% of its length'
    """
    return f"distance from the aligned model: {100 * shift:.3g}\u00a0% of its length"


def measured(points: Sequence[Point]) -> list[str]:
    """The axes that a table of these points has columns for: those that any of them was measured on."""
    return [axis for axis in AXES if any(axis in point.scores for point in points)]


def asked(recipe: Mapping[str, Any]) -> str:
    """Which prompts a recipe measures on, by suite.

    >>> asked({"suites": {"plain_safety": {"n": 50}, "plain_tool": {"n": 40}}})
    'Measured on plain_safety (50 prompts), plain_tool (40 prompts).'
    """
    suites = recipe.get("suites")
    if not isinstance(suites, Mapping) or not suites:
        return ""
    counted = [f"{name} ({suite['n']} prompts)" for name, suite in suites.items()]
    return f"Measured on {', '.join(counted)}."


def turned(point: Point) -> str:
    """The settings of a point, each by its name."""
    return ", ".join(f"{'λ' if name == 'lambda' else name} {value:g}" for name, value in point.coefficients.items())


def moved(one: LayerChange | None) -> str:
    """What a cell of the heat map says.

    >>> moved(LayerChange(3, "q", 0.0212, -0.05, 1000))
    '<b>q, layer 3</b><br>moved by 2.12 % of its length<br>cosine with the aligned weights −0.050<br>1 k parameters'
    """
    if one is None:
        return ""
    lines = [f"<b>{plain(one.module)}, {_where(one)}</b>"]
    lines.append("no length to compare with" if one.distance is None else _moved_by(one.distance))
    if one.cosine is not None:
        lines.append(f"cosine with the aligned weights {one.cosine:+.3f}".replace("-", "−"))
    return "<br>".join([*lines, parameters(one.parameters)])


def _moved_by(distance: float) -> str:
    return f"moved by {100 * distance:.3g} % of its length" if distance else "not moved"


def _where(one: LayerChange) -> str:
    if one.layer is not None:
        return f"layer {one.layer}"
    return f"the {one.tower} tower" if one.tower else "outside the layers"


def moved_most(changes: Sequence[LayerChange]) -> str:
    """The heat map in a sentence."""
    known = [one for one in changes if one.distance is not None]
    if not any(one.distance for one in known):
        return "The two models have the same weights."
    most = max(known, key=lambda one: one.distance or 0)
    still = sorted({one.module for one in known} - {one.module for one in known if one.distance})
    rest = f" Not moved at all: {', '.join(still)}." if still else ""
    return f"Largest change: {most.module}, {_where(most)}, by {100 * (most.distance or 0):.3g} % of its length.{rest}"


def search_result(result: Mapping[str, Any]) -> str:
    """What a search found, with the interval that says how sure it is."""
    gap, area = result["difference"], result["hypervolume"]
    verdict = "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else "open"
    return SEARCH.format(
        safety=result["n"]["safety"],
        task=result["n"]["task"],
        found=area["found"],
        uniform=area["uniform"],
        **{name: gap[name] for name in ("value", "low", "high")},
        verdict=SEARCH_VERDICTS[verdict],
    )


def summary(points: Sequence[Point], frontier: Frontier | None, runs: Mapping[int, Run], minimum: float) -> str:
    """What the plot shows, in a sentence or two."""
    if not points or frontier is None or not frontier.front:
        return NOTHING_DRAWN
    front = [points[i] for i in frontier.front]
    several = len({point.run for point in points}) > 1
    sentence = f"{len(front)} of {len(points)} checkpoints are on the front; "
    top = max(score.value or 0.0 for score in (point.scores["task"] for point in points))
    near = [point for point in points if (point.scores["task"].value or 0.0) >= top - 0.02]
    best = max(near, key=lambda point: point.scores["safety"].value or 0.0)
    if frontier.knee is not None:
        knee = points[frontier.knee]
        sentence += f"the best bend (knee) is {called(knee, runs, several)} with {_both(knee)}; "
    sentence += f"safest within 2 points of the best task score: {called(best, runs, several)} with {_both(best)}."
    if minimum > 0:
        safe = [point for point in points if 100 * point.scores["safety"].low >= minimum]
        if safe:
            best = max(safe, key=lambda point: point.scores["task"].value or 0.0)
            sentence += f" At {minimum:g} % safety or more: {called(best, runs, several)} scores best "
            sentence += f"({percent(best.scores['task'])})."
        else:
            sentence += f" No checkpoint is surely above {minimum:g} % safety."
    return sentence


def _both(point: Point) -> str:
    return f"{percent(point.scores['safety'])} safety and {percent(point.scores['task'])} on the task"


def task(name: str) -> str:
    """
    >>> task("tool"), task("poetry"), task("")
    ('Tool use', 'Poetry', 'no task')
    """
    return TASKS.get(name, name.replace("_", " ").capitalize()) if name else "no task"


def area(frontier: Frontier) -> str:
    """The hypervolume with the reference point it is measured against."""
    x, y = frontier.reference
    return f"Area under the front (hypervolume): {frontier.hypervolume:.3f} against ({100 * x:g} %, {100 * y:g} %)"


def called(point: Point, runs: Mapping[int, Run], several: bool) -> str:
    """A point's name, with its fine-tuned model where several are in view."""
    run = runs.get(point.run)
    tuned = str(run.spec.get("tuned", "")).split("/")[-1] if run else ""
    return f"{point.label} of {tuned}" if several and tuned else point.label


def size(count: float) -> str:
    """
    >>> size(900), size(5_600_000), size(14_000_000_000)
    ('900 B', '5.6 MB', '14 GB')
    """
    unit = 0
    while count >= 1000 and unit < 4:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def parameters(count: float) -> str:
    """
    >>> parameters(1_400_000), parameters(7e9)
    ('1.4 M parameters', '7 B parameters')
    """
    unit = 0
    while count >= 1000 and unit < 3:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g}{('', ' k', ' M', ' B')[unit]} parameters"


def progress(run: Run) -> str:
    """ "run 17 · answering at λ = 0.3, 4 of 11 · about 9 s left"."""
    parts = [f"run {run.id}", run.phrase or STATUS[run.status]]
    if run.status == RunStatus.QUEUED:
        parts = [f"run {run.id}", f"waiting, place {run.position} in the queue" if run.position else "waiting"]
    if run.seconds_left is not None and run.status == RunStatus.RUNNING:
        parts.append(f"about {time_words(run.seconds_left)} left")
    return " · ".join(parts)


def ending(run: Run, points: int) -> str:
    """What is to be said of a run that is over."""
    word = "checkpoint is" if points == 1 else "checkpoints are"
    if run.status == RunStatus.DONE and run.kind == "merge":
        result = run.result or {}
        written = DONE_MERGE.format(folder=result.get("folder") or run.spec.get("out") or "the run's folder")
        straight = straight_words(result.get("recipe") or {})
        return f"{written} It took {straight}." if straight else written
    if run.status == RunStatus.DONE:
        return DONE.format(points=points)
    if run.status == RunStatus.FAILED:
        return run.error or "The run failed; its log says why."
    template = INTERRUPTED if run.status == RunStatus.INTERRUPTED else KEPT
    return template.format(points=points, word=word)


def judge(run: Run | None) -> str:
    """Who decided what is harmful and what a refusal is, by the run's recipe."""
    return ", ".join(run.recipe.get("judges") or ()) if run else ""


def device(state: Mapping[str, object]) -> str:
    """What computes, what it does, how many wait."""
    doing = "idle" if state.get("state") in ("idle", "", None) else f"working on {state['state']}"
    waiting = int(str(state.get("queue") or 0))
    line = f"{state.get('device', 'no device')} · {doing}"
    return line + (f" · {waiting} waiting" if waiting else "")


def short(value: Any) -> str:
    """A setting in at most 120 characters.

    >>> short("linear"), short([0, 0.5]), len(short("x" * 500))
    ('linear', '[0, 0.5]', 118)
    """
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return words if len(words) <= 120 else words[:117] + "…"
