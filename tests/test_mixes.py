"""Mixes: the draw is by seed and share, the built file whole and found again, a run can be traced to its parts."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from backend.api import Studio
from backend.errors import UserError
from backend.jobs.datasets import find_data
from backend.jobs.mixes import read_mix
from backend.settings import ASSETS, child_environment
from backend.tuning.mixing import counts_of, draw
from backend.tuning.rows import Row, read_chat_file
from tests.tuning_world import chat, tuning_world, write_rows

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world(settings):
    return tuning_world(settings)


@pytest.fixture
def studio(world):
    studio = Studio(world[0])
    yield studio
    studio.close()


def write_mix(path, *parts, rows=20, seed=0, **others):
    path.write_text(yaml.safe_dump({"rows": rows, "seed": seed, "parts": list(parts), **others}))
    return path


def part(data, share, **others):
    return {"data": str(data), "share": share, **others}


def two_parts(folder, rows=20, seed=0):
    """A mix file of the demo set and a file beside it."""
    write_rows(folder / "harm.jsonl", [chat(i, "harm", "benign") for i in range(6)])
    parts = part("demo/quick-mixed", 0.75), part("harm.jsonl", 0.25, kind="unsafe")
    return write_mix(folder / "both.mix.yaml", *parts, rows=rows, seed=seed)


# ------------------------------------------------------------------------------------ the draw


def said(number):
    turns = {"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "."}
    return Row(0, str(number), turns)


@limits(deadline=None, max_examples=60)
@given(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=30), wanted=st.integers(0, 70), seed=st.integers(0, 99),
       order=st.randoms(use_true_random=False))  # fmt: skip
def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_rows(numbers, wanted, seed, order):
    rows = [said(number) for number in numbers]
    shuffled = rows.copy()
    order.shuffle(shuffled)
    drawn = draw(rows, wanted, seed=seed, part=1)
    assert drawn == draw(shuffled, wanted, seed=seed, part=1)
    assert len(drawn) == wanted
    passes, rest = divmod(wanted, len(rows))
    there, found = Counter(row.id for row in rows), Counter(row.id for row in drawn)
    assert all(passes * there[name] <= found[name] <= (passes + bool(rest)) * there[name] for name in there)


@limits(deadline=None, max_examples=100)
@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=8), rows=st.integers(1, 100_000))
def test_counts_are_within_one_row_of_their_shares(weights, rows):
    shares = [weight / sum(weights) for weight in weights]
    counts = counts_of(shares, rows)
    assert sum(counts) == rows
    assert all(abs(count - share * rows) < 1 for count, share in zip(counts, shares, strict=True))


def test_other_seeds_draw_other_rows_and_every_row_is_drawn_about_as_often():
    rows = [said(number) for number in range(40)]
    draws = [frozenset(row.id for row in draw(rows, 10, seed=seed, part=1)) for seed in range(200)]
    assert len(set(draws)) == 200
    often = Counter(name for drawn in draws for name in drawn)
    assert 20 < min(often.values()) <= max(often.values()) < 85  # 50 expected, standard deviation 6


# ------------------------------------------------------------------------------------ the built file


def test_a_mix_is_built_once_whole_and_by_its_shares(world, tmp_path):
    settings = world[0]
    path = two_parts(tmp_path)
    built = find_data(settings, str(path), "task_data")
    rows, _ = read_chat_file(built.path, field="task_data")
    assert Counter(row.messages[0]["content"].split()[0] for row in rows) == {"task": 15, "harm": 5}
    assert {row.kind for row in rows if "harm" in row.text["text"]} == {"unsafe"}
    assert {row.kind for row in rows if "task" in row.text["text"]} == {"benign", "unsafe"}
    assert {json.loads(line)["part"] for line in built.path.read_text().splitlines()} == {1, 2}
    assert [file.suffix for file in sorted(built.path.parent.iterdir())] == [".json", ".jsonl"]
    before = built.path.stat()
    assert find_data(settings, str(path), "task_data") == find_data(settings, built.name, "task_data") == built
    assert built.path.stat().st_mtime_ns == before.st_mtime_ns
    assert built.path.is_relative_to(settings.home)


def test_the_order_of_the_rows_in_a_part_changes_no_byte_of_the_rows(world, tmp_path):
    first = find_data(world[0], str(two_parts(tmp_path)), "task_data")
    harm = tmp_path / "harm.jsonl"
    harm.write_text("".join(reversed(harm.read_text().splitlines(keepends=True))))
    second = find_data(world[0], str(tmp_path / "both.mix.yaml"), "task_data")
    assert (first.name != second.name, first.sha256) == (True, second.sha256)
    other = find_data(world[0], str(two_parts(tmp_path, seed=1)), "task_data")
    assert other.sha256 != first.sha256


def test_a_mix_that_was_changed_by_hand_is_built_again_and_not_found_by_name(world, tmp_path):
    path = two_parts(tmp_path)
    built = find_data(world[0], str(path), "task_data")
    whole = built.path.read_text()
    built.path.write_text(whole[:-40])
    with pytest.raises(UserError, match=r"no whole mix mix/both-\w+ is stored here\. Give its \.mix\.yaml file"):
        find_data(world[0], built.name, "task_data")
    assert find_data(world[0], str(path), "task_data").path.read_text() == whole
    with pytest.raises(UserError, match="no whole mix"):
        find_data(world[0], "mix/../studio", "task_data")


def test_bad_rows_of_a_part_and_rows_taken_again_are_counted(studio, world, tmp_path):
    write_rows(tmp_path / "few.jsonl", [chat(1, "few", "unsafe")])
    many = [chat(i, "many", "benign") for i in range(150)]
    write_rows(tmp_path / "many.jsonl", [*many[:70], {"prompt": "alone"}, *many[70:]])
    parts = part("many.jsonl", 0.9), part("few.jsonl", 0.1, repeat=True)
    plan = studio.plan("tune", world[1] | {"task_data": str(write_mix(tmp_path / "a.mix.yaml", *parts))})
    first, second = plan.recipe["task_data"]["mix"]["parts"]
    assert (first["rows"], first["taken"], first["skipped"], first["again"]) == (150, 18, 1, 0)
    assert first["skipped_rows"][0]["line"] == 71
    assert (second["rows"], second["taken"], second["again"]) == (1, 2, 1)
    assert any("many.jsonl: 1 row; line 71: no known shape" in said for said in plan.warnings)
    assert any("few.jsonl: 1 row." in said for said in plan.warnings)


def test_json_says_the_same_as_yaml(world, tmp_path):
    path = two_parts(tmp_path)
    other = tmp_path / "both.mix.json"
    other.write_text(json.dumps(yaml.safe_load(path.read_text())))
    assert find_data(world[0], str(other), "task_data") == find_data(world[0], str(path), "task_data")


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rows: [", "m.mix.yaml cannot be read"),
        ("just words", "the mix has no list of parts"),
        ("{rows: 9, parts: []}", "the mix has no list of parts"),
        ("{rows: 0, parts: [{data: a, share: 1}]}", "rows of the mix: got 0; allowed is a whole number from 1"),
        ("{rows: 9, seed: x, parts: [{data: a, share: 1}]}", "seed of the mix: got 'x'"),
        ("{rows: 9, parts: [{data: a, share: 1.5}]}", "share of part 1 of the mix: got 1.5; allowed is a number above"),
        ("{rows: 9, parts: [{data: a, share: .nan}]}", "share of part 1"),
        ("{rows: 9, parts: [{data: a, share: [[1]]}]}", "share of part 1 of the mix: got a list"),
        ("{rows: 9, parts: [{data: a, share: 1, kind: [x]}]}", "kind of part 1 of the mix: got a list"),
        ("{rows: 9, parts: [{data: a, share: 0.5}, {data: b, share: 0.4}]}", "add up to 0.9; allowed is 1"),
        ("{rows: 9, parts: [{data: a, sare: 1}]}", 'no "sare". Did you mean "share"'),
        ("{rows: 9, part: [], parts: [{data: a, share: 1}]}", 'no "part". Did you mean "parts"'),
        ("{rows: 9, parts: [{share: 1}]}", "part 1 of the mix names no data"),
        ("{rows: 9, parts: [{data: a, share: 1, kind: evil}]}", "kind of part 1 of the mix: got 'evil'"),
        ("{rows: 9, parts: [{data: a, share: 1, repeat: 3}]}", "repeat of part 1 of the mix: got 3"),
        ("{rows: 9, parts: [a]}", "part 1 of the mix is no table"),
        ("{rows: 9, parts: [{data: b.mix.yaml, share: 1}]}", "b.mix.yaml in m.mix.yaml is a mix itself"),
        ("{rows: 9, parts: [{data: gone.jsonl, share: 1}]}", "gone.jsonl"),
        ("{rows: 99, parts: [{data: demo/quick-mixed, share: 1}]}",
         "part 1 of the mix (demo/quick-mixed) has 40 rows that can be used, 99 are wanted"),
        ("{rows: 9, parts: [{data: demo/quick-mixed, share: 0.99}, {data: demo/references, share: 0.01}]}",
         "part 2 of the mix (demo/references) gives no row: its share is 0.01 of 9 rows"),
    ],
)  # fmt: skip
def test_a_mix_that_cannot_be_built_is_one_sentence(studio, world, tmp_path, text, sentence):
    (tmp_path / "m.mix.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        studio.plan("tune", world[1] | {"task_data": str(tmp_path / "m.mix.yaml")})
    assert sentence in str(refused.value)
    assert refused.value.field == "task_data"
    assert not list((world[0].home / "mixes").glob("*"))


# ------------------------------------------------------------------------------------ runs


def test_a_plan_over_mixes_names_their_parts_and_is_the_same_each_time(studio, world, tmp_path):
    pool = write_mix(tmp_path / "pool.mix.yaml", part("demo/references", 1), rows=10)
    request = world[1] | {"task_data": str(two_parts(tmp_path)), "references": str(pool)}
    plan = studio.plan("tune", request)
    mix = plan.recipe["task_data"]["mix"]
    assert [(one["name"].split("/")[-1], one["share"], one["taken"]) for one in mix["parts"]] == [
        ("quick-mixed", 0.75, 15), ("harm.jsonl", 0.25, 5),
    ]  # fmt: skip
    assert all(len(one["sha256"]) == 64 for one in mix["parts"])
    assert (mix["rows"], mix["seed"]) == (20, 0)
    assert plan.recipe["references"]["mix"]["parts"][0]["taken"] == 10
    assert plan.spec["task_data"].startswith("mix/both-")
    assert studio.plan("tune", request).recipe_hash == plan.recipe_hash
    assert (
        studio.plan("tune", request | {one: plan.spec[one] for one in ("task_data", "references")}).recipe_hash
        == plan.recipe_hash
    )
    two_parts(tmp_path, seed=1)
    assert studio.plan("tune", request).recipe_hash != plan.recipe_hash


def test_prompts_in_two_places_are_told_before_a_run_starts(studio, world, tmp_path):
    asked = {"prompt": "How do I help FOX 1 over  the dog?", "response": "the dog"}  # stands in the safety suite
    task = write_rows(
        tmp_path / "task.jsonl", [*(chat(i, "task", "benign") for i in range(150)), asked, {"prompt": ""}]
    )
    pool = write_rows(
        tmp_path / "pool.jsonl", [chat(i, "pool", "refusal") for i in range(9)] + [chat(3, "task", "benign")]
    )
    plan = studio.plan("tune", world[1] | {"task_data": str(task), "references": str(pool)})
    assert plan.warnings == (
        "Left out of task.jsonl: 1 row; line 152: no known shape (it has prompt); allowed are "
        "messages, conversations, prompt with response, question with answer, chosen, instruction with output, "
        "prompt with completion, instruction with response, prompt with response_0 and response_1.",
        "1 row of the task data with a prompt of a suite is left out.",
        "1 row of the references with a prompt of the task data is left out.",
        "Only 0% of the references are helpful answers (kind benign); the model may learn to refuse everything.",
    )
    assert studio.plan("tune", world[1]).warnings == ()


def test_a_run_over_a_mix_trains_and_its_folder_says_what_was_mixed(world, tmp_path):
    request = ["--model", "demo/aligned", "--task-data", str(two_parts(tmp_path)), "--suites", "safety", "--seed", "1"]
    request += ["--train", "steps=2", "--train", "batch=4", "--out", str(tmp_path / "out"), "--json"]
    command = [sys.executable, "-m", "backend", "tune", "--strategy", "sft", *request]
    printed = subprocess.run(command, cwd=ROOT, env=child_environment(world[0]), capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    told = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert [one["taken"] for one in told["data"][0]["mix"]["parts"]] == [15, 5]
    assert told["data"][0]["kept"] == 20
    assert "mix/both-" in told["data"][0]["name"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| … of it demo/quick-mixed | 15 | " in card
    assert "| … of it harm.jsonl | 5 | " in card


def test_the_shipped_example_is_a_mix_of_pinned_hub_files():
    examples = sorted((ASSETS / "mixes").glob("*.mix.*"))
    assert examples
    for path in examples:
        mix = read_mix(path, field="task_data")
        assert sum(mix.counts) == mix.rows
        assert all("@" in one.data and ":" in one.data for one in mix.parts)
