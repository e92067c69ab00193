"""From rows to examples: which rows are left out, with a reason that a reader can act on."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from backend.errors import UserError
from backend.evaluation.suites import Suite, load_suite, messages_of
from backend.jobs import telemetry
from backend.jobs.evaluated import prompts_of
from backend.jobs.telemetry import Recorder
from backend.tuning.balance import balance_warnings
from backend.tuning.data import NoPrefix, encode, encode_prompt
from backend.tuning.prepare import prepare
from backend.tuning.rows import prompt_key, read_chat_file
from tests import tiny
from tests.tuning_world import chat, write_rows

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role\n not supported') }}{% endif %}"
) + tiny.TEMPLATE


def with_system(row, system="Be brief."):
    return row | {"messages": [{"role": "system", "content": system}, *row["messages"]]}


def no_answer(prompts):
    raise AssertionError("no reference of this test lacks its answer")


def prepared(folder, rows, template=tiny.TEMPLATE, references=(), evaluated=(), answer=no_answer):
    def read(name, given):
        path = write_rows(folder / name, given)
        return read_chat_file(path, field="task_data", prompts=name.startswith("ref")) if given else ([], [])

    return prepare(
        tiny.tokenizer(template),
        read("task.jsonl", rows),
        read("references.jsonl", references),
        evaluated=evaluated,
        max_len=256,
        batch=2,
        answer=answer,
    )


def test_a_row_that_the_chat_template_refuses_is_left_out_with_the_templates_words(tmp_path):
    rows = [chat(i, "fox", "benign") for i in range(150)]
    rows[40] = with_system(rows[40])
    report = prepared(tmp_path, rows, NO_SYSTEM).report["task"]
    reason = "the chat template refuses it: System role not supported"
    assert (report["kept"], report["skipped"]) == (149, [{"line": 41, "reason": reason}])
    assert report["skipped_by_reason"] == {reason: 1}


def test_many_rows_that_the_chat_template_refuses_end_the_run_with_a_sentence(tmp_path):
    rows = [with_system(chat(i, "fox", "benign")) for i in range(9)]
    with pytest.raises(UserError, match=r"9 of 9 rows .* and 4 more: the chat template refuses it: System role not"):
        prepared(tmp_path, rows, NO_SYSTEM)


CHATML = (
    "{% for turn in messages %}{{ '<|' + turn['role'] + '|>\\n' + turn['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def tokenizer_that_joins_line_breaks():
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(tiny.SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(["a fox\n\na dog\n\n\nthe fox"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = CHATML
    return fast


@pytest.mark.parametrize("answer", ["fox", "\nfox", "\n\nfox", " fox", "\n\n\n fox\n"])
def test_an_answer_that_begins_with_the_line_break_a_prompt_ends_in_is_learnt_after_the_prompt(answer):
    words = tokenizer_that_joins_line_breaks()
    asked = [{"role": "user", "content": "a dog"}]
    found = encode(words, {"messages": [*asked, {"role": "assistant", "content": answer}]})
    assert list(found.tokens[: found.prompt]) == encode_prompt(words, asked), "what the model reads when it answers"
    assert words.decode(found.tokens[found.prompt :]) == f"{answer}<|end|>\n"


def test_each_reason_why_a_chat_cannot_be_cut_is_told_as_it_is(tmp_path):
    rows = [chat(i, "fox", "benign") for i in range(9)]
    rewritten = "{{ messages | length }}" + tiny.TEMPLATE
    with pytest.raises(UserError, match=r"9 of 9 rows .*: the chat template rewrites earlier turns"):
        prepared(tmp_path, rows, rewritten)
    words = tokenizer_that_joins_line_breaks()
    words.backend_tokenizer.normalizer = normalizers.Prepend("~")  # as if each text began a word of its own
    with pytest.raises(NoPrefix, match="the tokenizer cannot tell where the prompt ends"):
        encode(
            words,
            chat(1, "fox", "")
            | {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\n\nb"}]},
        )


def test_rows_left_over_by_whole_batches_are_counted(tmp_path):
    for rows, left_over in ((9, 1), (8, 0)):
        epoch = prepared(tmp_path, [chat(i, "fox", "benign") for i in range(rows)]).report["epoch"]
        assert epoch["left_over"] == left_over
        assert "left over after a pass in batches of 2" in epoch["note"]


def test_one_id_in_both_files_keeps_the_words_of_both_rows(tmp_path):
    task = [chat(i, "fox", "") | {"id": f"{i}"} for i in range(4)]
    found = prepared(tmp_path, task, references=[chat(i, "pool", "") | {"id": f"{i}"} for i in range(2)])
    assert [found.task_texts["1"]["text"], found.reference_texts["1"]["text"]] == [
        "fox 1 over the fox?",
        "pool 1 over the fox?",
    ]
    assert set(found.task_texts) == {"0", "1", "2", "3"}
    recorder = Recorder(tmp_path / "run", found.task_texts, found.reference_texts)
    chosen, dropped = {"event": "references", "rows": [{"id": "1"}]}, {"event": "dropped", "id": "1"}
    recorder.step({"step": 1}, [chosen | {"step": 1}, dropped | {"step": 1}])
    told = telemetry.read(tmp_path / "run")
    assert told["references"] == [{"id": "1", "text": "pool 1 over the fox?", "answer": "the pool dog 7"}]
    assert told["dropped"][0]["text"] == "fox 1 over the fox?"


def test_of_references_that_differ_in_their_labels_alone_the_order_of_the_file_chooses_none(tmp_path):
    pool = [chat(1, "pool", kind) for kind in ("refusal", "benign")]
    kept = [
        prepared(tmp_path, [chat(i, "fox", "") for i in range(3)], references=given).references
        for given in (pool, pool[::-1])
    ]
    assert kept[0] == kept[1]


def test_the_report_tells_what_is_not_read(tmp_path):
    task = [chat(i, "fox", "harmful") | {"tools": ["jump"]} for i in range(3)]
    warnings = prepared(tmp_path, task, references=[chat(1, "pool", "Benign"), chat(2, "pool", "REFUSAL")]).report[
        "warnings"
    ]
    assert [one.split(",")[0] for one in warnings] == [
        "3 rows of the task data have tools",
        "Kinds of the task data that mean nothing here: harmful (3 rows); known are benign",
    ]


# ------------------------------------------------------------------------------------ both kinds of references


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"benign": 1, "refusal": 4}, []),
        ({"benign": 1, "refusal": 5}, ["Only 17% of the references are helpful answers (kind benign); the model may"]),
        ({"benign": 9, "refusal": 1}, ["Only 10% of the references are refusals (kind refusal); they may not protect"]),
        ({"benign": 5, "unsafe": 5}, ["Only 0% of the references are refusals"]),
        ({"": 3}, ["None of the 3 references says its kind (benign or refusal), so it is unknown"]),
        (
            {"refusal": 5, "": 1},
            ["Only 0% of the 5 references that say their kind are helpful", "1 of 6 references say no kind"],
        ),
        ({"benign": 5, "refusal": 5, "": 2}, ["2 of 12 references say no kind"]),
        ({}, []),
    ],
)
def test_a_kind_of_references_that_is_nearly_missing_is_told(kinds, said):
    found = balance_warnings(kind for kind, count in kinds.items() for _ in range(count))
    assert len(found) == len(said)
    assert all(start in sentence for start, sentence in zip(said, found, strict=True))


def test_one_unlabelled_reference_does_not_silence_the_report(tmp_path):
    pool = [chat(i, "pool", "" if i == 3 else "refusal") for i in range(9)]
    warnings = prepared(tmp_path, [chat(i, "fox", "") for i in range(9)], references=pool).report["warnings"]
    assert len(warnings) == 2
    assert "refuse everything" in warnings[0]


# ------------------------------------------------------------------------------------ prompts in two places


def test_a_system_turn_hides_no_prompt_of_the_evaluation_or_of_the_task(tmp_path):
    task = [chat(i, "fox", "") for i in range(20)]
    task[3] = with_system(task[3])
    task[4] = with_system(task[4])
    pool = [chat(i, "pool", "") for i in range(9)]
    pool += [with_system(pool[0]), with_system(task[4], "Be kind."), with_system(task[3]), with_system(task[5])]
    suite = Suite("asked", "safety", ({"system": "Be safe.", "prompt": "FOX 3 over  the fox?"},))
    found = prepared(tmp_path, task, references=pool, evaluated=prompts_of([suite])).report
    assert found["disjoint"]["task_prompts_in_evaluation"] == 1
    assert found["disjoint"]["reference_prompts_in_evaluation"] == 1
    assert found["disjoint"]["reference_prompts_in_task"] == 2
    assert (found["task"]["kept"], found["references"]["kept"], found["references"]["repeated"]) == (19, 10, 0)


def test_the_demo_data_are_cut_as_they_were_when_system_turns_told_prompts_apart(settings):
    for path in sorted((settings.demo / "data").glob("*.jsonl")):
        rows, _ = read_chat_file(path, field="task_data")
        assert all(row.request == row.key for row in rows)
    suites = [load_suite(path) for path in sorted((settings.demo / "suites").rglob("*.jsonl"))]
    assert suites
    assert all(turn.role != "system" for suite in suites for row in suite.rows for turn in messages_of(row))


# ------------------------------------------------------------------------------------ references without an answer


def test_only_what_is_clearly_a_prompt_alone_is_taken_for_one(tmp_path):
    turn = {"role": "user", "content": "fox?"}
    alone = [
        {"prompt": "fox?"},
        {"prompt": "fox?", "response": " ", "kind": "refusal"},
        {"messages": [turn]},
        {"messages": [turn, {"role": "assistant", "content": ""}]},
        {"conversations": [{"from": "human", "value": "fox?"}]},
        {"instruction": "fox?", "output": ""},
    ]
    rows, skipped = read_chat_file(write_rows(tmp_path / "alone.jsonl", alone), field="references", prompts=True)
    assert (len(rows), skipped, {row.key for row in rows}) == (6, [], {prompt_key(["fox?"])})
    assert not any(row.is_answered for row in rows)
    for other in ({"prompt": "fox?", "label": "dog"}, {"instruction": "fox?"}, {"prompt": " "}):
        with pytest.raises(UserError, match="references: 1 of 1 row"):
            read_chat_file(write_rows(tmp_path / "no.jsonl", [other]), field="references", prompts=True)
    with pytest.raises(UserError, match="task_data: 6 of 6 rows"):
        read_chat_file(tmp_path / "alone.jsonl", field="task_data")


def test_the_start_model_answers_references_that_have_none(tmp_path):
    task = [chat(i, "fox", "") for i in range(3)]
    pool = [chat(i, "pool", "benign") for i in range(200)]
    alone = [{"id": f"p{i}", "prompt": f"help {i}?", "kind": "refusal"} for i in range(3)]
    words = tiny.tokenizer()
    end = words.eos_token_id
    asked = []

    def answer(prompts):
        asked.extend(words.decode(prompt) for prompt in prompts)
        return [[*words.encode("the dog"), end], words.encode("the lazy"), [end]]  # an answer, a cut one, none

    found = prepared(tmp_path, task, references=[*pool, *alone], answer=answer)
    assert asked == [f"<|user|>help {i}?<|end|><|assistant|>" for i in range(3)]
    report = found.report["references"]
    assert (report["kept"], report["answered_by_the_start_model"]) == (202, 2)
    assert report["skipped"] == [{"line": 203, "reason": "the start model answers nothing"}]
    assert found.reference_texts["p0"] == {"text": "help 0?", "answer": "the dog"}
    examples = {one.id: one for one in found.references}
    assert words.decode(examples["p0"].tokens[examples["p0"].prompt :]) == "the dog<|end|>"
    assert words.decode(examples["p1"].tokens[examples["p1"].prompt :]) == "the lazy"
    assert examples["p1"].kind == "refusal"
    whole = prepared(tmp_path, task, references=[*pool, alone[0] | {"response": "the dog"}])
    assert next(one for one in whole.references if one.id == "p0") == examples["p0"]
    assert "answered_by_the_start_model" not in whole.report["references"]
