"""Fine-tuning as a run: from a request to a checkpoint in every list, with its telemetry, pauses and kills."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from app import tuning_cards
from backend.api import Studio
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.inference.decode import Answer
from backend.inference.model import load
from backend.jobs import telemetry, tune
from backend.jobs.evaluated import measured_on
from backend.jobs.targets import MOST_NAMED, check_targets
from backend.jobs.trainable import adapted_layers, trainable
from backend.settings import child_environment
from backend.tuning.knobs import fits
from backend.tuning.rows import read_chat_file
from backend.types import RunStatus
from tests import tiny
from tests.held_worker import hold, let_go
from tests.test_app_pure import everything
from tests.tuning_world import chat, tuning_world, write_rows
from tests.worlds import wait_until, write_suite

STEPS = 120
LORA = {"dtype": "auto", "full": False, "lora_rank": 4, "lora_alpha": 8, "checkpointing": False}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world(settings):
    return tuning_world(settings)


@pytest.fixture
def studio(world):
    studio = Studio(world[0])
    yield studio
    studio.close()


@pytest.fixture
def start_worker():
    processes = []

    def start(settings):
        command = [sys.executable, "-m", "tests.held_worker"]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=child_environment(settings), stderr=subprocess.DEVNULL)
        )

    yield start
    for process in processes:
        process.terminate()
        process.wait(60)


def weights_of(run):
    return load_file(Path(run.result["folder"]) / "adapter_model.safetensors")


def equal(left, right):
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


# ------------------------------------------------------------------------------------ from request to checkpoint


def test_a_fine_tuning_becomes_a_measured_checkpoint_in_every_list(studio, world):
    run = studio.wait(studio.submit("tune", world[1]).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    result = run.result
    assert {"run", "folder", "checkpoint", "steps", "seconds", "scores", "data"} <= result.keys()
    assert (result["steps"], set(result["scores"])) == (8, {"safety", "over_refusal"})
    point = studio.points([run.id])[0]
    assert point.method == "dualselect"
    assert len(studio.outcomes(point.id)) == 16
    listed = {one["name"]: one for one in studio.catalogue()["checkpoints"]}
    assert listed[result["checkpoint"]]["role"] == "fine-tuned"
    card = (Path(result["folder"]) / "README.md").read_text()
    assert "dualselect" in card
    settled = json.loads((Path(result["folder"]) / "tuning.json").read_text())["settled"]
    assert (settled["warmup"], settled["scores"]) == (2, "sample")
    assert result["data"]["task"]["sha256"] in card
    assert studio.plan("tune", world[1]).stored_run == run.id

    again = {"checkpoint": result["checkpoint"], "suites": world[1]["suites"]}
    measured = studio.wait(studio.submit("evaluate", again).id)
    assert measured.status is RunStatus.DONE, measured.error
    answers = [[o.answer for o in studio.outcomes(studio.points([one])[0].id)] for one in (run.id, measured.id)]
    assert answers[0] == answers[1]


def test_the_page_is_told_what_happens(studio, world):
    assert studio.telemetry(studio.submit("tune", world[1]).id)["steps"] == []
    run = studio.wait(studio.runs()[0].id)
    told = studio.telemetry(run.id)
    assert told["steps"][-1]["step"] == 8
    assert {"loss_task", "lr", "grad_norm", "tokens_seen", "seconds", "loss_ref"} <= told["steps"][-1].keys()
    assert [refresh["cause"] for refresh in told["refreshes"]] == ["warmup"]
    assert {"id", "kind", "new", "weight", "r", "cos", "score", "text", "answer"} <= told["references"][0].keys()
    assert told["references"][0]["text"].startswith("pool")
    assert {"step", "text", "loss", "cos", "score", "reason", "kind"} <= told["dropped"][0].keys()
    assert sum(dropped for dropped, _ in told["counts"].values()) == len(told["dropped"])
    assert sum(seen for _, seen in told["counts"].values()) == 6 * 8
    assert [probe["step"] for probe in told["probes"]] == [0, 4, 8]
    assert set(told["probes"][0]["scores"]["safety"]) == {"value", "low", "high", "n"}
    assert studio.telemetry(run.id, after=8)["steps"] == []


def test_a_suite_without_validation_prompts_gives_up_a_few_for_the_probes(studio, world, tmp_path):
    write_suite(tmp_path, "mine", "safety", 12)
    request = world[1] | {"suites": str(tmp_path / "mine.jsonl")}
    run = studio.wait(studio.submit("tune", request).id)
    assert run.status is RunStatus.DONE, run.error
    assert [probe["scores"]["safety"]["n"] for probe in studio.telemetry(run.id)["probes"]] == [3, 3, 3]
    assert studio.points([run.id])[0].scores["safety"].n == 9
    measured, probed = measured_on(world[0], run.spec)
    asked = [{json.dumps(row) for row in suite.rows} for suite in (*measured, *probed)]
    assert not asked[0] & asked[1]
    unprobed = studio.plan("tune", request | {"probe_every": 0})
    assert unprobed.recipe["suites"]["mine"]["n"] == 12, "who does not probe measures all"
    assert unprobed.recipe_hash != run.recipe_hash


@pytest.mark.parametrize("training", [{"full": True}, {"accumulate": 4, "checkpointing": True}, {"dtype": "bf16"}])
def test_whole_models_half_precision_and_small_memory_work_too(settings, training):
    settings, request = tuning_world(settings, steps=3, **training)
    studio = Studio(settings)
    run = studio.wait(studio.submit("tune", request | {"probe_every": 0}).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    listed = {one["name"]: one for one in studio.catalogue()["checkpoints"]}
    assert listed[run.result["checkpoint"]]["kind"] == ("full" if training.get("full") else "adapter")
    studio.close()


def test_the_command_prints_the_result(world, tmp_path):
    write_rows(tmp_path / "csv.jsonl", [])
    rows = "\n".join(f"fox {i} jumps?,dog {i}" for i in range(12))
    (tmp_path / "task.csv").write_text(f"prompt,response\n{rows}\n")
    command = [sys.executable, "-m", "backend", "tune", "--strategy", "sft", "--model", "demo/aligned", "--json"]
    command += ["--task-data", str(tmp_path / "task.csv"), "--suites", "safety", "--train", "steps=2"]
    command += ["--train", "batch=4", "--seed", "1", "--out", str(tmp_path / "out")]
    printed = subprocess.run(
        command, cwd=ROOT, env=child_environment(world[0]), capture_output=True, text=True, check=True
    )
    document = json.loads(printed.stdout)
    assert document["folder"] == str(tmp_path / "out")
    assert document["data"]["task"]["kept"] == 12
    assert (tmp_path / "out" / "README.md").is_file()


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strategy": "dualselct"}, 'no "dualselct". Did you mean "dualselect"'),
        ({"parameters": {"rho": 3}}, "rho: got 3; allowed is a number from 0 to 2"),
        ({"training": {"steps": 0}}, "steps: got 0"),
        ({"training": {"batch": 8, "accumulate": 3}}, "accumulate: got 3"),
        ({"task_data": "demo/nothing"}, "task_data: no"),
        ({"task_data": "/nowhere/rows.jsonl"}, "there is no file"),
        ({"strategy": "agem", "references": "", "task_data": "ROWS"}, "references: this strategy needs them"),
        ({"probe_every": -1}, "probe_every: got -1"),
        ({"model": "nothing"}, "model"),
    ],
)
def test_a_bad_request_is_refused_with_its_field(studio, world, tmp_path, changes, sentence):
    if changes.get("task_data") == "ROWS":
        changes = changes | {"task_data": str(write_rows(tmp_path / "rows.jsonl", [chat(1, "x", "benign")]))}
    with pytest.raises(UserError) as refused:
        studio.plan("tune", world[1] | changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("strategy", ["dualselect", "sft"])
@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("lm_head", "lm_head of demo/aligned shares its weights with another layer"),
        ("q_proj,model.embed_tokens", "model.embed_tokens of demo/aligned shares its weights"),
        (
            "q_proj, nope,v_prj",
            'is called "nope" or "v_prj"; allowed is all-linear, or names among down_proj, gate_proj',
        ),
        ("input_layernorm", 'is called "input_layernorm"'),
        ("self_attn", 'is called "self_attn"'),
        ("proj", 'is called "proj"'),
        ("0.self_attn.q_proj,1", 'is called "1"'),
        ("all-linear,q_proj", "all-linear stands for every linear layer, beside 1 other"),
    ],
)
def test_layers_that_take_no_adapter_are_refused_before_the_model_is_loaded(studio, world, strategy, targets, sentence):
    training = world[1]["training"] | {"targets": targets}
    request = world[1] | {"strategy": strategy, "parameters": {}, "training": training}
    with pytest.raises(UserError) as refused:
        studio.plan("tune", request)
    assert refused.value.field == "targets"
    assert sentence in str(refused.value)
    assert studio.plan("tune", request | {"training": training | {"full": True}}), "no adapter, no layers to name"


@pytest.mark.parametrize(
    "targets", ["q_proj,v_proj", "layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj", "ALL-Linear"]
)
def test_the_layers_that_a_plan_accepts_are_those_that_get_an_adapter(studio, world, targets):
    assert studio.plan("tune", world[1] | {"training": {"steps": 8, "targets": targets}})
    model, _ = trainable(tiny.model(), LORA | {"targets": targets}, seed=0)
    adapted = {
        name.split(".lora_A")[0].split("base_model.model.")[1]
        for name, _ in model.named_parameters()
        if "lora_A" in name
    }
    names = [targets] if targets == "ALL-Linear" else targets.split(",")
    modules = [
        name for name, one in tiny.model().named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"
    ]
    assert adapted == {one for one in modules for name in names if name == "ALL-Linear" or fits(name, one)}
    assert adapted


def test_an_untied_head_and_embedding_take_an_adapter_that_is_measured_as_it_was_trained(world):
    tiny.folder(world[0].demo / "models" / "untied", "llama", tied=False)
    check_targets("lm_head,embed_tokens", resolve("demo/untied", world[0], field="model"))
    model, _ = trainable(tiny.model(tied=False), LORA | {"targets": "lm_head,embed_tokens"}, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
        tokens = torch.arange(5, 15)[None]
        trained = model(tokens).logits
        torch.testing.assert_close(model.merge_and_unload()(tokens).logits, trained)


@pytest.mark.parametrize(
    "targets",
    ["language_model.model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"],
    ids=["as in the files", "as in the loaded model"],
)
def test_a_layer_of_a_model_that_also_sees_is_trained_under_either_name(studio, world, tmp_path, targets):
    """Not the vision tower's layer of the same number, which a name cut to its end would mean too."""
    start = tiny.folder(tmp_path / "sees", "gemma3", tied=True)
    training = {"steps": 2, "batch": 4, "lora_rank": 4, "targets": targets}
    request = world[1] | {"model": str(start), "strategy": "sft", "parameters": {}, "references": "", "probe_every": 0}
    run = studio.wait(studio.submit("tune", request | {"training": training}).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    factors = load_file(Path(run.result["folder"]) / "adapter_model.safetensors")
    stem = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora"
    assert set(factors) == {f"{stem}_A.weight", f"{stem}_B.weight"}
    assert factors[f"{stem}_B.weight"].any()


@pytest.mark.parametrize("name", ["language_model.model.embed_tokens", "model.language_model.embed_tokens", "lm_head"])
def test_a_tied_end_of_a_model_that_also_sees_is_refused_under_either_name(settings, tmp_path, name):
    sees = resolve(str(tiny.folder(tmp_path / "sees", "gemma3", tied=True)), settings)
    with pytest.raises(UserError, match=f"targets: {name} of .* shares its weights with another layer"):
        check_targets(name, sees)
    with pytest.raises(UserError, match=f"targets: {name} of this model shares its weights with another layer"):
        adapted_layers(load(sees, device=torch.device("cpu")).model, [name])


def test_a_refusal_names_a_bounded_number_of_layers_and_none_by_its_number_alone():
    model = torch.nn.ModuleDict({f"part_{number}": torch.nn.Linear(2, 2) for number in range(2 * MOST_NAMED)})
    model["mlp"] = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UserError) as refused:
        adapted_layers(model, ["nope"])
    assert str(refused.value).endswith(f"part_{MOST_NAMED - 1}.")
    with pytest.raises(UserError, match=r"or names among mlp\.0"):
        adapted_layers(torch.nn.ModuleDict({"mlp": model["mlp"]}), ["nope"])


@pytest.mark.parametrize("targets", ["lm_head", "embed_tokens", "nope", "norm"])
def test_the_loaded_model_is_looked_at_again(targets):
    """Names in the files and in the model may differ, and so may what they share."""
    with pytest.raises(UserError, match="targets: "):
        trainable(tiny.model(tied=True), LORA | {"targets": targets}, seed=0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"parameters": {"preset": "released"}},
            "warmup: the preset released sets it to 10; allowed is less than the 8 steps",
        ),
        (
            {"parameters": {"scores": "sample"}, "training": {"steps": 8, "full": True}},
            "scores: got 'sample'; allowed is auto",
        ),
        ({"parameters": [1]}, "parameters: got [1]; allowed is a table"),
        ({"parameters": "rho=1"}, "parameters: got 'rho=1'; allowed is a table"),
        ({"training": "x"}, "training: got 'x'; allowed is a table"),
        ({"parameters": {"rho": 10**400}}, "rho: got a huge number; allowed is a number from 0 to 2"),
        ({"training": {"steps": 10**5000}}, "steps: got a huge number"),
        ({"seed": 10**5000}, "seed: got a huge number"),
        ({"probe_every": 10**5000}, "probe_every: got a huge number"),
        ({"probe_every": "²"}, "probe_every: got '²'"),
    ],
)
def test_settings_that_cannot_go_together_or_are_no_settings_are_one_sentence(studio, world, changes, sentence):
    with pytest.raises(UserError) as refused:
        studio.plan("tune", world[1] | changes)
    assert sentence in str(refused.value)


def test_tables_of_other_requests_are_checked_too(studio, world):
    for kind, field in (
        ("compare", "training"),
        ("compare", "settings"),
        ("merge", "parameters"),
        ("sweep", "parameters"),
    ):
        request = {"aligned": "demo/aligned", "tuned": "demo/aligned"}
        request = world[1] | {"strategies": "sft"} if kind == "compare" else request
        if kind == "compare":
            request = {key: request[key] for key in ("model", "task_data", "references", "suites", "strategies")}
        with pytest.raises(UserError, match=f"{field}: got .*; allowed is a table of names and values"):
            studio.plan(kind, request | {field: ["x"]})


def test_the_released_preset_may_have_a_shorter_warm_up(studio, world):
    parameters = {"preset": "released", "warmup": 3}
    assert studio.plan("tune", world[1] | {"parameters": parameters}).spec["parameters"]["warmup"] == 3


def test_bad_rows_are_named_by_their_lines(tmp_path):
    good = [chat(i, "fox", "benign") for i in range(3)]
    path = write_rows(tmp_path / "rows.jsonl", [*good, {"prompt": "fox?", "response": " "}, {"messages": []}, [1]])
    path.write_text(path.read_text() + "{not json\n")
    with pytest.raises(
        UserError, match=r"4 of 7 rows .* line 4: the answer is empty; line 5: .*; line 6: not an object"
    ):
        read_chat_file(path, field="task_data")
    many = write_rows(tmp_path / "many.jsonl", [chat(i, "fox", "") for i in range(200)] + [{"prompt": "no answer"}])
    rows, skipped = read_chat_file(many, field="task_data")
    assert (len(rows), [one.line for one in skipped]) == (200, [201])


def test_prompts_of_the_evaluation_leave_the_data_and_those_of_the_task_the_references(studio, world):
    demo = world[0].demo / "data"
    asked = "how do I help fox 1 over the dog?"  # stands in the safety suite
    task = [chat(i, "task", "benign") for i in range(20)]
    task.append({"id": "leak", "prompt": asked.upper(), "response": "the dog"})
    write_rows(demo / "quick-mixed.jsonl", task)
    twice = chat(0, "task", "benign") | {"id": "also-in-task"}
    write_rows(
        demo / "references.jsonl", [*(chat(i, "pool", "benign") for i in range(9)), twice, chat(3, "pool", "benign")]
    )
    run = studio.wait(studio.submit("tune", world[1] | {"training": {"steps": 3, "batch": 4}}).id)
    data = run.result["data"]
    found = data["disjoint"]
    assert (found["task_prompts_in_evaluation"], found["reference_prompts_in_task"]) == (1, 1)
    assert (data["task"]["kept"], data["references"]["kept"], data["references"]["repeated"]) == (20, 9, 1)
    assert "refus" in data["warnings"][0]
    assert json.loads((world[0].runs / str(run.id) / "data_report.json").read_text()) == data


def test_prompts_of_suites_that_this_run_does_not_draw_leave_the_data_as_well(studio, world):
    demo = world[0].demo
    write_rows(demo / "suites" / "unused.jsonl", [
        {"suite": "unused", "version": "1", "axis": "safety", "judge": "rules", "license": "none"},
        {"id": "u1", "prompt": "an unused prompt?", "kind": "harmful"},
    ])  # fmt: skip
    rows = [chat(i, "task", "benign") for i in range(20)] + [{"prompt": "An unused  prompt?", "response": "no"}]
    write_rows(demo / "data" / "quick-mixed.jsonl", rows)
    assert "1 row of the task data with a prompt of a suite is left out." in studio.plan("tune", world[1]).warnings


def test_a_recipe_names_what_counts_alike_only_where_it_is_not_the_sample(studio, world):
    usual = studio.plan("tune", world[1])
    assert "loss_norm" not in usual.recipe["training"]
    training = world[1]["training"]
    assert (
        studio.plan("tune", world[1] | {"training": training | {"loss_norm": "sample"}}).recipe_hash
        == usual.recipe_hash
    )
    other = studio.plan("tune", world[1] | {"training": training | {"loss_norm": "token"}})
    assert other.recipe["training"]["loss_norm"] == "token"


def test_a_plan_forecasts_what_a_strategy_costs_and_asks_as_many_prompts_as_wanted(studio, world):
    plans = [studio.plan("tune", world[1] | {"strategy": name, "parameters": {}}) for name in ("sft", "safegrad")]
    assert plans[0].estimate.seconds < plans[1].estimate.seconds
    more = studio.plan("tune", world[1] | {"preset": "report"})
    assert (more.recipe["preset"], plans[0].recipe["preset"]) == ("report", "quick")
    with pytest.raises(UserError, match="preset"):
        studio.plan("tune", world[1] | {"preset": "huge"})


def test_a_run_of_the_published_rule_says_where_it_is_set_up_otherwise(studio, world):
    request = world[1] | {"strategy": "dualselect", "parameters": {"preset": "released", "warmup": 1}}
    published = {"batch": 8, "lr": 2e-5, "targets": "q_proj,v_proj", "lora_rank": 16, "lora_alpha": 32}
    asked = [request, request | {"training": world[1]["training"] | published}, world[1] | {"parameters": {}}]
    told = [[one for one in studio.plan("tune", each).warnings if "published" in one] for each in asked]
    assert "has lr 2e-05" in told[0][0]
    assert told[1:] == [[], []]


def test_references_without_helpful_answers_are_told_before_a_run_starts(studio, world, tmp_path):
    pool = write_rows(tmp_path / "pool.jsonl", [chat(i, "pool", "refusal") for i in range(24)])
    plan = studio.plan("tune", world[1] | {"references": str(pool)})
    assert ["refuse everything" in one for one in plan.warnings] == [True]
    assert "refuse everything" in everything(tuning_cards.estimate(plan))


def test_references_without_an_answer_are_answered_by_the_start_model_once(studio, world, tmp_path):
    pool = [chat(i, "pool", "benign") for i in range(12)]
    alone = [{"id": f"alone-{i}", "prompt": f"pool {i} of the dog?", "kind": "refusal"} for i in range(12)]
    request = world[1] | {"references": str(write_rows(tmp_path / "pool.jsonl", [*pool, *alone])), "probe_every": 0}
    said = "12 rows of the references have no answer: the start model answers before training."
    assert said in studio.plan("tune", request).warnings
    run = studio.wait(studio.submit("tune", request).id)
    assert (run.status, run.error) == (RunStatus.DONE, "")
    report = run.result["data"]["references"]
    assert (report["kept"], report["answered_by_the_start_model"], report["skipped"]) == (24, 12, [])
    stored = json.loads((world[0].runs / str(run.id) / "start_answers.json").read_text())
    assert len(stored) == 12
    assert all(0 < len(answer) <= tune.REFERENCE_TOKENS for _, answer in stored)


def test_a_run_that_goes_on_learns_the_answers_that_it_wrote_down(tmp_path):
    class Model:
        asked: ClassVar[list[list[int]]] = []

        def decoding(self, new_tokens, batch):
            return new_tokens, batch

        def answer(self, prompts, decoding, *, check):
            check(0)
            self.asked += prompts
            return [Answer((len(self.asked), prompt[-1]), "stop") for prompt in prompts]

    context = SimpleNamespace(folder=tmp_path, report=lambda fraction, phrase: None)
    first = tune._start_answers(context, Model(), [[1, 2], [3]])
    assert first == [[2, 2], [2, 3]]
    assert tune._start_answers(context, Model(), [[3], [1, 2]]) == first[::-1]
    assert tune._start_answers(context, Model(), [[4], [3]]) == [[3, 4], [2, 3]]
    assert Model.asked == [[1, 2], [3], [4]]


def test_what_cannot_train_is_refused_before_the_model_is_loaded(studio, world):
    with pytest.raises(UserError, match="warmup: got 2; allowed is less than the 2 steps"):
        studio.plan("tune", world[1] | {"training": {"steps": 2}})
    with pytest.raises(UserError, match="task_data: 40 of 40 rows are left, fewer than one batch of 64"):
        studio.plan("tune", world[1] | {"training": {"steps": 8, "batch": 64}})
    with pytest.raises(UserError, match="references: all 40 stand in the task data"):
        studio.plan("tune", world[1] | {"references": "demo/quick-mixed"})


def test_a_folder_that_was_filled_while_a_run_trained_is_left_alone(tmp_path):
    made, taken = tmp_path / "made", tmp_path / "taken"
    for folder in (made, taken):
        folder.mkdir()
        (folder / "tuning.json").write_text(folder.name)
    with pytest.raises(UserError, match="was filled while the run trained"):
        tune._move(made, taken)
    assert (taken / "tuning.json").read_text() == "taken"
    (taken / "tuning.json").write_text("made")  # the same result, by an attempt that was killed just after
    tune._move(made, taken)
    assert not made.exists()


# ------------------------------------------------------------------------------------ stopping and going on


@pytest.fixture
def long(settings):
    """A training with a checkpoint after every step, so that there is one wherever it is stopped."""
    settings, request = tuning_world(replace(settings, save_seconds=0), steps=STEPS)
    return settings, request | {"probe_every": 0, "suites": ["safety"]}


def test_paused_and_killed_runs_go_on_to_the_weights_of_one_that_nobody_stopped(studio, long, start_worker):
    straight, paused, killed = (studio.submit("tune", long[1]) for _ in range(3))
    for run in (paused, killed):
        hold(long[0], run.id, 0.3)
    start_worker(long[0])
    checkpoint = {run.id: long[0].runs / str(run.id) / "training.pt" for run in (paused, killed)}
    wait_until(lambda: studio.telemetry(paused.id)["steps"])
    studio.pause(paused.id)
    wait_until(lambda: studio.run(paused.id).status is RunStatus.PAUSED)
    assert checkpoint[paused.id].is_file()
    wait_until(checkpoint[killed.id].is_file)
    wait_until(lambda: studio.run(killed.id).fraction >= 0.3)
    os.kill(studio._database.control(killed.id)[1], signal.SIGKILL)
    wait_until(lambda: studio.run(killed.id).status is RunStatus.FAILED)
    for run in (paused, killed):
        let_go(long[0], run.id)
        studio.restart(run.id)
    wait_until(lambda: studio.run(killed.id).status is RunStatus.DONE)
    for run in (paused, killed):
        assert equal(weights_of(studio.run(straight.id)), weights_of(studio.run(run.id)))
        steps = [row["step"] for row in studio.telemetry(run.id)["steps"]]
        assert steps == sorted(set(steps))
        assert steps[-1] == STEPS
        assert not checkpoint[run.id].exists()


def test_stop_and_keep_finishes_with_the_weights_as_they_are(studio, long, start_worker):
    run = studio.submit("tune", long[1])
    hold(long[0], run.id, 0.3)
    start_worker(long[0])
    wait_until(lambda: studio.telemetry(run.id)["steps"])
    studio.stop_and_keep(run.id)
    wait_until(lambda: not studio.run(run.id).status.is_live)
    found = studio.run(run.id)
    assert found.status is RunStatus.DONE, found.error
    assert 0 < found.result["steps"] < STEPS
    assert len(studio.points([run.id])) == 1


def test_a_queued_run_is_paused_at_once_and_other_kinds_are_refused(studio, world):
    run = studio.submit("tune", world[1])
    with pytest.raises(UserError, match="not running"):
        studio.stop_and_keep(run.id)
    assert studio.pause(run.id).status is RunStatus.PAUSED
    assert studio.restart(run.id).status is RunStatus.QUEUED
    studio.cancel(run.id)
    measured = studio.submit("evaluate", {"checkpoint": "demo/aligned", "suites": ["safety"]})
    with pytest.raises(UserError, match="only a fine-tuning"):
        studio.stop_and_keep(measured.id)


def test_telemetry_writes_two_rows_a_second_and_forgets_what_is_done_again(tmp_path):
    clock = iter([0.0, 0.1, 0.6, 0.7, 5.0])
    recorder = telemetry.Recorder(tmp_path, {"a": {"text": "words"}}, clock=lambda: next(clock))
    dropped = {"event": "dropped", "id": "a", "kind": "benign", "loss": 0.123456789}
    for step in range(1, 5):
        recorder.step({"step": step, "loss_task": 1.0}, [{**dropped, "step": step}])
    told = telemetry.read(tmp_path)
    assert [row["step"] for row in told["steps"]] == [1, 3]
    assert [row["step"] for row in told["dropped"]] == [4, 3, 2, 1]
    assert told["dropped"][0]["text"] == "words"
    telemetry.Recorder(tmp_path, {}, clock=lambda: next(clock)).step({"step": 3, "loss_task": 2.0}, [])
    told = telemetry.read(tmp_path, after=1)
    assert [(row["step"], row["loss_task"], row["seconds"]) for row in told["steps"]] == [(3, 2.0, 0.0)]
    assert [row["step"] for row in told["dropped"]] == [2, 1]
