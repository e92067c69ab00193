"""From rows to examples: which rows are left out, with a reason that a reader can act on."""

import pytest

from backend.errors import UserError
from backend.tuning.prepare import prepare
from backend.tuning.rows import read_chat_file
from tests import tiny
from tests.tuning_world import chat, write_rows

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role\n not supported') }}{% endif %}"
) + tiny.TEMPLATE


def with_system(row, system="Be brief."):
    return row | {"messages": [{"role": "system", "content": system}, *row["messages"]]}


def prepared(folder, rows, template=tiny.TEMPLATE, references=(), evaluated=()):
    def read(name, given):
        return read_chat_file(write_rows(folder / name, given), field="task_data") if given else ([], [])

    return prepare(
        tiny.tokenizer(template),
        read("task.jsonl", rows),
        read("references.jsonl", references),
        evaluated=evaluated,
        max_len=256,
        batch=2,
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
