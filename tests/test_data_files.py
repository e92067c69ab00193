"""Data files from strangers: every row shape, every kind of file, and files that unpack to more than they look."""

import gzip
import json
import os
import zlib
from dataclasses import replace

import pyarrow
import pytest
from pyarrow import parquet

from backend.api import Studio
from backend.errors import UserError
from backend.jobs.chat_files import chat_rows
from backend.jobs.datafile import DataFile
from backend.tuning.rows import prompt_key, read_chat_file, remarks
from backend.tuning.tables import Broken, numbered_rows
from tests.tuning_world import chat, write_rows

GSM8K = {"question": "How many foxes are 2 + 2?", "answer": "Add them.\n#### 4"}
SHARE_GPT = {
    "conversations": [
        {"from": "system", "value": "Be brief.", "weight": None},
        {"from": "human", "value": "Who jumps?", "weight": 0.0},
        {"from": "gpt", "value": "The fox.", "weight": 1.0},
    ]
}
PREFERENCE = {
    "chosen": "\n\nHuman: Who jumps?\n\nAssistant: The fox:\n\n- it jumps\n\nHuman: Why?\n\nAssistant: It can.",
    "rejected": "\n\nHuman: Who jumps?\n\nAssistant: The dog.",
}
ALPACA = {"instruction": "Name who jumps.", "input": "fox, dog", "output": "fox"}

DOLLY = {"instruction": "Name who jumps.", "context": "fox, dog", "response": "fox", "category": "open_qa"}
PAIR = {"prompt": "Who?", "response_0": "Dog.", "response_1": "Fox."}
TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Fox."}]
SYSTEM = ("system", "Be brief.")


def talk(row):
    return [(turn["role"], turn["content"]) for turn in row.messages]


def read(path, **limits):
    return read_chat_file(path, field="task_data", **limits)


def refusal(path, **limits):
    with pytest.raises(UserError) as refused:
        read(path, **limits)
    assert refused.value.field == "task_data"
    return str(refused.value)


# ------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (GSM8K, [("user", GSM8K["question"]), ("assistant", GSM8K["answer"])]),
        (SHARE_GPT, [("system", "Be brief."), ("user", "Who jumps?"), ("assistant", "The fox.")]),
        (
            PREFERENCE,
            [
                ("user", "Who jumps?"),
                ("assistant", "The fox:\n\n- it jumps"),
                ("user", "Why?"),
                ("assistant", "It can."),
            ],
        ),
        (ALPACA, [("user", "Name who jumps.\n\nfox, dog"), ("assistant", "fox")]),
        (ALPACA | {"input": ""}, [("user", "Name who jumps."), ("assistant", "fox")]),
        ({"prompt": "Who?", "response": "Fox."}, [("user", "Who?"), ("assistant", "Fox.")]),
        ({"prompt": "Who?", "completion": "Fox."}, [("user", "Who?"), ("assistant", "Fox.")]),
        (DOLLY, [("user", "Name who jumps.\n\nfox, dog"), ("assistant", "fox")]),
        (DOLLY | {"context": ""}, [("user", "Name who jumps."), ("assistant", "fox")]),
        (DOLLY | {"context": None, "input": "fox"}, [("user", "Name who jumps.\n\nfox"), ("assistant", "fox")]),
        (PAIR | {"safer_response_id": 1, "better_response_id": 0}, [("user", "Who?"), ("assistant", "Fox.")]),
        (PAIR | {"better_response_id": "0"}, [("user", "Who?"), ("assistant", "Dog.")]),
        ({"chosen": TURNS, "rejected": []}, [("user", "Who?"), ("assistant", "Fox.")]),
        ({"chosen": json.dumps(TURNS)}, [("user", "Who?"), ("assistant", "Fox.")]),
        ({"prompt": "Who?", "chosen": TURNS}, [("user", "Who?"), ("assistant", "Fox.")]),
        ({"prompt": "Who?", "chosen": TURNS[1:]}, [("user", "Who?"), ("assistant", "Fox.")]),
        ({"prompt": TURNS[:1], "chosen": TURNS[1:]}, [("user", "Who?"), ("assistant", "Fox.")]),
        ({"messages": json.dumps(TURNS)}, [("user", "Who?"), ("assistant", "Fox.")]),
        (ALPACA | {"system": "Be brief.", "input": None}, [SYSTEM, ("user", "Name who jumps."), ("assistant", "fox")]),
        ({"prompt": "Who?", "response": "Fox.", "system": " "}, [("user", "Who?"), ("assistant", "Fox.")]),
        (SHARE_GPT | {"system": "Be brief."}, [SYSTEM, ("user", "Who jumps?"), ("assistant", "The fox.")]),
        (chat(1, "fox", ""), [("user", "fox 1 over the fox?"), ("assistant", "the fox dog 7")]),
    ],
)
def test_each_published_shape_becomes_a_chat_and_keeps_its_labels(tmp_path, row, turns):
    path = write_rows(tmp_path / "rows.jsonl", [row | {"kind": "benign", "group": "a"}])
    rows, skipped = read(path)
    assert (talk(rows[0]), rows[0].kind, rows[0].group, skipped) == (turns, "benign", "a", [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"text": "Once", "label": 1},
            "no known shape (it has label, text); allowed are messages, conversations, prompt",
        ),
        ({}, "no known shape (it has nothing)"),
        ({"conversations": [{"from": "bing", "value": "Hi"}]}, "allowed are system, human, gpt"),
        ({"conversations": SHARE_GPT["conversations"][:2]}, "the last turn is not the assistant's"),
        ({"conversations": "Hi"}, "conversations is no list"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye"}, "the last turn is not the assistant's"),
        ({"chosen": "\n\nHuman: Hi\n\nHuman: Ho\n\nAssistant: Hello"}, "two turns of one speaker"),
        ({"chosen": "\n\nAssistant: Hello"}, 'chosen does not begin with "Human:"'),
        ({"chosen": 1}, "chosen is no list"),
        ({"chosen": [1]}, "no prompt and answer"),
        ({"chosen": "[1"}, "chosen is no list"),
        ({"prompt": "Who?", "chosen": []}, "no prompt and answer"),
        (PAIR, "better_response_id is neither 0 nor 1, so no answer is known to be the safer one"),
        (PAIR | {"safer_response_id": -1}, "safer_response_id is neither 0 nor 1"),
        (PAIR | {"safer_response_id": [1]}, "safer_response_id is neither 0 nor 1"),
        (DOLLY | {"context": 4}, "context is no text"),
        (DOLLY | {"system": 4}, "system is no text"),
        (SHARE_GPT | {"system": "Be long."}, "its system column and its system turn differ"),
        ({"messages": [TURNS[0] | {"role": "tool"}, TURNS[1]]}, "a turn is by 'tool'; allowed are system, user, assis"),
        ({"messages": [TURNS[0] | {"role": "User"}, TURNS[1]]}, "a turn is by 'User'"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [1]}, *TURNS]}, "calls tools"),
        (GSM8K | {"answer": " "}, "the answer is empty"),
        (GSM8K | {"question": 4}, "a turn without role or content"),
        (ALPACA | {"input": 4}, "input is no text"),
        (ALPACA | {"output": "half \ud83d"}, "a character that is cut in half"),
    ],
)
def test_a_row_that_is_no_chat_is_listed_with_its_line_and_the_reason(tmp_path, row, reason):
    path = write_rows(tmp_path / "rows.jsonl", [*(chat(i, "fox", "") for i in range(200)), row])
    rows, skipped = read(path)
    assert (len(rows), [one.line for one in skipped]) == (200, [201])
    assert reason in skipped[0].reason


def test_kinds_lose_their_capitals_and_unknown_kinds_and_tools_are_told(settings, tmp_path):
    rows = [{"prompt": f"{i}?", "response": "fox", "kind": " Benign "} for i in range(3)]
    rows += [{"prompt": f"{i}?", "response": "fox", "kind": "Harmful"} for i in range(3, 5)]
    rows += [{"messages": TURNS, "tools": [{"name": "jump"}]}, {"messages": TURNS, "tools": []}]
    found, _ = read(write_rows(tmp_path / "rows.jsonl", rows))
    assert [row.kind for row in found] == ["benign"] * 3 + ["harmful"] * 2 + [""] * 2
    assert remarks(found, "task data") == [
        "1 row of the task data has tools, which are not shown to the model.",
        "Kinds of the task data that mean nothing here: harmful (2 rows); known are benign, refusal, unsafe.",
    ]
    assert remarks(found[:3], "task data") == []


def test_an_id_that_stands_for_several_chats_is_told_apart_whatever_the_order(tmp_path):
    rows = [{"prompt": f"{i % 4}?", "response": "fox", "id": "same"} for i in range(6)] + [chat(1, "fox", "")]
    forward, backward = (
        {row.key: row.id for row in read(write_rows(tmp_path / "rows.jsonl", given))[0]} for given in (rows, rows[::-1])
    )
    assert forward == backward
    assert len(set(forward.values())) == 5
    assert forward[prompt_key(["fox 1 over the fox?"])] == "fox-001"


def test_many_bad_rows_are_refused_by_reason_with_their_lines(tmp_path):
    said = refusal(write_rows(tmp_path / "rows.jsonl", [chat(1, "fox", ""), *({"text": "Once"} for _ in range(9))]))
    assert "9 of 10 rows of rows.jsonl cannot be used: lines 2, 3, 4, 5, 6 and 4 more: no known shape" in said
    assert "question with answer" in said


# ------------------------------------------------------------------------------------ kinds of files


def packed(path, rows):
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    return path


def table(path, rows, **options):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "ROWS.JSONL.GZ"])
def test_packed_json_lines_are_read_with_their_line_numbers(tmp_path, name):
    path = packed(tmp_path / name, [*[PREFERENCE] * 200, {"chosen": ""}])
    rows, skipped = read(path)
    assert (len(rows), [one.line for one in skipped]) == (200, [201])


def test_parquet_rows_are_numbered_across_row_groups(tmp_path):
    rows = [GSM8K | {"question": f"{i} foxes?"} for i in range(300)]
    rows[250] = {"question": None, "answer": "nothing"}
    found, skipped = read(table(tmp_path / "train.parquet", rows, row_group_size=70))
    assert [row.line for row in found] == [*range(1, 251), *range(252, 301)]
    assert [(one.line, one.reason[:14]) for one in skipped] == [(251, "no known shape")]


def test_parquet_holds_nested_turns_too(tmp_path):
    found, _ = read(table(tmp_path / "train.parquet", [SHARE_GPT]))
    assert talk(found[0])[-1] == ("assistant", "The fox.")


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    rows = [{"prompt": f"fox {i}?", "response": f"dog, {i}"} for i in range(5)]
    (tmp_path / "rows.csv").write_text("\ufeffprompt,response\n" + "".join(f'fox {i}?,"dog, {i}"\n' for i in range(5)))
    paths = [
        write_rows(tmp_path / "rows.jsonl", rows),
        packed(tmp_path / "rows.jsonl.gz", rows),
        table(tmp_path / "rows.parquet", rows),
        tmp_path / "rows.csv",
    ]
    found = [[(row.id, row.messages) for row in read(path)[0]] for path in paths]
    assert found == [found[0]] * 4


def test_a_csv_row_with_more_fields_than_the_header_is_not_cut(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response\n" + "fox?,dog\n" * 200 + "fox?,one, two\n")
    assert read(path)[1] == [(202, "more fields than the header names")]


def test_a_csv_row_is_named_by_the_line_it_begins_on_and_a_stray_quote_spoils_only_its_own(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('\n\nprompt,response\n"a\nb","c\n\nd"\n\n"p\nq",\n"he says "hi"",x\n' + "e,f\n" * 300 + 'g,"h\n')
    rows, skipped = read(path)
    assert [row.line for row in rows] == [4, *range(12, 312)]
    assert talk(rows[0]) == [("user", "a\nb"), ("assistant", "c\n\nd")]
    assert [(one.line, one.reason[:7]) for one in skipped] == [(9, "the ans"), (11, "not CSV"), (312, "not CSV")]


def test_a_long_answer_in_a_csv_file_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response\nfox?," + "x" * 200_000 + "\n")
    assert len(read(path)[0][0].text["answer"]) == 200_000


@pytest.mark.parametrize(
    "content",
    [
        "prompt;response;Kind\nfox, or dog?;fox;benign\n",
        "Prompt\tRESPONSE\tkind\nfox, or dog?\tfox\tbenign\n",
        ' prompt, response, kind\n"fox, or dog?", fox, benign\n',
        '"prompt","response","kind"\n"fox, or dog?",fox,benign\n',
        ',prompt,response,kind\n0,"fox, or dog?",fox,benign\n',
    ],
    ids=["semicolon", "tab", "blanks", "quoted", "index"],
)
def test_a_csv_file_may_be_cut_and_headed_otherwise(tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    rows, _ = read(path)
    assert (talk(rows[0]), rows[0].kind) == ([("user", "fox, or dog?"), ("assistant", "fox")], "benign")


def test_lines_that_are_no_json_or_no_utf8_are_named_and_a_string_is_no_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n"words"\n{no\n\xff\xfe\n' + b"9" * 5000 + b"\n")
    assert list(numbered_rows(path, field="task_data")) == [
        (1, {"a": 1}), (3, "words"), (4, Broken("not JSON")), (5, Broken("not UTF-8")), (6, Broken("not JSON")),
    ]  # fmt: skip
    assert "line 3: not an object" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.jsonl.gz", gzip.compress(b'{"prompt": "fox?"}\n' * 99)[:-12], "cannot be read"),
        ("rows.jsonl.gz", b"plain", "cannot be read"),
        ("rows.jsonl.gz", b"", "holds no rows"),
        ("rows.parquet", b"PAR1 nothing PAR1", "no Parquet file that can be read"),
        ("rows.csv", b"prompt,response\n\xff,dog\n", "Save it as UTF-8"),
        (
            "rows.csv",
            b"prompt,response\nfox?,dog\nfox?," + b"x" * (64 * 2**20 + 1) + b"\n" + b"a,b\n",
            "line 3: not CSV (field larger than",
        ),
        (
            "rows.csv",
            b'prompt,response\n"a\nb",c\nfox?,"dog\n' + b"a,b\n" * 900,
            "begins on line 4 of rows.csv cannot be read",
        ),
        (
            "rows.csv",
            b'prompt,response\nfox?,"dog\n' + b"a,b\n" * 900 + b'c,"d, e"\n' + b"a,b\n" * 900,
            "begins on line 2 of",
        ),
        ("rows.csv", b'"prompt,response\na,b\n', "begins on line 1 of rows.csv cannot be read"),
        ("rows.csv", b"prompt,response,Response \na,b,c\n", "the header of rows.csv names response twice"),
        ("rows.txt", b"fox", "allowed is a .jsonl, .csv, .jsonl.gz, .json.gz or .parquet file"),
    ],
    # not the content, since gzip writes the time of day into it
    ids=[
        "cut off",
        "not packed",
        "empty",
        "parquet",
        "no UTF-8",
        "long field",
        "open",
        "open till the next",
        "header",
        "twice",
        "ending",
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    assert sentence in refusal(tmp_path / name)


def test_a_preview_counts_rows_shows_the_first_and_names_bad_lines(settings, tmp_path):
    rows = [GSM8K | {"question": f"fox {i}?"} for i in range(150)]
    studio = Studio(settings)
    found = studio.preview_data(str(packed(tmp_path / "rows.jsonl.gz", [*rows, {"chosen": "fox"}])))
    assert (found.rows, len(found.first)) == (150, 5)
    assert found.first[1] == {"text": "fox 1?", "answer": GSM8K["answer"], "kind": ""}
    assert found.left_out == '1 row; line 151: chosen does not begin with "Human:"'
    with pytest.raises(UserError, match="references: there is no file"):
        studio.preview_data("/nowhere/rows.csv", field="references")
    studio.close()


def test_an_unchanged_file_is_read_once_and_a_changed_one_anew(settings, tmp_path):
    file = DataFile("rows", write_rows(tmp_path / "rows.jsonl", [GSM8K]))
    first = chat_rows(file, field="task_data")
    assert chat_rows(file, field="task_data") is first
    earlier = file.path.stat()
    write_rows(file.path, [GSM8K | {"question": GSM8K["question"].upper()}])
    os.utime(file.path, ns=(earlier.st_atime_ns, earlier.st_mtime_ns + 1))
    assert file.path.stat().st_size == earlier.st_size
    assert chat_rows(file, field="task_data").rows[0].text["text"] == GSM8K["question"].upper()
    write_rows(file.path, [GSM8K, {}])
    for _ in range(2):
        with pytest.raises(UserError, match="references: 1 of 2 rows"):
            chat_rows(file, field="references")


def test_a_public_page_previews_no_file(settings, tmp_path):
    studio = Studio(replace(settings, public=True))
    with pytest.raises(UserError, match="allowed is on a public page"):
        studio.preview_data(str(write_rows(tmp_path / "rows.jsonl", [GSM8K])))
    assert studio.preview_data("demo/references", field="references").rows
    studio.close()


# ------------------------------------------------------------------------------------ bombs

LIMIT = 1_000_000


@pytest.mark.parametrize("name", ["blank.jsonl.gz", "line.json.gz"])
def test_a_gzip_bomb_is_refused_at_the_limit(tmp_path, name):
    pack = zlib.compressobj(wbits=31)
    filling = b"\n" * LIMIT if name.startswith("blank") else b" " * LIMIT
    content = b"".join(pack.compress(filling) for _ in range(50)) + pack.flush()
    (tmp_path / name).write_bytes(content)
    assert len(content) < LIMIT / 10
    assert "holds more than that when unpacked; allowed is at most 1,000,000 bytes" in refusal(
        tmp_path / name, most_bytes=LIMIT
    )


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_parquet_bomb_is_refused_whether_its_header_tells_or_not(tmp_path, dictionary):
    rows = [{"question": "fox? " * 20_000, "answer": "dog"}] * 200  # 20 MB of text, or one value 200 times
    path = table(tmp_path / "bomb.parquet", rows, use_dictionary=dictionary, compression="zstd")
    groups = parquet.ParquetFile(path).metadata
    assert path.stat().st_size < LIMIT / 10
    assert (groups.row_group(0).total_byte_size < LIMIT) == dictionary
    assert "allowed is at most 1,000,000 bytes" in refusal(path, most_bytes=LIMIT)


@pytest.mark.parametrize("told", [True, False])
def test_one_parquet_row_that_repeats_a_text_is_refused_before_it_is_written_out(tmp_path, told):
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 500, pyarrow.int32()), ["fox " * 25_000])
    turns = pyarrow.StructArray.from_arrays([text, text], ["from", "value"])
    column = pyarrow.ListArray.from_arrays(pyarrow.array([0, 500], pyarrow.int32()), turns)  # 100 MB in one row
    path = tmp_path / "row.parquet"
    parquet.write_table(pyarrow.table({"conversations": column}), path, compression="zstd", store_schema=told)
    assert path.stat().st_size < 5000
    assert "allowed is at most 1,000,000 bytes" in refusal(path, most_bytes=LIMIT)


def test_a_plain_file_up_to_the_limit_is_read(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [GSM8K] * 10)
    assert len(read(path, most_bytes=path.stat().st_size)[0]) == 10
    assert "at most" in refusal(path, most_bytes=path.stat().st_size - 1)
