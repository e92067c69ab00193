"""The command line, over the same facade as the page: `python -m backend COMMAND`.

`--json` prints one JSON document on standard output and nothing else; progress goes to standard error. Exit codes:
0 done, 1 failed, 2 bad input with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from backend.api import Studio
from backend.errors import StudioError, UserError
from backend.registry import EXTRA_INPUTS
from backend.settings import Settings, calm_threads, from_environment
from backend.types import Column, Run, RunStatus, Score


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(self.prog, problem=message, remedy=f"See {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    settings: Settings | None = None
    try:
        options = _parser().parse_args(arguments)
        settings = from_environment()
        code: int = options.command(settings, options)
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StudioError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("stopped; finished points are kept, see the runs", file=sys.stderr)
        return 1
    except Exception as error:
        where = _log_bug(settings)
        print(f"failed: an unexpected {type(error).__name__} ended the command; {where}", file=sys.stderr)
        return 1


def _log_bug(settings: Settings | None) -> str:
    text = traceback.format_exc()
    try:
        if settings is None:
            raise OSError
        path = settings.home / "errors.log"
        with path.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
        return f"the traceback is in {path}."
    except OSError:
        return f"its last line: {text.strip().splitlines()[-1]}"


# ---------------------------------------------------------------------------------------------- commands


def _catalogue(settings: Settings, options: argparse.Namespace) -> int:
    document = Studio(settings).catalogue()
    if options.json:
        return _print_json(document)
    for kind, entries in document.items():
        print(f"{kind}:")
        for entry in entries:
            print(f"  {entry['name']:24} {entry.get('summary') or entry.get('role') or entry.get('axis') or ''}")
    return 0


def _inspect(settings: Settings, options: argparse.Namespace) -> int:
    inspection = Studio(settings).inspect(options.aligned, options.tuned)
    if options.json:
        _print_json(inspection.to_json())
    else:
        for facts in inspection.checkpoints:
            print("\n".join(f"{name:20} {value}" for name, value in facts.items()), end="\n\n")
        for finding in inspection.findings:
            print(f"{finding.level}: {finding.field}: {finding.sentence}")
        for work, needs in inspection.estimates.items():
            what = "writing a merge" if work == "merge" else "one point of a quick sweep"
            memory, disk = (f"{amount / 1e6:,.0f} MB" for amount in (needs.memory, needs.disk))
            print(f"{what}: about {needs.seconds:.0f} s, {memory} of memory, {disk} of disk")
    return 2 if inspection.errors else 0


def _sweep(settings: Settings, options: argparse.Namespace) -> int:
    request = _measuring(options) | {
        "aligned": options.aligned,
        **_checkpoints(options),
        "method": options.method,
        "parameters": _settings_of(options.set),
        "grid": options.grid,
    }
    studio = Studio(settings)
    run = _run(studio, "sweep", request)
    if options.json:
        return _print_json(studio.sweep_json(run.id))
    _print_points(studio, run)
    return 0


def _evaluate(settings: Settings, options: argparse.Namespace) -> int:
    request = _measuring(options) | {"checkpoint": options.checkpoint, "aligned": options.aligned}
    studio = Studio(settings)
    run = _run(studio, "evaluate", request)
    if options.json:
        point = studio.points([run.id])[0].to_json()
        return _print_json({"run": run.id, "recipe": run.recipe | {"hash": run.recipe_hash}} | point)
    _print_points(studio, run)
    return 0


def _merge(settings: Settings, options: argparse.Namespace) -> int:
    from backend.jobs import replay
    from backend.merging.mergekit import from_mergekit, to_mergekit

    studio = Studio(settings)
    recipe = replay.read_recipe(Path(options.recipe)) if options.recipe else None
    checkpoints = _checkpoints(options) | {"aligned": options.aligned}
    if recipe:
        _refuse_beside("--recipe", options)
        request = replay.request_of(recipe, checkpoints)
    elif options.from_mergekit:
        _refuse_beside("--from-mergekit", options)
        request = from_mergekit(_read_text(options.from_mergekit), options.aligned or "")
    else:
        given = _settings_of(options.set) | ({} if options.lam is None else {"lam": options.lam})
        request = checkpoints | {"method": options.method or "linear", "parameters": given}
    request = {"seed": options.seed} | request | {"out": options.out}
    if options.to_mergekit:
        Path(options.to_mergekit).write_text(to_mergekit(studio.plan("merge", request).spec), encoding="utf-8")
        return _line(f"{options.to_mergekit} is written; nothing was merged.")
    if recipe:
        replay.check_inputs(settings, recipe, studio.plan("merge", request).spec)
    run = _run(studio, "merge", request)
    result = run.result or {}
    if recipe:
        replay.check_result(recipe, result["recipe"])
    if options.json:
        return _print_json({"run": run.id, "folder": result["folder"], "recipe": result["recipe"]})
    return _line(f"{result['folder']} is ready.")


def _refuse_beside(option: str, options: argparse.Namespace) -> None:
    """A file that says everything stands alone."""
    if options.method or options.set or options.lam is not None:
        raise UserError(option, problem="it says method and knobs itself", remedy="Leave out the others.")


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError("from-mergekit", problem=f"{path} cannot be read ({reason})") from None


def _generate(settings: Settings, options: argparse.Namespace) -> int:
    column = Column(options.aligned, options.tuned or "", options.lam or 0.0)
    text = ""
    studio = Studio(settings)
    try:
        for chunk in studio.stream([column], [{"role": "user", "content": options.prompt}], new_tokens=options.tokens):
            if not options.json:
                print(chunk.text[len(text) :], end="", flush=True)
            text = chunk.text
    finally:
        studio.close()
    if options.json:
        return _print_json({"checkpoint": column.title, "prompt": options.prompt, "answer": text})
    return _line()


def _runs(settings: Settings, options: argparse.Namespace) -> int:
    studio = Studio(settings)
    for action in ("cancel", "restart", "show", "log"):
        number = getattr(options, action)
        if number is not None:
            found = getattr(studio, "run" if action == "show" else action)(number)
            if isinstance(found, str):
                print(found)
            elif action == "restart":
                _finish(studio, found)
            else:
                _print_json(_run_json(found))
            return 0
    runs = studio.runs()
    if options.json:
        return _print_json([_run_json(run) for run in runs])
    for run in runs:
        print(f"{run.id:4}  {run.status:11} {100 * run.fraction:5.1f} %  {run.kind:8} {run.name}  {run.error}")
    return 0


def _worker(settings: Settings, options: argparse.Namespace) -> int:
    from backend.jobs.worker import Worker
    from backend.storage.database import Database

    settings.home.mkdir(parents=True, exist_ok=True)
    if not Worker(settings, Database(settings.database)).serve(follow=options.follow):
        print("another worker serves this home folder already", file=sys.stderr)
    return 0


def _demo(settings: Settings, options: argparse.Namespace) -> int:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    calm_threads()
    import torch

    torch.set_num_threads(settings.threads)
    if options.what == "build":
        from backend.demo.build import build
        from backend.demo.results import store_results

        out = Path(options.out).absolute() if options.out else settings.demo
        report = build(out, options.seed, settings.threads, _say)
        store_results(settings, out, _say)
        return _print_json(report) if options.json else _line(f"{out} is built.")
    from backend.demo.verify import verify

    report = verify(settings, seeds=options.seeds, report=_say)
    if options.json:
        _print_json(report)
    else:
        for bar in report["bars"]:
            print(f"{'holds' if bar['holds'] else 'FAILS':6} {bar['name']:48} bar {bar['bar']:28} {bar['measured']}")
    return 0 if report["holds"] else 1


# ---------------------------------------------------------------------------------------------- running and printing


def _run(studio: Studio, kind: str, request: Mapping[str, Any]) -> Run:
    """Submit and see it through; raises what stopped it."""
    given = {key: value for key, value in request.items() if value is not None}
    for sentence in studio.plan(kind, given).warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    return _finish(studio, studio.submit(kind, given, owner="cli"))


def _finish(studio: Studio, run: Run) -> Run:
    run = studio.wait(run.id, _progress())
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if run.status is not RunStatus.DONE:
        raise StudioError(f"run {run.id} is {run.status}: {run.error}")
    return run


def _progress() -> Callable[[Run], None]:
    """Show a run's progress on standard error: one moving line on a terminal, else a line per change of phrase."""
    shown = ""

    def report(run: Run) -> None:
        nonlocal shown
        left = f", {run.seconds_left:.0f} s left" if run.seconds_left is not None else ""
        line = f"run {run.id}: {100 * run.fraction:.0f} % {run.phrase}{left}"
        head = run.phrase.split(":")[0]
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif head != shown:
            print(line, file=sys.stderr, flush=True)
        shown = head

    return report


def _print_points(studio: Studio, run: Run) -> None:
    points = studio.points([run.id])
    found = studio.frontier(points)
    axes = [axis for axis in ("safety", "over_refusal", "helpfulness", "task") if any(axis in p.scores for p in points)]
    print(f"{'':28}" + "".join(f"{axis:>26}" for axis in axes))
    for place, point in enumerate(points):
        mark = " knee" if place == found.knee else " front" if place in found.front and len(points) > 1 else ""
        print(f"{point.label:28}" + "".join(f"{_cell(point.scores.get(axis)):>26}" for axis in axes) + mark)
    if len(points) > 1 and "task" in axes:
        print(f"hypervolume {100 * found.hypervolume:.1f} % against the reference point (0, 0)")


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "–"
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}] n {score.n}"


def _run_json(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in Run.__dataclass_fields__}


def _print_json(document: object) -> int:
    print(json.dumps(document, ensure_ascii=False, indent=2))
    return 0


def _line(text: str = "") -> int:
    print(text)
    return 0


def _say(fraction: float, phrase: str) -> None:
    print(f"{100 * fraction:5.1f} %  {phrase}", file=sys.stderr, flush=True)


def _checkpoints(options: argparse.Namespace) -> dict[str, Any]:
    """What stands beside the aligned model."""
    tuned = options.tuned or []
    named = {role: getattr(options, role) for role in EXTRA_INPUTS}
    return {"tuned": tuned[0] if len(tuned) == 1 else tuned} | {role: name for role, name in named.items() if name}


def _settings_of(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError("--set", got=pair, allowed="name=value", remedy="For example --set lam=0.3.")
        found[name] = value
    return found


def _measuring(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("task", "preset", "seed", "suites")}


# ---------------------------------------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m backend", description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, function: Callable[..., int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=function)
        one.add_argument("--json", action="store_true", help="print one JSON document on standard output")
        return one

    def pair(one: argparse.ArgumentParser, *, required: bool = True) -> None:
        one.add_argument(
            "--aligned", required=required, help="a demo name, a folder or a Hub id with optional @revision"
        )
        one.add_argument("--tuned", action="append", help="the fine-tuned checkpoint or adapter; may be repeated")
        for role, text in EXTRA_INPUTS.items():
            one.add_argument(f"--{role}", help=f"{text}, where the method needs one")
        one.add_argument("--method", default="linear" if required else None, help="a merge method; default: linear")
        one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the method")

    def measuring(one: argparse.ArgumentParser) -> None:
        one.add_argument("--task", default="", help="adds this task's suite")
        one.add_argument("--preset", default="quick", help="quick, standard or report")
        one.add_argument("--suites", help="comma list of suite names or .jsonl files instead of the safety suites")
        one.add_argument("--seed", default="0")

    command("catalogue", _catalogue, "list methods, tasks, judges, presets, suites and checkpoints")
    one = command("inspect", _inspect, "look at a checkpoint or a pair without loading it")
    one.add_argument("aligned")
    one.add_argument("tuned", nargs="?")
    one = command("sweep", _sweep, "measure safety and task along a path of merges")
    pair(one)
    one.add_argument("--grid", default="0:1:11", help="start:stop:count or a comma list of λ")
    measuring(one)
    one = command("evaluate", _evaluate, "measure one checkpoint")
    one.add_argument("--checkpoint", required=True)
    one.add_argument("--aligned", help="the base of an adapter")
    measuring(one)
    one = command("merge", _merge, "write a merge to a Hugging Face folder")
    pair(one, required=False)
    one.add_argument("--recipe", help="the recipe.json of a merge, to make it again byte for byte")
    one.add_argument("--from-mergekit", metavar="YAML", help="take method, models and knobs from mergekit's file")
    one.add_argument("--to-mergekit", metavar="YAML", help="write mergekit's file for this merge instead of merging")
    one.add_argument("--lambda", dest="lam", help="0 is aligned, 1 fine-tuned")
    one.add_argument("--out", help="the new folder; default: under the studio's home")
    one.add_argument("--seed", default="0")
    one = command("generate", _generate, "answer one prompt")
    one.add_argument("--aligned", required=True)
    one.add_argument("--tuned")
    one.add_argument("--lambda", dest="lam", type=_number, help="0 is aligned, 1 fine-tuned")
    one.add_argument("--prompt", required=True)
    one.add_argument("--tokens", type=int, default=64)
    one = command("runs", _runs, "list runs, or act on one")
    for name, text in (("show", "print"), ("log", "print the log of"), ("cancel", "cancel"), ("restart", "restart")):
        one.add_argument(f"--{name}", type=int, metavar="RUN", help=f"{text} this run")
    one = command("worker", _worker, "run queued runs until stopped")
    one.add_argument("--follow", type=int, metavar="PID", help="end when this process is gone and nothing is queued")
    one = command("demo", _demo, "build the micro-world's checkpoints, or verify what they must show")
    one.add_argument("what", choices=("build", "verify"))
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--seeds", type=int, default=3, help="fine-tuning seeds that verify measures")
    one.add_argument("--out", help="where build writes; default: the studio's own assets")
    return parser


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError("lambda", got=text, allowed="a number from 0 to 1") from None


if __name__ == "__main__":
    sys.exit(main())
