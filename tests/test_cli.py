"""The command line: one JSON document, exit codes, and one sentence for every mistake."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.__main__ import main
from backend.api import Studio
from backend.commands import common
from backend.commands.common import print_points
from backend.jobs.worker import worker_lock
from backend.storage.database import Database
from backend.types import RunStatus
from tests import tiny
from tests.worlds import tiny_world

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world(settings, monkeypatch):
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MODELS_ROOT", raising=False)
    return tiny_world(settings)


def arguments(world, **changes):
    given = {"aligned": "aligned", "tuned": "tuned", "grid": world["grid"], "suites": ",".join(world["suites"])}
    return [part for name, value in (given | changes).items() for part in (f"--{name}", str(value))]


def refused(capsys, *command):
    """The one sentence on standard error of a command that must be refused."""
    capsys.readouterr()
    assert main(list(command)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert "Traceback" not in printed.err
    return printed.err.strip()


def test_a_sweep_prints_the_document_of_the_contract_and_nothing_else(world, settings):
    command = [sys.executable, "-m", "backend", "sweep", *arguments(world), "--seed", "0", "--json"]
    environment = {**os.environ, "STUDIO_HOME": str(settings.home)}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    document = json.loads(printed.stdout)
    assert set(document) == {"run", "recipe", "points", "front", "hypervolume", "knee"}
    assert document["hypervolume"]["reference"] == [0, 0]
    assert [point["coefficients"]["lambda"] for point in document["points"]] == [0.0, 0.5, 1.0]
    for point in document["points"]:
        assert set(point) == {"coefficients", "scores", "outcomes", "effective"}
        assert set(point["scores"]) == {"safety", "over_refusal"}
        for score in point["scores"].values():
            assert set(score) == {"value", "low", "high", "n"}
            assert 0 <= score["low"] <= score["value"] <= score["high"] <= 100
        assert set(point["effective"]) == {"projection", "distance"}


def test_without_json_a_table_with_intervals_is_printed(world, capsys):
    assert main(["sweep", *arguments(world, grid="0,1")]) == 0
    assert "n 12" in capsys.readouterr().out


def test_the_effective_strength_stands_beside_every_merged_point_and_nowhere_else(world, capsys):
    assert main(["sweep", *arguments(world, grid="0.25,1")]) == 0
    head, quarter, whole = (line.split() for line in capsys.readouterr().out.splitlines()[:3])
    assert head[:2] == ["projection", "distance"]
    assert [quarter[4:6], whole[4:6]] == [["0.25", "0.25"], ["1.00", "1.00"]]
    assert main(["evaluate", "--checkpoint", "aligned", "--suites", world["suites"][0]]) == 0
    assert "projection" not in capsys.readouterr().out


def test_methods_sweep_in_memory_over_their_own_knob_and_several_fine_tunes(world, settings, capsys):
    tiny.folder(settings.models_root / "raw", "llama", tied=True, seed=5, near=settings.models_root / "aligned")
    several = ["--tuned", "lora", "--method", "ties", "--set", "weights=1,0.5", "--set", "density=0.2"]
    assert main(["sweep", *arguments(world, grid="0,0.4,1"), *several, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"]["parameters"]["weights"] == [1.0, 0.5]
    assert [len(document["recipe"]["tuned"]), len(document["points"])] == [2, 3]
    distances = [point["effective"]["distance"] for point in document["points"]]
    assert distances[0] == 0
    assert distances[1] == pytest.approx(0.4 * distances[2], rel=1e-4)
    slerp = ["sweep", *arguments(world, grid="0.5"), "--method", "slerp", "--json"]
    assert main(slerp) == 0
    studio = Studio(settings)
    run = studio.run(json.loads(capsys.readouterr().out)["run"])
    (point,) = studio.points([run.id])
    straight = point.details["straight_lines"]
    assert 0 <= straight["tensors"] <= straight["of"] != 0
    print_points(studio, run)
    phrase = f"{straight['tensors']} of {straight['of']} tensors along a straight line"
    assert phrase in capsys.readouterr().out.splitlines()[1]
    lox = ["--aligned", "aligned", "--raw", "raw", "--method", "lox", "--suites", ",".join(world["suites"])]
    assert main(["sweep", *lox, "--grid", "0,2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    points = document["points"]
    assert [point["coefficients"] for point in points] == [{"extrapolate": 0.0}, {"extrapolate": 2.0}]
    nowhere, moved = (point["effective"] for point in points)
    assert nowhere == {"projection": None, "distance": None, "shift": 0.0}
    assert 0 < moved["shift"] < 1
    print_points(studio, studio.run(document["run"]))
    head, *lines = (line.split() for line in capsys.readouterr().out.splitlines()[:3])
    assert head[:3] == ["projection", "distance", "shift"]
    assert [line[4:7] for line in lines] == [["–", "–", "0.0000"], ["–", "–", f"{moved['shift']:.4f}"]]
    assert refused(capsys, "sweep", *lox, "--grid", "0,9").startswith("error: grid: got 9.0; allowed is numbers from 0")
    assert refused(capsys, "sweep", *lox[:2], "--method", "lox").startswith("error: raw: lox needs the model from")


def test_merge_writes_a_folder_that_loads_and_replays_the_same_weights(world, settings, capsys, tmp_path):
    for name in ("one", "two"):
        pair = ["--aligned", "aligned", "--tuned", "tuned", "--lambda", "0.3", "--out", str(tmp_path / name)]
        assert main(["merge", *pair, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["folder"] == str(tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_names_mean_the_folders_and_files_of_the_directory_a_person_stands_in(
    world, settings, capsys, monkeypatch, tmp_path
):
    settings.models_root.rename(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    assert main(["merge", "--aligned", "aligned", "--tuned", "./tuned", "--out", "out"]) == 0
    recipe = json.loads(Path("out/recipe.json").read_text())
    assert [recipe["aligned"]["name"], recipe["fine_tuned"][0]["name"]] == ["aligned", "tuned"]
    assert str(tmp_path) not in Path("out/README.md").read_text() + Path("out/recipe.json").read_text()
    assert main(["merge", "--recipe", "out", "--out", "again"]) == 0
    Path("f.yml").write_text("{merge_method: slerp, base_model: aligned, models: [{model: lora}], parameters: {t: 0}}")
    assert main(["merge", "--from-mergekit", "f.yml", "--out", "third"]) == 0
    assert main(["evaluate", "--checkpoint", "lora", "--aligned", "aligned", "--suites", "../home/a.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("lora  ")
    assert main(["inspect", "aligned", "tuned", "--layers"]) == 0
    assert main(["generate", "--aligned", "aligned", "--tuned", "tuned", "--prompt", "hi", "--tokens", "2"]) == 0


def commands_that_start_runs(world, tmp_path):
    """Each command that starts a run, with what it needs here."""
    measured = ["--suites", ",".join(world["suites"])]
    for name in ("rows", "references"):
        turns = [(f"{name} {place}", "a fox") for place in range(8)]
        rows = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in turns]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, references = tmp_path / "rows.jsonl", tmp_path / "references.jsonl"
    tuned = ["--model", "aligned", "--task-data", str(data), "--train", "steps=2", "--train", "batch=2", *measured]
    return {
        "merge": ["--aligned", "aligned", "--tuned", "tuned", "--out", str(tmp_path / "out")],
        "sweep": arguments(world),
        "evaluate": ["--checkpoint", "aligned", *measured],
        "search": ["--aligned", "demo/aligned", "--tuned", "demo/tool-mixed-sft", "--task", "tool"],
        "tune": [*tuned, "--strategy", "sft"],
        "compare-strategies": [*tuned, "--strategies", "sft,lisa", "--references", str(references), "--seeds", "1"],
    }


@pytest.mark.parametrize("command", ["merge", "sweep", "evaluate", "search", "tune", "compare-strategies"])
def test_a_dry_run_says_what_a_run_would_take_and_starts_nothing(command, world, settings, capsys, tmp_path):
    given = [command, *commands_that_start_runs(world, tmp_path)[command], "--dry-run"]
    assert main(given) == 0
    printed = capsys.readouterr()
    assert re.match(r"estimate: about [\d\w ]+, [\d.]+ [MG]B of memory, [\d.]+ \S+ of disk\n", printed.out)
    assert printed.err == ""
    assert main([*given, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"kind", "estimate", "warnings", "stored_run", "recipe_hash"}
    assert all(f"warning: {sentence}\n" in printed.out for sentence in document["warnings"])
    assert min(document["estimate"].values()) > 0
    assert not [run for run in Studio(settings).runs() if not run.stored]
    assert not (tmp_path / "out").exists()


def test_the_estimate_and_warnings_stand_before_the_progress_and_never_in_the_document(world, capsys, tmp_path):
    sweep = ["sweep", *arguments(world, tuned="aligned", grid="0")]
    assert main([*sweep, "--json"]) == 0
    printed = capsys.readouterr()
    json.loads(printed.out)
    estimate, warning, progress = printed.err.splitlines()[:3]
    assert estimate.startswith("estimate: about ")
    assert warning.startswith("warning: both ends are the same checkpoint")
    assert progress.startswith("run ")
    assert main([*sweep, "--dry-run"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert re.match(r"run \d+ did the very same", again[1])
    assert [again[0], *again[2:]] == [estimate, warning]


class PressesCtrlC(Studio):
    """Somebody stops the command as soon as its run is under way."""

    def wait(self, run, report=lambda _: None):
        def press(_):
            raise KeyboardInterrupt

        return super().wait(run, press)


def test_a_training_that_was_stopped_is_kept_as_it_was_saved():
    run = SimpleNamespace(kind="tune", id=3, status=RunStatus.INTERRUPTED, spec={})
    told = "stopped; the training is kept as it was last saved, and runs --restart 3 goes on with it"
    assert common._stopped(None, run) == told


def test_ctrl_c_says_what_is_kept_and_what_goes_on_with_it(world, settings, capsys, monkeypatch, tmp_path):
    for command in ("merge", "sweep"):
        monkeypatch.setattr(f"backend.commands.{command}.Studio", PressesCtrlC)
    merge = ["merge", "--aligned", "aligned", "--tuned", "tuned"]

    def last_line(*command):
        assert main(list(command)) == 1
        return capsys.readouterr().err.splitlines()[-1]

    begun = f"stopped; what is written so far is in {tmp_path / 'out'}.tmp"
    assert last_line(*merge, "--out", str(tmp_path / "out")) == f"{begun}, and the same command goes on with it"
    told = last_line(*merge)  # the next one without --out is another run with another folder
    run = Studio(settings).runs()[0]
    begun = f"stopped; what is written so far is in {settings.models_root}/merge-{run.id}.tmp"
    assert told == f"{begun}, and the same command goes on with it"
    told = last_line("sweep", *arguments(world))
    assert told == f"stopped; finished points are kept, and runs --restart {run.id + 1} goes on with them"
    with worker_lock(settings) as held:  # by a worker that would go on with what is queued
        told = last_line("sweep", *arguments(world))
    assert held
    assert told == f"run {run.id + 2} goes on in the worker; runs --cancel {run.id + 2} stops it"


def test_an_interrupted_merge_is_gone_on_with_by_the_same_command_and_by_no_other(world, settings, capsys, monkeypatch):
    merge = ["merge", "--aligned", "aligned", "--tuned", "tuned", "--json"]
    with monkeypatch.context() as patched:
        patched.setattr("backend.commands.merge.Studio", PressesCtrlC)
        assert main(merge) == 1
    begun = Studio(settings).runs()[0].id
    assert main([*merge, "--lambda", "0.4"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == begun + 1
    assert main(merge) == 0
    printed = capsys.readouterr()
    assert f"run {begun} was interrupted at the very same; this goes on with it\n" in printed.err
    assert json.loads(printed.out)["folder"] == str(settings.models_root / f"merge-{begun}")
    assert not list(settings.models_root.glob("*.tmp"))
    assert main(merge) == 0  # and another one once that is done
    assert json.loads(capsys.readouterr().out)["run"] == begun + 2


def test_a_merge_along_arcs_says_how_many_tensors_went_straight(world, capsys, tmp_path):
    pair = ["--aligned", "aligned", "--tuned", "tuned", "--method", "slerp", "--out", str(tmp_path / "out")]
    assert main(["merge", *pair]) == 0
    ready = rf"{tmp_path}/out is ready, with \d+ of \d+ tensors along a straight line\.\n"
    assert re.fullmatch(ready, capsys.readouterr().out)


def test_lambda_is_said_once(world, capsys, tmp_path):
    pair = ["--aligned", "aligned", "--tuned", "tuned", "--out", str(tmp_path / "out")]
    sentence = refused(capsys, "merge", *pair, "--set", "lam=0.3", "--lambda", "0.5")
    assert sentence == "error: lam: got --set lam=0.3 and --lambda 0.5. Say λ once."


def test_inspect_says_what_a_pair_is(world, capsys):
    assert main(["inspect", "aligned", "tuned", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["checkpoints"]
    assert first["architecture"] == second["architecture"]


def test_generate_answers_and_runs_lists(world, capsys):
    assert main(["generate", "--aligned", "aligned", "--tuned", "tuned", "--lambda", "0.5", "--prompt", "hi"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["runs", "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_the_catalogue_lists_parameters_with_ranges_and_papers(world, capsys):
    assert main(["catalogue", "--json"]) == 0
    linear = next(one for one in json.loads(capsys.readouterr().out)["methods"] if one["name"] == "linear")
    assert linear["paper"] == "arXiv:2412.19512"
    assert next((p["name"], p["low"], p["high"]) for p in linear["parameters"]) == ("lam", 0, 1)


def test_runs_are_paused_and_told_to_keep_their_weights_where_they_can_be(world, settings, capsys):
    studio = Studio(settings)
    run = studio.submit("sweep", world | {"grid": "0,1"}).id
    keep = "only a fine-tuning can stop early and keep its weights"
    assert keep in refused(capsys, "runs", "--stop-and-keep", str(run))
    assert main(["runs", "--pause", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "paused"
    sentence = refused(capsys, "runs", "--pause", str(run))
    assert "is of the kind sweep; only a fine-tuning can be paused once it runs. Cancel it instead" in sentence
    assert "not allowed with" in refused(capsys, "runs", "--pause", str(run), "--cancel", str(run))
    assert main(["runs", "--restart", str(run)]) == 0
    tuning = Database(settings.database)
    row = studio.run(run)
    fields = {"spec": row.spec, "recipe": row.recipe, "recipe_hash": "x", "name": "t", "owner": "cli", "kind": "tune"}
    running, done = (tuning.insert_run(**fields, status=status).id for status in ("running", "done"))
    for action, request in (("--pause", "pause"), ("--stop-and-keep", "keep")):
        assert main(["runs", action, str(running)]) == 0
        assert tuning.request(running) == request
    assert f"run {done} is done, not running. Ask while it runs." in refused(
        capsys, "runs", "--stop-and-keep", str(done)
    )
    tuning.close()
    studio.close()


# ------------------------------------------------------------------------------------ mistakes


def test_mistakes_in_the_words_of_a_command(world, capsys):
    assert "Did you mean" in refused(capsys, "sweep", *arguments(world), "--method", "linaer")
    assert refused(capsys, "sweep", "--tuned", "tuned").endswith("--help.")
    assert refused(capsys, "sweep", "--aligned", "aligned").startswith("error: tuned: nothing was given")
    assert refused(capsys, "swep")
    assert "preset" in refused(capsys, "sweep", *arguments(world), "--preset", "quik")
    assert "task" in refused(capsys, "sweep", *arguments(world), "--task", "cooking")
    assert "seed" in refused(capsys, "sweep", *arguments(world), "--seed", "-1")


def test_a_search_of_two_fine_tunes_is_refused_and_not_one_of_them_dropped(world, capsys):
    pair = ["--aligned", "aligned", "--tuned", "tuned", "--tuned", "lora"]
    assert refused(capsys, "search", *pair).startswith(
        "error: tuned: a search turns one fine-tuned model, 2 were given"
    )


@pytest.mark.parametrize("lam", ["1.6", "-0.6", "nan", "much"])
def test_a_lambda_outside_its_range_or_no_number(world, capsys, lam, tmp_path):
    pair = ["--aligned", "aligned", "--tuned", "tuned", f"--lambda={lam}", "--out", str(tmp_path / "out")]
    sentence = refused(capsys, "merge", *pair)
    assert "lam" in sentence
    assert lam in sentence
    assert "from -0.5 to 1.5" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("grid", ["0:2:3", "-1:1:3", "0:1:1", "a,b", "0:1", ",", "0:1:1000"])
def test_a_grid_that_is_none(world, capsys, grid):
    assert refused(capsys, "sweep", *arguments(world, grid=grid)).startswith("error: grid: got")


def test_checkpoints_that_are_not_there_or_not_to_be_opened(world, settings, capsys, tmp_path):
    assert "aligned" in refused(capsys, "inspect", "nothing-like-it")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "inspect", str(tmp_path / "empty"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(settings.models_root / "aligned" / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    assert "safetensors" in refused(capsys, "inspect", str(pickled))


def test_a_pair_that_does_not_fit(world, settings, capsys):
    tiny.folder(settings.models_root / "wide", "llama", hidden=64, tied=True)
    sentence = refused(capsys, "sweep", *arguments(world, tuned="wide"))
    assert "32" in sentence
    assert "64" in sentence


def test_a_suite_with_broken_rows_names_their_lines(world, capsys, tmp_path):
    path = tmp_path / "broken.jsonl"
    rows = [
        '{"suite": "x", "axis": "safety"}',
        '{"id": 1, "prompt": "ok"}',
        "not json",
        '{"id": 2}',
        '{"id": 1, "prompt": "b"}',
    ]
    path.write_text("\n".join(rows))
    sentence = refused(capsys, "sweep", *arguments(world, suites=str(path)))
    assert all(part in sentence for part in ("broken.jsonl", "line 3: not JSON", "line 4", "line 5"))


def test_a_home_that_cannot_be_written(world, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "file" / "home"))
    assert "Set STUDIO_HOME to a folder that you may write to" in refused(capsys, "runs")


def test_an_output_folder_that_is_taken(world, capsys, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    pair = ["--aligned", "aligned", "--tuned", "tuned", "--lambda", "0.5", "--out", str(tmp_path / "taken")]
    assert "not empty" in refused(capsys, "merge", *pair)


def test_a_bad_port_is_named(world, capsys, monkeypatch):
    monkeypatch.setenv("PORT", "eighty")
    assert refused(capsys, "runs").startswith("error: PORT: got 'eighty'")
