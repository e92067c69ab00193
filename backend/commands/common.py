"""What the commands share: options, running a request to its end, printing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from backend.api import Studio
from backend.checkpoints.space import size_words
from backend.errors import StudioError, UserError
from backend.jobs.sources import merged_folder
from backend.registry import EXTRA_INPUTS
from backend.types import AXES, Estimate, Plan, Run, RunStatus, Score, straight_words, time_words

WALKED = {"projection": ".2f", "distance": ".2f", "shift": ".4f"}


def add_pair(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that name a pair, what stands beside it, and the method."""
    parser.add_argument(
        "--aligned", required=required, help="a demo name, a folder or a Hub id with optional @revision"
    )
    parser.add_argument("--tuned", action="append", help="the fine-tuned checkpoint or adapter; may be repeated")
    for role, text in EXTRA_INPUTS.items():
        parser.add_argument(f"--{role}", help=f"{text}, where the method needs one")
    parser.add_argument("--calibration", help="a .jsonl of safe chats, where the method measures the aligned model")
    parser.add_argument("--donor", help="whose tokenizer and template the result gets: aligned (default) or fine_tuned")
    parser.add_argument("--method", default="linear" if required else None, help="a merge method; default: linear")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the method")


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """The options that say what is measured."""
    parser.add_argument("--task", default="", help="adds this task's suite")
    parser.add_argument("--preset", default="quick", help="quick, standard or report")
    parser.add_argument("--suites", help="comma list of suite names or .jsonl files instead of the safety suites")
    parser.add_argument("--seed", default="0")


def checkpoints_of(options: argparse.Namespace) -> dict[str, Any]:
    """What stands beside the aligned model."""
    tuned = options.tuned or []
    named = {name: getattr(options, name) for name in (*EXTRA_INPUTS, "calibration", "donor")}
    return {"tuned": tuned[0] if len(tuned) == 1 else tuned} | {role: name for role, name in named.items() if name}


def settings_of(pairs: Sequence[str]) -> dict[str, str]:
    """`--set name=value` pairs as a table."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError("--set", got=pair, allowed="name=value", remedy="For example --set lam=0.3.")
        found[name] = value
    return found


def set_words(parameters: Mapping[str, Any]) -> str:
    """Parameters as the options that set them.

    >>> set_words({"lam": 0.5, "curve": [0.2, 1.0]})
    '--set lam=0.5 --set curve=0.2,1.0'
    """
    texts = {name: ",".join(map(str, one)) if isinstance(one, list) else one for name, one in parameters.items()}
    return " ".join(f"--set {name}={text}" for name, text in texts.items())


def measuring_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_measuring` say."""
    return {name: getattr(options, name) for name in ("task", "preset", "seed", "suites")}


def number(text: str) -> float:
    """A coefficient as argparse's type."""
    try:
        return float(text)
    except ValueError:
        raise UserError("lambda", got=text, allowed="a number") from None


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """The option of every command that starts a run."""
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and start nothing")


def see_through(
    studio: Studio, kind: str, request: Mapping[str, Any], options: argparse.Namespace, tell: Callable[[Run], int]
) -> int:
    """Say what a request takes, submit it, see it through and `tell` of it; with --dry-run only the first.

    Raises:
        UserError: `Studio.plan` refuses the request.
        StudioError: the run did not end well; it says why.
    """
    given = {key: value for key, value in request.items() if value is not None}
    plan = studio.plan(kind, given)
    begun = _begun(studio, plan)
    lines = plan_lines(plan)
    if begun:
        lines.append(f"run {begun} was interrupted at the very same; this goes on with it")
    if options.dry_run:
        return print_json(plan_json(plan)) if options.json else print_line("\n".join(lines))
    for line in lines:
        print(line, file=sys.stderr)
    return tell(finish(studio, studio.restart(begun) if begun else studio.submit(kind, given, owner="cli")))


def _begun(studio: Studio, plan: Plan) -> int | None:
    """The interrupted merge of this recipe to this place: what it has written is nobody's but this one's."""
    same = (run for run in studio.runs() if run.kind == plan.kind == "merge" and run.recipe_hash == plan.recipe_hash)
    interrupted = (run for run in same if run.status is RunStatus.INTERRUPTED and run.spec["out"] == plan.spec["out"])
    return next((run.id for run in interrupted), None)


def plan_lines(plan: Plan) -> list[str]:
    """What a run will take and what speaks against it, a line each."""
    known = [f"run {plan.stored_run} did the very same"] if plan.stored_run is not None else []
    warnings = [f"warning: {sentence}" for sentence in plan.warnings]
    return [f"estimate: {estimate_words(plan.estimate)}", *known, *warnings]


def plan_json(plan: Plan) -> dict[str, Any]:
    """The same as JSON, in seconds and bytes."""
    known = {"stored_run": plan.stored_run, "recipe_hash": plan.recipe_hash}
    return {"kind": plan.kind, "estimate": asdict(plan.estimate), "warnings": list(plan.warnings), **known}


def estimate_words(estimate: Estimate) -> str:
    """
    >>> estimate_words(Estimate(4000.0, 460_000_000, 1_500_000_000))
    'about 1 h 6 min, 460.0 MB of memory, 1.5 GB of disk'
    """
    memory, disk = size_words(estimate.memory), size_words(estimate.disk)
    return f"about {time_words(estimate.seconds)}, {memory} of memory, {disk} of disk"


def finish(studio: Studio, run: Run) -> Run:
    """See a submitted run through; raises what stopped it.

    Raises:
        StudioError: it did not end well.
        KeyboardInterrupt: Ctrl-C, with a sentence that says what becomes of the run.
    """
    try:
        run = studio.wait(run.id, _progress())
    except KeyboardInterrupt:
        end_line()
        raise KeyboardInterrupt(_stopped(studio, studio.run(run.id))) from None
    end_line()
    if run.status is not RunStatus.DONE:
        raise StudioError(f"run {run.id} is {run.status}: {run.error}")
    return run


def _stopped(studio: Studio, run: Run) -> str:
    """What Ctrl-C left of a run, and how to go on."""
    if run.status.is_live:
        return f"run {run.id} goes on in the worker; runs --cancel {run.id} stops it"
    again = f"runs --restart {run.id} goes on with"
    if run.kind == "tune":
        return f"stopped; the training is kept as it was last saved, and {again} it"
    if run.kind != "merge":
        return f"stopped; finished points are kept, and {again} them"
    begun = merged_folder(studio.settings, run.id, run.spec)
    return f"stopped; what is written so far is in {begun}.tmp, and the same command goes on with it"


def _progress() -> Callable[[Run], None]:
    """Shows a run's progress on standard error."""
    show = _moving_line()

    def report(run: Run) -> None:
        left = f", {run.seconds_left:.0f} s left" if run.seconds_left is not None else ""
        show(f"run {run.id}: {100 * run.fraction:.0f} % {run.phrase}{left}", run.phrase)

    return report


def print_points(studio: Studio, run: Run) -> int:
    """Points as a table, the front and the knee marked; beside merged ones how far they walked.

    `projection` is the share of the fine-tuning that was walked, `distance` the way from aligned in its length; `shift`
    the way from aligned in the aligned model's own length, where no fine-tuned model is merged.
    """
    points = [point for point in studio.points([run.id]) if point.half != "validation"]
    found = studio.frontier(points)
    axes = [axis for axis in AXES if any(axis in p.scores for p in points)]
    walked = [name for name in WALKED if any(name in point.effective for point in points)]
    print(f"{'':28}" + "".join(f"{name:>11}" for name in walked) + "".join(f"{axis:>26}" for axis in axes))
    for place, point in enumerate(points):
        mark = " knee" if place == found.knee else " front" if place in found.front and len(points) > 1 else ""
        straight = straight_words(point.details)
        mark += f"  {straight}" if straight else ""
        steps = "".join(f"{_step(point.effective.get(name), WALKED[name]):>11}" for name in walked)
        print(f"{point.label:28}{steps}" + "".join(f"{_cell(point.scores.get(axis)):>26}" for axis in axes) + mark)
    if len(points) > 1 and "task" in axes:
        print(f"hypervolume {100 * found.hypervolume:.1f} % against the reference point (0, 0)")
    return 0


def _step(share: float | None, places: str) -> str:
    return "–" if share is None else format(share, places)


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "–"
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}] n {score.n}"


def run_json(run: Run) -> dict[str, Any]:
    """A run as JSON."""
    return {name: getattr(run, name) for name in Run.__dataclass_fields__}


def print_json(document: object) -> int:
    """One JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False, indent=2))
    return 0


def print_line(text: str = "") -> int:
    """One line on standard output."""
    print(text)
    return 0


def teller() -> Callable[[float, str], None]:
    """Shows progress on standard error, told as a fraction and a phrase."""
    show = _moving_line()
    return lambda fraction, phrase: show(f"{100 * fraction:5.1f} %  {phrase}", phrase)


def end_line() -> None:
    """What is said next begins a line of its own."""
    if sys.stderr.isatty():
        print(file=sys.stderr)


def _moving_line() -> Callable[[str, str], None]:
    """Shows lines on standard error: in place on a terminal, else one for each change of the phrase's beginning."""
    shown = ""

    def show(line: str, phrase: str) -> None:
        nonlocal shown
        head = phrase.rpartition(":")[0] or phrase
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif head != shown:
            print(line, file=sys.stderr, flush=True)
        shown = head

    return show
