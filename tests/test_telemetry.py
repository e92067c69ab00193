"""A run's telemetry as it is read while it is written: only what is new is read, and nothing else changes."""

import json

import pytest

from backend.jobs import telemetry
from backend.jobs.telemetry import METRICS, MOST_DROPPED, SELECTION, Reader, Recorder


class Clock:
    """A second passes between two steps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def events(step):
    dropped = [{"event": "dropped", "step": step, "id": f"{step}-{number}", "loss": 0.5} for number in range(60)]
    counts = {"event": "counts", "step": step, "seen": {"benign": 60 * step}, "dropped": {"benign": step}}
    if step % 3:
        return [*dropped, counts]
    references = {"event": "references", "step": step, "rows": [{"id": f"r{step}", "weight": 1.0}]}
    return [{"event": "refresh", "step": step, "cause": "interval"}, references, *dropped, counts]


def write(recorder, steps, loss=1.0):
    for step in steps:
        recorder.step({"step": step, "loss_task": loss}, events(step))
        recorder.probe(step, {"safety": {"value": loss}})


def test_a_reader_tells_what_reading_everything_tells_while_a_run_is_written_and_rewound(tmp_path):
    reader = Reader()
    assert reader.read(tmp_path) == telemetry.read(tmp_path)
    first = Recorder(tmp_path, {"1-1": {"text": "words"}}, clock=Clock())
    for steps in (range(1, 3), range(3, 8)):
        write(first, steps)
        assert reader.read(tmp_path) == telemetry.read(tmp_path)
    resumed = Recorder(tmp_path, {}, clock=Clock())
    write(resumed, range(5, 12), loss=2.0)  # longer than what was read before
    told = reader.read(tmp_path)
    assert told == telemetry.read(tmp_path)
    assert [row["loss_task"] for row in told["steps"]] == [1.0] * 4 + [2.0] * 7
    assert (len(told["dropped"]), told["dropped"][0]["id"]) == (MOST_DROPPED, "11-59")
    assert told["counts"] == {"benign": [11, 660]}
    assert told["references"] == [{"id": "r9", "weight": 1.0}]
    for after in (0, 4, 99):
        assert reader.read(tmp_path, after) == telemetry.read(tmp_path, after)
    (tmp_path / METRICS).unlink()
    assert reader.read(tmp_path)["steps"] == []


@pytest.mark.parametrize("name", [SELECTION, METRICS])
def test_a_line_is_taken_once_and_only_when_it_is_whole(tmp_path, name):
    reader, key = Reader(), "dropped" if name == SELECTION else "steps"
    line = json.dumps({"event": "dropped", "step": 1, "text": "fox ü"}, ensure_ascii=False).encode() + b"\n"
    cut = line.index("ü".encode()) + 1  # inside the character
    with (tmp_path / name).open("ab", buffering=0) as file:
        for piece, rows in ((line, 1), (line[:cut], 1), (line[cut:], 2), (b"", 2)):
            file.write(piece)
            assert len(reader.read(tmp_path)[key]) == rows
    assert reader.read(tmp_path)[key][0]["text"] == "fox ü"


def test_old_lines_are_not_read_again_and_only_a_few_runs_are_remembered(tmp_path):
    reader = Reader(runs=2)
    for run in ("1", "2", "3"):
        write(Recorder(tmp_path / run, {}, clock=Clock()), range(1, 21))
        reader.read(tmp_path / run)
    for run, kept in (("3", True), ("1", False)):
        path = tmp_path / run / METRICS
        text = path.read_text()
        half = text.index("\n", len(text) // 2)
        path.write_text("\n" * half + text[half:])  # what was read before is gone
        assert path.stat().st_size == len(text)
        assert (len(reader.read(tmp_path / run)["steps"]) == 20) == kept
