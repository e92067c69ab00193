"""The one door: what a page, a script or CI may do. See `Studio`.

Importing this module imports no torch; the work happens in processes of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend import catalogue as catalogue_of
from backend.checkpoints.guard import check_pair
from backend.checkpoints.inspect import describe
from backend.checkpoints.resolve import lasting_name, resolve
from backend.errors import DeviceBusy, UserError
from backend.frontier import frontier as frontier_of
from backend.jobs import chat_files, layers, planning, queue, telemetry
from backend.jobs.datasets import find_data
from backend.jobs.forecast import estimates
from backend.jobs.worker import Worker, start_worker, worker_is_alive
from backend.playground.client import Playground
from backend.settings import Settings
from backend.storage import bundles
from backend.storage.database import Database
from backend.types import (
    Chunk,
    Column,
    DataPreview,
    Frontier,
    Inspection,
    LayerChange,
    Outcome,
    Plan,
    Point,
    Run,
    RunStatus,
)

POLL_SECONDS = 0.2
LOG_BYTES = 256 * 1024


class Studio:
    """Everything the studio can do, over one home folder. All bad input raises `UserError`.

    >>> import tempfile; from backend.settings import from_environment
    >>> studio = Studio(from_environment({"STUDIO_HOME": tempfile.mkdtemp()}))
    >>> studio.submit("sweep", {"aligned": "demo/aligned", "tuned": "demo/tool-mixed-sft", "method": "linaer"})
    Traceback (most recent call last):
    backend.errors.UserError: method: no "linaer". Did you mean "linear"? Available: arcee_fusion, \
breadcrumbs, breadcrumbs_ties, dare_linear, dare_ties, della, della_linear, karcher, layerwise, linear, lox, \
model_stock, multislerp, nearswap, nuslerp, passthrough, resta, safe_delta, safe_lora, safemerge, sce, slerp, \
slerp_curves, task_arithmetic, ties.
    """

    def __init__(self, settings: Settings) -> None:
        """Open (or make) the home folder and take in the stored demo results.

        Raises:
            UserError: the home folder cannot be written.
        """
        self.settings = settings
        _make_home(settings.home)
        self._database = Database(settings.database)
        self._playground = Playground(settings)
        self._telemetry = telemetry.Reader()
        bundles.import_folder(self._database, settings.demo / "results")

    def close(self) -> None:
        """Give back what this process holds; runs and the worker go on."""
        self._playground.close()
        self._database.close()

    # ------------------------------------------------------------------------------------ what there is

    def catalogue(self) -> dict[str, Any]:
        """Methods, tasks, judges, presets, suites and checkpoints, as JSON; see `backend.catalogue`."""
        return catalogue_of.catalogue(self.settings)

    def checkpoints(self) -> list[dict[str, Any]]:
        """The catalogue's checkpoints as they are now; only folders are listed, so a page may ask every few seconds."""
        return catalogue_of.checkpoints(self.settings)

    def inspect(self, aligned: str, tuned: str | None = None, *, donor: str = "aligned") -> Inspection:
        """Headers, configs and tokenizers of one checkpoint or a pair; a bad pair is findings, not an exception.

        Args:
            donor: whose tokenizer a merge of the pair gets, "aligned" or "fine_tuned".

        Raises:
            UserError: a checkpoint cannot be found or read at all.
        """
        first = resolve(aligned, self.settings, field="aligned")
        if not tuned:
            return Inspection((describe(first),))
        second = resolve(tuned, self.settings, field="tuned")
        found = Inspection((describe(first), describe(second)), check_pair(first, second, donor=donor))
        return found if found.errors else replace(found, estimates=estimates(self.settings, first, second))

    def lasting_name(self, name: str) -> str:
        """The name that runs keep of a checkpoint: of a folder given by a relative path its absolute one."""
        return lasting_name(name, self.settings)

    def task_vector(self, aligned: str, tuned: str) -> list[LayerChange]:
        """‖δ‖/‖θ0‖ and cos(δ, θ0) by layer and module; computed in another process, then kept by the files' hashes.

        Raises:
            UserError: a checkpoint that cannot be found, or a pair that does not fit.
            RunFailed: the weights could not be read.
        """
        return layers.task_vector(self.settings, aligned, tuned)

    def preview_data(self, data: str, *, field: str = "task_data") -> DataPreview:
        """What a fine-tuning would read of `data`, a name as `plan` takes it, or a file's path.

        Raises:
            UserError: what `plan` would refuse of this data alone; it names `field`.
        """
        return chat_files.preview(find_data(self.settings, data, field), field=field)

    # ------------------------------------------------------------------------------------ runs

    def plan(self, kind: str, spec: Mapping[str, Any]) -> Plan:
        """Check a request completely, estimate it, look for a run that did the same. Nothing is written.

        Args:
            kind: "sweep", "search", "merge", "evaluate", "tune" or "compare".
            spec: sweep: aligned, tuned, method, parameters, grid, task, preset, seed, suites;
                merge: aligned, tuned, method, parameters, out, seed, device (of a recipe that is made again);
                both also: unaligned, raw, safe, calibration where the method needs them; donor, "aligned" or
                "fine_tuned", whose tokenizer the result gets; tuned may be a list;
                search: aligned, tuned, grid, minutes, trials, depth, task, preset, seed, suites;
                evaluate: checkpoint, aligned (under an adapter), task, preset, seed, suites;
                tune: model, task_data, references, strategy, parameters, training, task, probe_every, seed, out;
                compare: model, task_data, references, strategies, seeds, settings, training, task, suites, preset,
                grid, ablations, tune, reuse (what an earlier comparison trained).
        """
        plan = planning.make_plan(self.settings, kind, spec)
        stored = None if kind == "merge" else self._database.find_recipe(plan.recipe_hash)
        return replace(plan, stored_run=stored)

    def submit(self, kind: str, spec: Mapping[str, Any], *, owner: str = "local", name: str = "") -> Run:
        """Queue a request that `plan` accepts; returns the queued run."""
        plan = planning.make_plan(self.settings, kind, spec)
        return self._database.insert_run(
            kind=kind,
            name=name or _name(kind, plan.spec),
            owner=owner,
            spec=plan.spec,
            recipe=plan.recipe,
            recipe_hash=plan.recipe_hash,
        )

    def runs(self, *, owner: str | None = None) -> list[Run]:
        """Newest first, stored demo runs last."""
        self._notice_a_lost_worker()
        return [run for run in self._database.list_runs() if owner in (None, run.owner) or run.stored]

    def run(self, run: int) -> Run:
        """One run as it is now."""
        self._notice_a_lost_worker()
        return self._database.run(run)

    def log(self, run: int, *, lines: int = 200) -> str:
        """The last lines of a run's log; empty before it started."""
        path = self.settings.runs / str(self._database.run(run).id) / "log.txt"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
        printable = "".join(sign for sign in text if sign == "\n" or sign.isprintable())
        return "\n".join(printable.splitlines()[-lines:])

    def cancel(self, run: int) -> Run:
        """Cancel a queued run at once, a running one within two seconds."""
        return queue.cancel(self._database, run)

    def restart(self, run: int) -> Run:
        """Queue a failed, cancelled, interrupted or paused run again under its id; what it finished is kept."""
        return queue.restart(self._database, run)

    def pause(self, run: int) -> Run:
        """Let a fine-tuning write a checkpoint and stop; `restart` goes on from there."""
        return queue.pause(self._database, run)

    def stop_and_keep(self, run: int) -> Run:
        """Let a fine-tuning finish now with the weights it has."""
        return queue.stop_and_keep(self._database, run)

    def telemetry(self, run: int, after: int = 0) -> dict[str, Any]:
        """What a fine-tuning says of itself while it runs, from step `after` on; see `backend.jobs.telemetry.read`."""
        return self._telemetry.read(self.settings.runs / str(self._database.run(run).id), after)

    def rename(self, run: int, name: str) -> Run:
        """Give a run another name (1 to 80 characters)."""
        if not 1 <= len(name.strip()) <= 80:
            raise UserError("name", got=name, allowed="1 to 80 characters")
        self._database.run(run)
        self._database.update_run(run, name=name.strip())
        return self._database.run(run)

    def wait(self, run: int, report: Callable[[Run], None] = lambda _: None) -> Run:
        """Block until a run is over, being its worker if there is none. Ctrl-C stops the run and keeps its points."""
        while self._database.run(run).status.is_live:
            if not Worker(self.settings, self._database).run_one(run, report):
                report(self._database.run(run))
                time.sleep(POLL_SECONDS)
        return self._database.run(run)

    # ------------------------------------------------------------------------------------ results

    def points(self, runs: Sequence[int]) -> list[Point]:
        """The finished points of these runs, in the order of `runs` and of their grids."""
        return self._database.points_of(runs)

    def point(self, point: int) -> Point:
        """One point."""
        return self._database.point(point)

    def outcomes(self, point: int, *, suite: str | None = None) -> list[Outcome]:
        """Every prompt, answer and class behind a point, or those of one suite."""
        return self._database.outcomes_of(point, suite=suite)

    def frontier(self, points: Sequence[Point]) -> Frontier:
        """The front of points that have both a task score and a safety score; indices into `points`."""
        places = [
            place
            for place, point in enumerate(points)
            if all(axis in point.scores and point.scores[axis].value is not None for axis in ("task", "safety"))
        ]
        pairs = [
            (points[place].scores["task"].value or 0.0, points[place].scores["safety"].value or 0.0) for place in places
        ]
        found = frontier_of(pairs)
        knee = None if found.knee is None else places[found.knee]
        return Frontier(tuple(places[i] for i in found.front), found.hypervolume, found.reference, knee)

    def sweep_json(self, run: int) -> dict[str, Any]:
        """A sweep as the document the command line prints; shares in percent."""
        row = self._database.run(run)
        points = self.points([run])
        found = self.frontier(points)
        return {
            "run": row.id,
            "recipe": row.recipe | {"hash": row.recipe_hash},
            "points": [point.to_json() for point in points],
            "front": list(found.front),
            "hypervolume": {
                "value": round(100 * found.hypervolume, 4),
                "reference": [100 * edge for edge in found.reference],
            },
            "knee": found.knee,
        }

    def comparison_json(self, run: int) -> dict[str, Any]:
        """What a comparison has found so far, shares in percent; see `backend.jobs.compare_report`."""
        from backend.jobs.compare_report import report  # it needs numpy

        row = self._database.run(run)
        measured = [(point, self.outcomes(point.id)) for point in self.points([run])]
        return {"run": row.id, "recipe": row.recipe | {"hash": row.recipe_hash}} | report(row, measured)

    # ------------------------------------------------------------------------------------ live answers

    def stream(
        self, columns: Sequence[Column], messages: Sequence[Mapping[str, str]], *, new_tokens: int = 64
    ) -> Iterator[Chunk]:
        """Stream each column's greedy answer to the same prompt. A newer call ends the older one between tokens.

        Raises:
            DeviceBusy: a run holds the device; the sentence names it.
            UserError: no columns, an empty prompt, or a checkpoint that cannot be used.
            RunFailed: a newer call took the model, or its process ended; what came so far is no whole answer.
        """
        if not columns:
            raise UserError("columns", problem="no checkpoint was chosen", remedy="Choose at least one.")
        if not messages or not str(messages[-1].get("content", "")).strip():
            raise UserError("prompt", problem="it is empty", remedy="Type a question.")
        for column in columns:
            if not 0 <= column.lam <= 1:
                remedy = "0 is aligned, 1 fine-tuned."
                raise UserError("lambda", got=column.lam, allowed="a number from 0 to 1", remedy=remedy)
        self._refuse_while_busy()
        found = [
            replace(one, aligned=self.lasting_name(one.aligned), tuned=self.lasting_name(one.tuned)) for one in columns
        ]
        return self._playground.stream(found, messages, new_tokens)

    def warm(self, aligned: str, tuned: str) -> None:
        """Load a pair in the background, so that the first live answer comes at once; does nothing while a run runs.

        Raises:
            UserError: a checkpoint cannot be found.
        """
        resolve(aligned, self.settings, field="aligned")
        resolve(tuned, self.settings, field="tuned")
        if not self._database.list_runs(status=[RunStatus.RUNNING]):
            self._playground.warm(self.lasting_name(aligned), self.lasting_name(tuned))

    def device(self) -> dict[str, Any]:
        """What computes and what it does: {"device", "state", "queue", "worker"}."""
        live = self._database.list_runs(status=[RunStatus.QUEUED, RunStatus.RUNNING])
        running = [run for run in live if run.status is RunStatus.RUNNING]
        kind = "CPU" if self.settings.device == "cpu" or not _has_gpu() else "GPU"
        threads = f"{self.settings.threads} thread{'s' if self.settings.threads > 1 else ''}"
        return {
            "device": f"{kind}, {threads}",
            "state": f"run {running[0].id}" if running else "idle",
            "queue": len(live) - len(running),
            "worker": worker_is_alive(self.settings),
        }

    # ------------------------------------------------------------------------------------ worker, bundles

    def ensure_worker(self) -> None:
        """Start a worker if none is alive. It ends by itself when this process is gone and nothing is queued."""
        if not worker_is_alive(self.settings):
            start_worker(self.settings, follow=os.getpid())

    def export_runs(self, runs: Iterable[int]) -> dict[str, Any]:
        """Runs with their points and outcomes as one JSON document."""
        return bundles.export(self._database, list(runs))

    def import_runs(self, bundle: Mapping[str, Any]) -> list[Run]:
        """Take in an exported document; runs that are here already are not doubled."""
        return [self._database.run(run) for run in bundles.take_in(self._database, bundle, stored=False)]

    # ------------------------------------------------------------------------------------ inside

    def _notice_a_lost_worker(self) -> None:
        if self._database.list_runs(status=[RunStatus.RUNNING]) and not worker_is_alive(self.settings):
            queue.interrupt_orphans(self._database)

    def _refuse_while_busy(self) -> None:
        running = self._database.list_runs(status=[RunStatus.RUNNING])
        if running:
            run = running[0]
            left = f", about {run.seconds_left:.0f} s left" if run.seconds_left else ""
            raise DeviceBusy(f"Run {run.id} holds the device{left}. Live answers come back when it is done.")


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            "STUDIO_HOME",
            problem=f"{home} cannot be written ({error.strerror})",
            remedy="Set STUDIO_HOME to a folder that you may write to.",
        ) from None


def _name(kind: str, spec: Mapping[str, Any]) -> str:
    if kind == "tune":
        return f"{Path(spec['task_data'].split(':')[-1]).stem} · {spec['strategy']}"
    if kind == "compare":
        return f"{Path(spec['task_data'].split(':')[-1]).stem} · {len(spec['arms'])} strategies"
    if kind == "evaluate":
        return str(spec["checkpoint"]).split("/")[-1]
    names = spec["tuned"] if isinstance(spec["tuned"], list) else [spec["tuned"]]
    tuned = " + ".join(name.split("/")[-1] for name in names) or str(spec["aligned"]).split("/")[-1]
    return f"{tuned} · {'search' if kind == 'search' else spec['method']}"


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()
