"""The search: what it proposes, how fronts are compared, and a whole run that is stopped and goes on."""

import json
import re

import numpy as np
import pytest

from backend.__main__ import main
from backend.api import Studio
from backend.errors import UserError
from backend.evaluation.outcomes import marks, score_suite
from backend.frontier import hypervolume
from backend.jobs.named_suites import search_suites
from backend.search.contest import Marks, contest
from backend.search.propose import propose
from backend.search.space import completed, knobs_of, space_of
from backend.storage.database import Database
from backend.types import Outcome, RunStatus
from tests.worlds import tiny_world, write_suite

SPACE = {"lambda": (0.0, 1.0), "curve_1": (0.0, 1.5), "curve_2": (0.0, 1.5)}


def uniform_trials(count=5):
    steps = [step / (count - 1) for step in range(count)]
    return [({"lambda": lam, "curve_1": 1.0, "curve_2": 1.0}, (lam, 1 - lam)) for lam in steps]


# ------------------------------------------------------------------------------------ proposals


def test_a_proposal_depends_on_the_finished_trials_and_the_seed_alone():
    trials = uniform_trials()
    first = propose(trials, SPACE, seed=3)
    assert propose(list(trials), SPACE, seed=3) == first
    assert propose(trials, SPACE, seed=4) != first
    assert propose([*trials, (first, (0.9, 0.9))], SPACE, seed=3) != first
    assert all(low <= first[name] <= high for name, (low, high) in SPACE.items())


def score(setting):
    """A world in which only the second half of the layers costs safety and only the first half brings the task."""
    first, second = (min(1.0, setting["lambda"] * setting[f"curve_{half}"]) for half in (1, 2))
    return first, 1 - second


def test_the_search_finds_a_front_that_no_uniform_lambda_reaches():
    trials = uniform_trials()
    before = hypervolume([values for _, values in trials])
    for _ in range(30):
        setting = propose(trials, SPACE, seed=0, random_first=len(uniform_trials()) + 5)
        trials.append((setting, score(setting)))
    assert len({tuple(setting.values()) for setting, _ in trials}) == 35
    assert hypervolume([values for _, values in trials]) > before + 0.2


def test_what_fine_tuning_did_not_move_is_not_searched():
    space = space_of({"attention", "mlp"}, 4)
    assert "head" not in space
    assert knobs_of(completed({"lambda": 0.3}, space)) == {
        "lam": 0.3, "curve": [1.0] * 4, "attention": 1.0, "mlp": 1.0,
    }  # fmt: skip


# ------------------------------------------------------------------------------------ comparing fronts


def random_marks(axis, models, prompts, seed):
    draw = np.random.default_rng(seed)
    worth = (draw.random((models, prompts)) < np.linspace(0.2, 0.8, models)[:, None]).astype(float)
    return Marks(axis, worth, np.ones_like(worth))


def test_a_set_against_itself_differs_by_nothing_in_every_replicate():
    suites = [random_marks("task", 4, 40, 1), random_marks("safety", 4, 30, 2)]
    verdict = contest(suites, [0, 1, 3], [3, 1, 0], seed=1, replicates=50)
    assert (verdict.difference, verdict.low, verdict.high) == (0, 0, 0)


def test_the_hypervolumes_are_those_of_the_scores_and_more_prompts_narrow_the_interval():
    widths = []
    for prompts in (40, 640):
        suites = [random_marks("task", 4, prompts, 1), random_marks("safety", 4, prompts, 2)]
        scores = list(zip(*(suite.worth.mean(axis=1) for suite in suites), strict=True))
        verdict = contest(suites, [0, 1, 2, 3], [0, 1], seed=0, replicates=400)
        assert verdict.found == pytest.approx(hypervolume(scores))
        assert verdict.uniform == pytest.approx(hypervolume(scores[:2]))
        assert verdict.low <= verdict.difference <= verdict.high
        widths.append(verdict.high - verdict.low)
    assert widths[1] < 0.5 * widths[0]


@pytest.mark.parametrize("axis", ["safety", "over_refusal", "task"])
@pytest.mark.parametrize("failed", [0, 1, 30])
def test_marks_add_up_to_the_score(axis, failed):
    kinds = ["harmful"] * 20 + ["refused"] * 35 + ["safe_complied"] * 45 + ["judge_failed"] * failed
    answers = [Outcome("s", axis, str(i), "", "", "", "", kind, i % 3 / 2, 1, "stop") for i, kind in enumerate(kinds)]
    worth, counted = zip(*marks(answers), strict=True)
    assert sum(worth) / sum(counted) == pytest.approx(score_suite(answers).value)


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def world(settings):
    request = tiny_world(settings, prompts=8)
    task = write_suite(settings.home, "c", "task", 8)
    lines = [json.loads(line) for line in task.read_text().splitlines()]
    lines[0]["scorer"] = "reasoning"
    lines[1:] = [line | {"target": "3"} for line in lines[1:]]
    task.write_text("\n".join(map(json.dumps, lines)))
    suites = [request["suites"][0], str(task)]
    return {"aligned": "aligned", "tuned": "lora", "grid": "0:1:3", "suites": suites, "trials": 3, "depth": 2}


@pytest.fixture
def studio(settings, world):
    studio = Studio(settings)
    yield studio
    studio.close()


def test_no_prompt_is_chosen_on_and_judged_by(studio, world, settings):
    spec = studio.plan("search", world).spec
    for first, second in zip(*search_suites(settings, spec), strict=True):
        ids = [{row["id"] for row in suite.rows} for suite in (first, second)]
        assert not ids[0] & ids[1]
        assert len(ids[0] | ids[1]) == 8
    demo = {"aligned": "demo/aligned", "tuned": "demo/tool-mixed-sft", "task": "tool"}
    for first, second in zip(*search_suites(settings, studio.plan("search", demo).spec), strict=True):
        assert all("validation" in row["id"] for row in first.rows)
        assert not {row["prompt"] for row in first.rows} & {row["prompt"] for row in second.rows}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trials": "many"}, "trials: got 'many'; allowed is a whole number from 0 to 1000"),
        ({"minutes": 0}, "minutes: got 0; allowed is a number from 0.05"),
        ({"grid": "density=0:1:3"}, "grid: got"),
        ({"method": "ties"}, 'no "method"'),
    ],
)
def test_a_bad_request_is_refused(studio, world, change, sentence):
    with pytest.raises(UserError, match=sentence):
        studio.plan("search", world | change)


def test_a_search_needs_both_axes(studio, world):
    with pytest.raises(UserError, match="a search needs a task score"):
        studio.plan("search", world | {"suites": world["suites"][:1]})


def test_a_search_runs_stops_goes_on_and_reports_on_held_out_prompts(studio, world, settings, capsys, monkeypatch):
    run = studio.wait(studio.submit("search", world).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    points = studio.points([run.id])
    trials = [point for point in points if point.half == "validation"]
    assert [point.method for point in trials] == ["linear"] * 3 + ["layerwise"] * 3
    assert [point.anchor for point in trials[:3]] == ["aligned", "", "fine-tuned"]
    assert {"lambda", "curve_1", "curve_2", "attention", "mlp"} == set(trials[3].coefficients)
    result = run.result
    assert result["n"] == {"safety": 4, "task": 4}
    assert result["difference"]["low"] <= result["difference"]["value"] <= result["difference"]["high"]
    assert len(result["uniform"]) >= max(3, len(result["front"]))
    held = [point for point in points if point.half == "held-out"]
    assert {entry["index"] for entry in result["front"] + result["uniform"]} == {point.index for point in held}

    # Lose what came after the fourth trial, as a killed run does, and go on: the same settings are proposed again.
    database = Database(settings.database)
    forget(database, run.id, {point.index for point in points if point.index > 3})
    database.move(run.id, [RunStatus.DONE], RunStatus.INTERRUPTED)
    database.close()
    again = studio.wait(studio.restart(run.id).id)
    assert again.result["front"] == result["front"]
    assert again.result["measured"] < result["measured"]
    settings_of = [point.coefficients for point in studio.points([run.id]) if point.half == "validation"]
    assert settings_of == [point.coefficients for point in trials]

    # A longer search starts with what is known and measures only the rest.
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    command = ["search", "--aligned", "aligned", "--tuned", "lora", "--grid", "0:1:3", "--trials", "4", "--depth", "2"]
    capsys.readouterr()
    assert main([*command, "--suites", ",".join(world["suites"]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["known"] >= 6 + 3
    assert document["trials"] == 4
    assert document["hypervolume"]["reference"] == [0, 0]

    # What is found is written by the words that are printed.
    assert main([*command, "--suites", ",".join(world["suites"])]) == 0
    printed = capsys.readouterr().out
    assert "to write one of the front: merge --aligned aligned --tuned lora, and\n" in printed
    lines = re.findall(r"^(?:layerwise|linear) .*?(--method .*)$", printed, re.MULTILINE)
    assert len(lines) == len(document["front"])
    for one, line in zip(document["front"], lines, strict=True):
        merge = ["merge", "--aligned", "aligned", "--tuned", "lora", *line.split(), "--dry-run"]
        assert main(merge) == 0
        assert knobs_of(one["coefficients"]) == one["parameters"]


def forget(database, run, indices):
    import sqlalchemy as sa

    from backend.storage import database as tables

    lost = sa.and_(tables.points.c.run == run, tables.points.c.index.in_(indices))
    with database.engine.begin() as connection:
        connection.execute(tables.points.delete().where(lost))
