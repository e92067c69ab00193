"""Runs as real processes: what a closed page, a cancel and a kill do to them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.api import Studio
from backend.errors import UserError
from backend.jobs import queue
from backend.jobs import worker as worker_module
from backend.jobs.worker import worker_is_alive, worker_lock
from backend.settings import child_environment
from backend.storage.database import Database
from backend.types import RunStatus
from tests import held_worker, tiny
from tests.worlds import tiny_world, wait_until

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world(settings):
    return tiny_world(settings)


@pytest.fixture
def studio(settings, world):
    studio = Studio(settings)
    yield studio
    studio.close()


@pytest.fixture
def long_request(settings, tmp_path):
    """A sweep of a hundred points: seconds of work, so that there is something to stop."""
    return tiny_world(settings, prompts=40) | {"grid": "0:1:101"}


def start_worker(settings, *more, module=("backend", "worker")):
    command = [sys.executable, "-m", *module, *more]
    return subprocess.Popen(command, cwd=ROOT, env=child_environment(settings), stderr=subprocess.DEVNULL)


@pytest.fixture
def worker(settings):
    process = start_worker(settings)
    yield process
    process.terminate()
    process.wait(60)


# ------------------------------------------------------------------------------------ the state machine


@pytest.fixture
def database(settings):
    settings.home.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    yield database
    database.close()


def queued(database, name="one"):
    return database.insert_run(kind="sweep", name=name, owner="local", spec={}, recipe={}, recipe_hash="h").id


def test_the_oldest_run_is_claimed_first_and_only_once(database):
    first, second = queued(database), queued(database)
    assert [database.run(run).position for run in (first, second)] == [1, 2]
    assert queue.claim(database).id == first
    assert queue.claim(database, first) is None
    assert queue.claim(database).id == second
    assert queue.claim(database) is None


def test_a_queued_run_is_cancelled_at_once_and_can_be_restarted_behind_the_others(database):
    first, second = queued(database), queued(database)
    assert queue.cancel(database, first).status is RunStatus.CANCELLED
    assert queue.restart(database, first).status is RunStatus.QUEUED
    assert queue.claim(database).id == second


def test_a_finished_run_cannot_be_finished_again_or_restarted(database):
    run = queued(database)
    queue.claim(database)
    assert queue.finish(database, run, RunStatus.DONE, result={"points": 1})
    assert not queue.finish(database, run, RunStatus.FAILED, error="late")
    assert queue.cancel(database, run).status is RunStatus.DONE
    with pytest.raises(UserError, match=r"run: run 1 is done; only failed, cancelled, interrupted and paused"):
        queue.restart(database, run)


def test_running_rows_without_a_worker_become_interrupted(database):
    run = queued(database)
    queue.claim(database)
    assert queue.interrupt_orphans(database) == [run]
    assert database.run(run).status is RunStatus.INTERRUPTED


def test_one_home_folder_has_one_worker(settings, database):
    with worker_lock(settings) as first, worker_lock(settings) as second:
        assert (first, second) == (True, False)
    assert not worker_is_alive(settings)


# ------------------------------------------------------------------------------------ real processes


def test_a_sweep_runs_to_its_end_and_keeps_every_answer(studio, world):
    run = studio.wait(studio.submit("sweep", world).id)
    assert (run.status, run.error, run.fraction) == (RunStatus.DONE, "", 1.0)
    points = studio.points([run.id])
    assert [point.coefficients["lambda"] for point in points] == [0.0, 0.5, 1.0]
    assert [point.anchor for point in points] == ["aligned", "", "fine-tuned"]
    assert points[1].effective["projection"] == pytest.approx(0.5, abs=1e-5)
    assert points[1].effective["distance"] == pytest.approx(0.5, abs=1e-5)
    for point in points:
        answered = studio.outcomes(point.id)
        assert len(answered) == 24
        assert sum(point.outcomes["a"].values()) == point.scores["safety"].n == 12
    assert "point 3: linear λ = 1" in studio.log(run.id)
    assert studio.plan("sweep", world).stored_run == run.id


def test_an_interrupted_sweep_goes_on_where_it_stopped_and_gives_the_same_answers(studio, world, settings):
    whole = studio.wait(studio.submit("sweep", world).id)
    halved = studio.submit("sweep", world)
    first = studio.points([whole.id])[0]
    studio._database.add_point(
        first.__class__(**{**first.__dict__, "run": halved.id}), studio.outcomes(first.id)
    )  # what a run that was stopped after its first point has stored
    studio.wait(halved.id)
    assert "point 1:" not in studio.log(halved.id)
    for one, other in zip(studio.points([whole.id]), studio.points([halved.id]), strict=True):
        assert (one.scores, one.outcomes, one.effective) == (other.scores, other.outcomes, other.effective)
        assert [o.answer for o in studio.outcomes(one.id)] == [o.answer for o in studio.outcomes(other.id)]


def test_cancel_ends_a_running_sweep_within_two_seconds(studio, long_request, worker):
    run = studio.submit("sweep", long_request)
    wait_until(lambda: len(studio.points([run.id])) >= 1)
    asked = time.monotonic()
    studio.cancel(run.id)
    wait_until(lambda: not studio.run(run.id).status.is_live)
    assert worker_module.TICK + worker_module.GRACE < 2.0  # the promise; a busy machine may add to it
    assert time.monotonic() - asked < 20.0
    assert studio.run(run.id).status is RunStatus.CANCELLED
    kept = len(studio.points([run.id]))
    assert 1 <= kept < 101


def test_a_killed_worker_leaves_the_run_interrupted_its_child_gone_and_its_points_kept(studio, long_request, settings):
    worker = start_worker(settings)
    run = studio.submit("sweep", long_request)
    wait_until(lambda: len(studio.points([run.id])) >= 1)
    child = studio._database.control(run.id)[1]
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not queue.is_alive(child))
    found = studio.run(run.id)
    assert found.status is RunStatus.INTERRUPTED
    assert "restart it to go on" in found.error
    kept = len(studio.points([run.id]))
    studio.restart(run.id)
    again = start_worker(settings)
    try:
        wait_until(lambda: len(studio.points([run.id])) > kept)
    finally:
        again.terminate()
        again.wait(60)
    assert studio.run(run.id).status is RunStatus.INTERRUPTED  # a worker told to stop leaves it restartable


def large_pair(root):
    """A pair with thirty-six large matrices, so that there is something to go on with."""
    for seed, name in enumerate(("large", "larger")):
        folder = tiny.folder(root / name, dtype=torch.bfloat16, near=root / "large" if seed else None)
        generator = torch.Generator().manual_seed(seed)
        weights = load_file(folder / "model.safetensors")
        for number in range(36):
            weights[f"model.extra.{number}.weight"] = torch.randn(1024, 1024, generator=generator).bfloat16()
        save_file(weights, folder / "model.safetensors")
    return {"aligned": "large", "tuned": "larger", "method": "ties"}


def test_a_merge_whose_worker_and_child_are_killed_goes_on_where_it_was(studio, settings, tmp_path):
    request = large_pair(settings.models_root) | {"out": str(tmp_path / "out")}
    journal = tmp_path / "out.tmp" / "journal.jsonl"
    run = studio.submit("merge", request)
    held_worker.hold(settings, run.id, 0.3)
    worker = start_worker(settings, module=["tests.held_worker"])
    wait_until(lambda: journal.exists() and len(journal.read_text().splitlines()) > 3)
    child = studio._database.control(run.id)[1]
    os.kill(child, signal.SIGSTOP)  # dies where it stands, perhaps in the middle of a transaction
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not queue.is_alive(child))
    assert studio.run(run.id).status is RunStatus.INTERRUPTED
    weights = tmp_path / "out.tmp" / "model.safetensors"
    before, finished = weights.stat().st_ino, len(journal.read_text().splitlines()) - 1
    assert not (tmp_path / "out").exists()
    assert finished >= 3
    studio.restart(run.id)
    done = studio.wait(run.id)
    assert (done.status, done.error) == (RunStatus.DONE, "")
    assert (tmp_path / "out" / weights.name).stat().st_ino == before
    straight = studio.wait(studio.submit("merge", request | {"out": str(tmp_path / "straight")}).id)
    assert done.result["recipe"]["files"] == straight.result["recipe"]["files"]
    assert done.result["recipe"]["effective"] == straight.result["recipe"]["effective"]


def test_a_merge_whose_worker_is_stopped_keeps_what_it_has_and_a_cancelled_one_says_nothing_was_written(
    studio, settings, tmp_path
):
    request = large_pair(settings.models_root) | {"out": str(tmp_path / "out")}
    journal = tmp_path / "out.tmp" / "journal.jsonl"
    begun = lambda: journal.exists() and len(journal.read_text().splitlines()) > 1  # noqa: E731
    run = studio.submit("merge", request)
    held_worker.hold(settings, run.id, 0.3)
    worker = start_worker(settings, module=["tests.held_worker"])
    wait_until(begun)
    worker.terminate()
    worker.wait(60)
    assert studio.run(run.id).status is RunStatus.INTERRUPTED
    assert begun()
    held_worker.hold(settings, run.id, 0.6)
    worker = start_worker(settings, module=["tests.held_worker"])
    try:
        studio.restart(run.id)
        wait_until(lambda: studio.run(run.id).status is RunStatus.RUNNING and studio.run(run.id).fraction > 0)
        studio.cancel(run.id)
        wait_until(lambda: not studio.run(run.id).status.is_live)
    finally:
        worker.terminate()
        worker.wait(60)
    assert (studio.run(run.id).status, studio.run(run.id).error) == (
        RunStatus.CANCELLED,
        "Cancelled; nothing was written.",
    )
    assert not journal.exists()


def test_a_killed_child_fails_its_run_and_the_queue_lives_on(studio, long_request, world, worker):
    run = studio.submit("sweep", long_request)
    wait_until(lambda: len(studio.points([run.id])) >= 1)
    os.kill(studio._database.control(run.id)[1], signal.SIGKILL)
    wait_until(lambda: not studio.run(run.id).status.is_live)
    assert studio.run(run.id).status is RunStatus.FAILED
    assert "lack of memory" in studio.run(run.id).error
    following = studio.submit("sweep", world | {"grid": "0,1"})
    wait_until(lambda: studio.run(following.id).status is RunStatus.DONE)


def test_a_run_outlives_the_process_that_asked_for_it_and_the_worker_then_ends(studio, world, settings):
    page = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = start_worker(settings, "--follow", str(page.pid))
    run = studio.submit("sweep", world)
    wait_until(lambda: studio.run(run.id).status is not RunStatus.QUEUED)
    page.kill()
    page.communicate()
    wait_until(lambda: studio.run(run.id).status is RunStatus.DONE)
    assert worker.wait(60) == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_whose_checkpoint_changed_since_it_was_planned_is_refused_by_name(studio, world, settings, restarted):
    run = studio.submit("sweep", world | {"tuned": "lora", "grid": "0,1"})
    if restarted:
        studio.cancel(run.id)
        studio.restart(run.id)
    config = settings.models_root / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 99}))
    done = studio.wait(run.id)
    assert done.status is RunStatus.FAILED
    said = "tuned: the files of lora have changed since this run was planned. Start a new run with its settings."
    assert done.error == said
    assert studio.points([run.id]) == []


def test_an_evaluation_and_a_merge_are_runs_too(studio, world, settings, tmp_path):
    measured = studio.wait(
        studio.submit("evaluate", {"checkpoint": "lora", "aligned": "aligned", "suites": world["suites"]}).id
    )
    assert measured.status is RunStatus.DONE, measured.error
    out = tmp_path / "merged"
    pair = {"aligned": "aligned", "tuned": "lora", "parameters": {"lam": 1.0}, "out": str(out)}
    merged = studio.wait(studio.submit("merge", pair).id)
    assert merged.status is RunStatus.DONE, merged.error
    again = studio.wait(studio.submit("evaluate", {"checkpoint": str(out), "suites": world["suites"]}).id)
    answers = [[o.answer for o in studio.outcomes(studio.points([run.id])[0].id)] for run in (measured, again)]
    assert answers[0] == answers[1]


def test_a_failure_is_a_sentence_and_its_traceback_is_in_the_log_only(studio, world, settings):
    run = studio.submit("sweep", world)
    (settings.models_root / "tuned" / "model.safetensors").write_bytes(b"not a checkpoint")
    done = studio.wait(run.id)
    assert done.status is RunStatus.FAILED
    assert "model.safetensors" in done.error
    assert "Traceback" not in done.error
