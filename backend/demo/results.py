"""The stored results: real sweeps and comparisons of the shipped checkpoints, through the same door as everybody's.

One bundle per fine-tune under `results/`, each with its recipe, points and every answer. They are made again whenever
the checkpoints are, so that the first screen never shows numbers of another world.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from backend.api import Studio
from backend.demo.files import SETS
from backend.errors import RunFailed
from backend.settings import Settings
from backend.types import Run, RunStatus

GRID = "0:1:11"
PRESET = "standard"


def store_results(
    settings: Settings, world: Path, report: Callable[[float, str], None], names: Sequence[str] = SETS
) -> None:
    """Sweep every fine-tune of `world` and store the results beside it.

    With `names` the sweeps of the others are kept, and the comparisons that were trained on their data.
    """
    results = world / "results"
    fresh = world / "results.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for kept in set(SETS) - set(names):
        trained = [results / f"{kind}-{kept}.json.gz" for kind in ("compare", "ablations")]
        for path in [results / f"{kept}.json.gz", *filter(Path.is_file, trained)]:
            shutil.copy(path, fresh)
    for number, name in enumerate(names):

        def progress(run: Run, number: int = number, name: str = name) -> None:
            report((number + run.fraction) / len(names), f"sweep of {name}: {run.phrase}")

        _write(fresh / f"{name}.json.gz", _sweep(settings, world, name, progress))
    shutil.rmtree(results, ignore_errors=True)
    fresh.rename(results)


def store_comparison(
    settings: Settings,
    task: str,
    seeds: int,
    report: Callable[[float, str], None],
    *,
    ablations: bool = False,
    reuse: bool = False,
) -> None:
    """Compare all strategies, or DualSelect with one part replaced each, on the task's mixed set and store the result.

    The run is one of the studio's own: stopped, it goes on from there (`runs --restart`), and the same comparison is
    not made twice. With `reuse` it trains only what no earlier one trained, the stored ones among them.
    """
    data = f"{task}-mixed"
    request: dict[str, object] = {"model": "demo/aligned", "task_data": f"demo/{data}", "seeds": seeds}
    request |= {"preset": PRESET, "reuse": reuse} | (
        {"strategies": "dualselect", "ablations": True} if ablations else {"tune": True}
    )
    kind = "ablations" if ablations else "compare"
    studio = Studio(settings)
    try:
        known = studio.plan("compare", request).stored_run
        run = studio.run(known) if known is not None else studio.submit("compare", request)
        run = studio.wait(run.id, lambda now: report(now.fraction, f"{kind} on {data}: {now.phrase}"))
        if run.status is not RunStatus.DONE:
            raise RunFailed(f"{kind} on {data} ended {run.status}: {run.error}")
        _write(settings.demo / "results" / f"{kind}-{data}.json.gz", studio.export_runs([run.id]))
    finally:
        studio.close()


def _write(path: Path, bundle: Mapping[str, object]) -> None:
    text = json.dumps(bundle, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _sweep(settings: Settings, world: Path, name: str, progress: Callable[[Run], None]) -> dict[str, object]:
    request = {
        "aligned": "demo/aligned",
        "tuned": f"demo/{name}-sft",
        "grid": GRID,
        "task": name.split("-")[0],
        "preset": PRESET,
    }
    with TemporaryDirectory() as home:
        studio = Studio(replace(settings, home=Path(home), database=f"sqlite:///{home}/studio.sqlite", demo=world))
        try:
            run = studio.wait(studio.submit("sweep", request).id, progress)
            if run.status is not RunStatus.DONE:
                raise RunFailed(f"The sweep of {name} ended {run.status}: {run.error}")
            return studio.export_runs([run.id])
        finally:
            studio.close()
