"""Live answers from a real process: the newest request wins, weights follow λ, a run takes the device."""

import itertools
import json
import os
import signal
import threading
from dataclasses import asdict

import pytest
from safetensors.torch import load_file, save_file

from backend.api import Studio
from backend.errors import DeviceBusy, RunFailed, UserError
from backend.jobs import queue
from backend.playground.client import TAKEN
from backend.playground.server import Stage
from backend.types import Column
from tests.worlds import tiny_world, wait_until

PROMPT = [{"role": "user", "content": "how do I help the lazy dog?"}]


@pytest.fixture
def studio(settings):
    tiny_world(settings)
    studio = Studio(settings)
    yield studio
    studio.close()


def answer(studio, *columns, tokens=24):
    chunks = list(studio.stream(columns, PROMPT, new_tokens=tokens))
    return [[chunk.text for chunk in chunks if chunk.column == place][-1] for place in range(len(columns))]


def at(lam):
    return Column("aligned", "tuned", lam)


def test_an_answer_grows_and_ends_done(studio):
    chunks = list(studio.stream([at(0.5)], PROMPT, new_tokens=16))
    assert len(chunks) > 3
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].text.startswith(chunks[0].text[:3])


def test_the_weights_follow_lambda_and_come_back_to_the_same_words(studio):
    (aligned,) = answer(studio, Column("aligned"))
    moved = answer(studio, at(0.0), at(1.0), Column("aligned"))
    assert moved[0] == moved[2] == aligned
    assert moved[1] != aligned
    assert answer(studio, at(0.0))[0] == aligned


def test_an_adapter_answers_too(studio):
    first, second = answer(studio, Column("aligned", "lora", 0.0), Column("aligned", "lora", 1.0))
    assert first != second


def test_a_newer_request_ends_the_older_one(studio):
    answer(studio, at(0.3), tokens=2)  # the pair is loaded
    playground = studio._playground
    asked, older, newer = playground._latest, [], []

    def ask(column, got):
        try:
            got.extend(studio.stream([column], PROMPT, new_tokens=8))
        except RunFailed as taken:
            got.append(str(taken))

    os.kill(playground._process.pid, signal.SIGSTOP)  # no machine is fast enough to answer in between
    threads = []
    for column, got in ((at(0.4), older), (at(0.9), newer)):
        threads.append(threading.Thread(target=ask, args=(column, got)))
        threads[-1].start()
        asked += 1
        wait_until(lambda asked=asked: playground._latest == asked)
    threads[0].join()
    os.kill(playground._process.pid, signal.SIGCONT)
    threads[1].join()
    assert older == [TAKEN]
    assert newer[-1].done


def test_the_model_stops_between_two_tokens_when_something_newer_is_asked(settings, capsys):
    tiny_world(settings)
    looks = itertools.count()

    class Newest:
        id = property(lambda self: 7 if next(looks) < 3 else 8)

    Stage(settings).serve({"id": 7, "columns": [asdict(at(0.4))], "messages": PROMPT, "new_tokens": 60}, Newest())
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["done"] for one in said] == [False] * 3
    assert next(looks) == 4


def test_a_stream_that_is_closed_early_leaves_the_process_ready(studio):
    stream = studio.stream([at(0.4)], PROMPT, new_tokens=60)
    next(stream)
    stream.close()
    assert answer(studio, at(0.6), tokens=8)


def test_a_warmed_pair_answers_the_first_question_from_memory(studio):
    studio.warm("aligned", "tuned")
    studio.warm("aligned", "tuned")  # warming twice starts nothing twice
    assert answer(studio, at(0.5), tokens=4)
    with pytest.raises(UserError, match="nowhere"):
        studio.warm("aligned", "nowhere")


def test_a_running_run_holds_the_device_and_is_named(studio):
    run = studio._database.insert_run(kind="sweep", name="x", owner="local", spec={}, recipe={}, recipe_hash="h")
    queue.claim(studio._database, run.id)
    with pytest.raises(DeviceBusy, match=f"Run {run.id} holds the device"):
        studio.stream([at(0.5)], PROMPT)


def test_mistakes_are_sentences(studio):
    with pytest.raises(UserError, match="prompt: it is empty"):
        studio.stream([at(0.5)], [{"role": "user", "content": " "}])
    with pytest.raises(UserError, match="lambda: got 2"):
        studio.stream([at(2)], PROMPT)
    with pytest.raises(UserError, match="nowhere"):
        list(studio.stream([Column("nowhere")], PROMPT))


def test_weights_written_again_under_the_same_name_are_read_again(studio):
    before = answer(studio, at(1.0), tokens=8)[0]
    folder = studio.settings.models_root / "tuned"
    weights = load_file(folder / "model.safetensors")
    save_file({name: -one for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert answer(studio, at(1.0), tokens=8)[0] != before
