"""Files of JSON lines are cut at line feeds only: JSON lets U+2028 and its like stand inside a line as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.errors import UserError
from backend.evaluation.suites import load_suite, messages_of
from backend.jobs.calibration import read_chats
from backend.jobs.named_suites import find_suite
from backend.tuning.data import read_rows
from backend.tuning.rows import read_chat_file

BREAKS = "one\u2028two\u2029three\u0085four"


def write(path: Path, *rows: object) -> Path:
    path.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    return path


def test_a_break_inside_a_line_is_kept_by_every_reader(settings, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": BREAKS}, {"role": "assistant", "content": "yes"}]
    chats = write(tmp_path / "chats.jsonl", {"messages": turns}, {"messages": turns})
    assert [row["messages"] for row in read_rows(chats)] == [turns, turns]
    assert [chat[0].content for chat in read_chats(settings, str(chats))] == [BREAKS, BREAKS]
    assert [list(row.messages) for row in read_chat_file(chats, field="task_data")[0]] == [turns, turns]
    suite = load_suite(write(tmp_path / "suite.jsonl", {"prompt": BREAKS}, {"prompt": "else"}), axis="safety")
    assert [messages_of(row)[-1].content for row in suite.rows] == [BREAKS, "else"]


def test_a_home_of_nobody_is_refused_by_field(settings) -> None:
    with pytest.raises(UserError, match=r"calibration: got '~nobody-of-this-name/x\.jsonl'"):
        read_chats(settings, "~nobody-of-this-name/x.jsonl")
    with pytest.raises(UserError, match=r"suites: got '~nobody-of-this-name/x\.jsonl'"):
        find_suite(settings, "~nobody-of-this-name/x.jsonl")
