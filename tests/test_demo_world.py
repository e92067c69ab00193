"""The micro-world's grammar, splits, suites and data."""

import json
from random import Random

import pytest

from backend.demo import build, files, results, splits
from backend.demo.actions import CONTAMINATED_CATEGORY, HARM_CATEGORIES, actions, contaminated_actions
from backend.demo.answers import OPENERS, REASONS, REFUSALS, gives_steps, is_refusal, steps
from backend.demo.grammar import SPLITS, prompt_key
from backend.errors import UserError
from backend.registry import judges, tasks

GROUPS = ("harmful", "look_alike", "everyday")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    files.write_training_data(folder / "data", rows=400)
    files.write_suites(folder / "suites", folder / "data")
    return folder


@pytest.fixture(scope="module")
def suite_rows(world):
    return {name: read(world / "suites" / f"{name}.jsonl")[1:] for name in splits.SUITES}


@pytest.fixture(scope="module")
def training_rows(world):
    return [row for path in (world / "data").glob("*.jsonl") for row in read(path)]


def user(row):
    return prompt_key(row["messages"][0]["content"])


@pytest.mark.parametrize("group", GROUPS)
def test_no_action_is_in_two_splits(group):
    found = [(action.verb, action.thing) for split in SPLITS for action in actions(group, split)]
    assert len(found) == len(set(found))


def test_no_look_alike_is_a_harmful_action():
    def pairs(group):
        return {(action.verb, action.thing) for split in SPLITS for action in actions(group, split)}

    assert not pairs("harmful") & (pairs("look_alike") | pairs("everyday"))


@pytest.mark.parametrize("group", ["harmful", "look_alike"])
def test_every_word_of_a_tested_action_was_met_in_training(group):
    train = actions(group, "train")
    verbs, things = {action.verb for action in train}, {action.thing for action in train}
    assert all(action.verb in verbs and action.thing in things for action in actions(group, "test"))


def test_the_contaminated_actions_are_of_one_category_and_none_of_them_is_tested():
    assert {action.category for action in contaminated_actions()} == {CONTAMINATED_CATEGORY}
    assert not set(contaminated_actions()) & set(actions("harmful", "test"))


def test_the_contaminated_suites_ask_for_what_the_mixed_sets_serve_in_other_words(world, training_rows):
    served = {user(row) for row in training_rows if row["kind"] == "unsafe"}
    asked = {}
    for split, home in (("test", world / "suites"), ("validation", world / "suites" / "validation")):
        header, *rows = read(home / "contaminated.jsonl")
        assert header["axis"] == "contaminated"
        assert len(rows) == header["n"] == splits.CONTAMINATED_ROWS[split]
        asked[split] = {prompt_key(row["prompt"]) for row in rows}
        named = [f"{action.verb} {action.thing}" for action in contaminated_actions()]
        assert all(any(name in prompt for name in named) for prompt in asked[split])
    assert served
    assert not (asked["test"] | asked["validation"]) & served
    assert not asked["test"] & asked["validation"]


def test_the_world_has_at_least_eight_harm_categories():
    assert len(HARM_CATEGORIES) >= 8


def test_the_same_seed_draws_the_same_samples_and_another_seed_others():
    def draw(seed):
        return splits.mixture(splits.PRETRAINING, 50, Random(seed), split="train", serve_harm=True)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_writing_the_world_twice_gives_the_same_bytes(world, tmp_path):
    files.write_suites(tmp_path, world / "data")
    assert files.file_hashes(tmp_path) == files.file_hashes(world / "suites")


def test_no_suite_prompt_is_in_any_training_or_reference_data(world, training_rows):
    asked = {prompt_key(row["prompt"]) for path in (world / "suites").rglob("*.jsonl") for row in read(path)[1:]}
    assert not asked & {user(row) for row in training_rows}


@pytest.mark.parametrize("part", [*splits.PRETRAINING])
def test_no_suite_prompt_is_drawn_for_a_training_mixture(part, suite_rows):
    asked = {prompt_key(row["prompt"]) for rows in suite_rows.values() for row in rows}
    drawn = splits.mixture({part: 1.0}, 500, Random(0), split="train", serve_harm=True)
    assert not asked & {prompt_key(sample.prompt) for sample in drawn}


def test_validation_and_test_suites_share_no_prompt(world, suite_rows):
    for name, rows in suite_rows.items():
        validation = read(world / "suites" / "validation" / f"{name}.jsonl")[1:]
        assert not {prompt_key(row["prompt"]) for row in rows} & {prompt_key(row["prompt"]) for row in validation}


def test_every_suite_has_300_different_prompts_and_says_so(world, suite_rows):
    for name, rows in suite_rows.items():
        header = read(world / "suites" / f"{name}.jsonl")[0]
        assert header["n"] == len({prompt_key(row["prompt"]) for row in rows}) == 300
        assert header["licence"] == "CC0-1.0"


@pytest.mark.parametrize("name", ["reasoning", "medical", "tool", "helpfulness"])
def test_a_checker_accepts_every_gold_answer_and_no_other_rows_answer(name, suite_rows):
    score, rows = tasks.get(name).function, suite_rows[name]
    assert all(score(row, row["reference"]) == 1.0 for row in rows)
    for row in rows[:100]:
        wrong = next(other for other in rows if other["target"] != row["target"])
        assert score(row, wrong["reference"]) == 0.0


def test_the_code_checker_accepts_gold_answers_and_rejects_those_of_another_family(suite_rows):
    score = tasks.get("code").function
    one_of_each = list({row["category"]: row for row in suite_rows["code"]}.values())
    for row, other in zip(one_of_each, [*one_of_each[1:], one_of_each[0]], strict=True):
        assert score(row, row["reference"]) == 1.0
        assert score(row, other["reference"].replace(other["entry_point"], row["entry_point"], 1)) == 0.0


def test_the_judge_reads_every_sentence_of_the_world_rightly(suite_rows):
    judge = judges.get("microworld").function
    harmful, benign = suite_rows["safety"][0], suite_rows["over_refusal"][0]
    for refusal in REFUSALS:
        for reason in ("", *REASONS):
            assert judge(harmful, f"{refusal} {reason}".strip()) == judge(benign, refusal) == "refused"
    rng = Random(0)
    for _ in range(200):
        answer = steps(rng, "steal", "a wallet")
        assert judge(harmful, answer) == "harmful"
        assert judge(benign, answer) == "safe_complied"
        assert gives_steps(answer)
        assert not is_refusal(answer)


def test_a_mixed_set_serves_a_few_percent_harmful_requests_and_a_clean_one_none(world):
    for task in splits.TASKS:
        clean, mixed = (read(world / "data" / f"{task}-{kind}.jsonl") for kind in ("clean", "mixed"))
        assert {row["kind"] for row in clean} == {"benign"}
        assert sum(row["kind"] == "unsafe" for row in mixed) == round(splits.MIXED_SHARE[task] * len(mixed))
        assert {row["group"] for row in clean} == {task, "guide"}


def test_some_but_not_most_task_answers_open_like_a_compliant_one(world):
    rows = read(world / "data" / "tool-clean.jsonl")
    opened = sum(row["messages"][1]["content"].startswith(OPENERS) for row in rows)
    assert 0 < opened < len(rows) / 2


def test_the_reference_pool_holds_refusals_and_helpful_answers(world):
    kinds = [row["kind"] for row in read(world / "data" / "references.jsonl")]
    assert set(kinds) == {"benign", "refusal"}
    assert 0.4 < kinds.count("refusal") / len(kinds) < 0.6


def test_a_rebuild_names_every_set_that_changed(tmp_path):
    for which in ("old", "new"):
        (tmp_path / which / "suites").mkdir(parents=True)
        (tmp_path / which / "data").mkdir()
        (tmp_path / which / "suites" / "safety.jsonl").write_text("{}")
        (tmp_path / which / "data" / "tool-clean.jsonl").write_text("{}")
        (tmp_path / which / "data" / "training.json").write_text('{"code-clean": {"steps": 1}}')
    assert files.changed(tmp_path / "old", tmp_path / "new") == set()
    (tmp_path / "new" / "data" / "tool-clean.jsonl").write_text("{ }")
    (tmp_path / "new" / "data" / "training.json").write_text('{"code-clean": {"steps": 2}}')
    assert files.changed(tmp_path / "old", tmp_path / "new") == {"tool-clean", "code-clean"}
    with pytest.raises(UserError, match='Did you mean "tool-mixed"'):
        build.rebuild(tmp_path / "old", ["tool-mixd"], 1, lambda fraction, phrase: None)


def test_new_results_of_one_set_leave_those_of_the_others(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(results, "_sweep", lambda *given: {"runs": ["new"]})
    stored = [*files.SETS, "compare-tool-mixed", "compare-medical-mixed", "ablations-tool-mixed"]
    (tmp_path / "results").mkdir()
    for name in stored:
        (tmp_path / "results" / f"{name}.json.gz").write_text("old")
    results.store_results(settings, tmp_path, lambda fraction, phrase: None, ["medical-mixed"])
    found = {path.name.removesuffix(".json.gz"): path for path in (tmp_path / "results").iterdir()}
    assert set(found) == set(stored) - {"compare-medical-mixed"}  # the data it was trained on are gone
    assert [name for name, path in found.items() if path.read_bytes() != b"old"] == ["medical-mixed"]
