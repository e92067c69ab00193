"""Blocks give the bits of whole tensors, and a merge that was killed gives those of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from backend.checkpoints import guard
from backend.checkpoints import writer as writing
from backend.checkpoints.folder import read_folder
from backend.checkpoints.guard import estimate_merge
from backend.checkpoints.hashes import HashesAhead, file_hash, file_hashes
from backend.checkpoints.reader import open_source
from backend.errors import Cancelled, Interrupted, RunFailed, UserError
from backend.merging import arithmetic, blocks, passes, stream
from backend.merging.arithmetic import merge_block, merge_whole, rewrite, walked_step
from backend.merging.blocks import over_blocks, spans
from backend.merging.crew import Crew
from backend.merging.direct import needs_no_torch
from backend.merging.engine import merge_to_folder
from backend.merging.inputs import Bundle
from backend.merging.place import Place
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import Plugin, methods
from backend.types import Checkpoint
from tests import tiny
from tests.worlds import wait_until

ROOT = Path(__file__).resolve().parent.parent
CUT = [method for method in methods if method.facts["splits"] != "tensor"]
MERGE = """
import json, signal, sys
from backend.merging import blocks
blocks.WORTH = 1
from pathlib import Path
from backend.checkpoints.folder import read_folder
from backend.merging.engine import merge_to_folder
from backend.registry import methods
start, goal, out, name, knobs, most = sys.argv[1:]
if float(most) < 1:
    from tests.held_worker import save_every_tensor
    save_every_tensor()
pair = read_folder("aligned", Path(start)), read_folder("tuned", Path(goal))
def report(fraction, phrase):
    print(f"{fraction} {phrase}", flush=True)
    if fraction >= float(most):
        print("held", flush=True)
        signal.pause()
method = methods.get(name)
beside = {one: pair[1] for one in method.facts["extras"]}
merge_to_folder(*pair, method, json.loads(knobs), Path(out), extras=beside, report=report)
status = Path("/proc/self/status").read_text()
print(json.dumps({"peak": 1024 * int(status.split("VmHWM:")[1].split()[0])}))
"""


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def knob_sets(method: Plugin, tuned: int) -> list[dict[str, Any]]:
    """The defaults, and what changes which questions a method asks."""
    known = {parameter.name for parameter in method.parameters}
    wanted: list[dict[str, Any]] = [{}, {"rescale": "l1"}, {"density": 0.3, "epsilon": 0.1}, {"drop": 0.5}]
    chosen = [given for given in wanted if given.keys() <= known]
    return [check_request(method, given, tuned=tuned, extras=method.facts["extras"]) for given in chosen]


@pytest.mark.parametrize("method", CUT, ids=[method.name for method in CUT])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(33, 17), (601,), (3, 4, 50)], ids=str)
def test_blocks_give_the_bits_of_the_whole(method: Plugin, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(shape, generator=generator)
    others = [(start + 0.05 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(5)]
    least, most = method.facts["fine_tunes"]
    for count in {least, 2 if most is None else least}:
        extras = dict(zip(method.facts["extras"], others[2:], strict=False))
        bundle = Bundle.of(Place("layers.0.mlp.w", 2, 9), start.to(dtype), others[:count], extras)
        for knobs in knob_sets(method, count):
            expected = merge_whole(bundle, method, knobs)[0]
            splits = method.facts["splits"]
            for size in (20, 64, 10_000):
                cuts = spans(shape, splits, block=size)
                assert len(cuts) > 1 or size > 1000 or (splits == "rows" and len(shape) == 1)

                def visit(index: int, whole: blocks.Whole, cuts=cuts, knobs=knobs, splits=splits, bundle=bundle) -> Any:
                    return merge_block(bundle.block(*cuts[index], splits), method, knobs, whole)[0].reshape(-1)

                merged = torch.cat(list(over_blocks(expected.numel(), len(cuts), visit)))
                assert bits(merged) == bits(expected)


@pytest.mark.parametrize("method", [methods.get(name) for name in ("linear", "slerp", "ties", "resta")])
def test_rows_of_the_donor_stay_bit_for_bit_wherever_blocks_are_cut(method: Plugin) -> None:
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(33, 17, generator=generator)
    start[20:] = -0.0  # which arithmetic makes 0.0 of
    goal = start + torch.cat([0.05 * torch.randn(20, 17, generator=generator), torch.zeros(13, 17)])
    extras = {name: torch.cat([2 * start[:20], start[20:]]) for name in method.facts["extras"]}
    bundle = Bundle.of(Place("lm_head.weight", 2, 9), start, [goal], extras)
    (knobs,) = knob_sets(method, 1)[:1]
    knobs |= {method.facts["knob"]: 0.3}
    bundle = replace(bundle, shared=20 * 17)
    expected, _ = merge_whole(bundle, method, knobs)
    assert bits(expected[20:]) == bits(start[20:])
    assert not torch.equal(expected[:20], start[:20])
    for size in (20, 64, 10_000):
        cuts = spans(start.shape, method.facts["splits"], block=size)

        def visit(index: int, whole: blocks.Whole, cuts: Any = cuts) -> Any:
            return merge_block(bundle.block(*cuts[index], method.facts["splits"]), method, knobs, whole)[0].reshape(-1)

        assert bits(torch.cat(list(over_blocks(start.numel(), len(cuts), visit)))) == bits(expected)
    step = walked_step(bundle, method, knobs) if method.facts["gives"] == "step" else None
    target = torch.full_like(start, 7.0)
    if rewrite(bundle, method, knobs, target, step=step and step[0]):
        assert bits(target) == bits(expected)
    else:
        assert method.name == "slerp"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [20, 10_000], ids=["blocks", "whole"])
def test_a_blend_asks_its_tensors_once_for_all_lambda(dtype: torch.dtype, size: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(arithmetic, "BLOCK", size)
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(33, 17, generator=generator)
    goal = start + 0.5 * torch.randn(33, 17, generator=generator)
    bundle = Bundle.of(Place("layers.0.mlp.w", 2, 9), start.to(dtype), [goal.to(dtype)], {})
    slerp, answers, rewritten = methods.get("slerp"), [], []
    for lam in (0.3, 0.9, 0.0, 1.0, 0.3):
        expected = merge_whole(bundle, slerp, {"lam": lam})
        target = torch.full_like(bundle.aligned, 7.0)
        walk = rewrite(bundle, slerp, {"lam": lam}, target, answers=answers)
        found = (target, walk) if walk else merge_whole(bundle, slerp, {"lam": lam}, answers=answers)
        assert (bits(found[0]), found[1]) == (bits(expected[0]), expected[1])
        rewritten += [lam] if walk else []
    assert rewritten == [0.9, 0.3], "not where it is asked the first time, nor at the ends"
    monkeypatch.setattr(blocks, "_dots", None)  # what is known is not computed again
    assert rewrite(bundle, slerp, {"lam": 0.5}, target, answers=answers)


@pytest.fixture
def large(tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    """A pair in four shards whose tensors are several blocks each; one of them equal in both."""
    aligned = tiny.folder(tmp_path / "aligned", words=False, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for folder in (tmp_path / "aligned", tmp_path / "tuned"):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text((aligned / "config.json").read_text())
        (folder / "model.safetensors").unlink(missing_ok=True)
    names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(4) for part in ("up", "down", "gate")]
    places = {}
    for shard in range(4):
        file = f"model-{shard + 1:05d}-of-00004.safetensors"
        ours = {
            name: torch.randn(1500, 500, generator=generator).bfloat16() for name in names[3 * shard : 3 * shard + 3]
        }
        theirs = {
            name: one if name.endswith("gate_proj.weight") else one + 0.01 * torch.randn(1500, 500, generator=generator)
            for name, one in ours.items()
        }
        save_file(ours, tmp_path / "aligned" / file)
        save_file({name: one.bfloat16() for name, one in theirs.items()}, tmp_path / "tuned" / file)
        places |= dict.fromkeys(ours, file)
    for folder in ("aligned", "tuned"):
        (tmp_path / folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return read_folder("aligned", tmp_path / "aligned"), read_folder("tuned", tmp_path / "tuned")


def child(
    pair: tuple[Checkpoint, Checkpoint], out: Path, method: str, knobs: str = "{}", most: float = 2, code: Path = ROOT
) -> Any:
    """A merge in a process of its own, which stands still once it has done the share `most` of its work."""
    arguments = [str(pair[0].folder), str(pair[1].folder), str(out), method, knobs, str(most)]
    command = [sys.executable, "-c", MERGE, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=code)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "slerp", "karcher", "arcee_fusion"])
def test_files_equal_the_pair_in_memory_whatever_the_threads(large: Any, tmp_path: Path, method: str) -> None:
    plugin = methods.get(method)
    knobs = check_request(plugin, {})
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            recipe = merge_to_folder(*large, plugin, knobs, tmp_path / f"out{threads}")
        finally:
            torch.set_num_threads(1)
        found.append((recipe["files"], recipe["effective"]))
    assert found[0] == found[1]
    merged = open_source(read_folder("out", tmp_path / "out1"))
    targets = {name: torch.empty_like(merged.read(name)) for name in merged.names()}
    pair = ResidentPair(open_source(large[0]), open_source(large[1]))
    assert pair.write_into(targets, plugin, knobs) == recipe["effective"]
    assert all(bits(targets[name]) == bits(merged.read(name)) for name in merged.names())


@pytest.mark.parametrize("into", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp", "resta"])
def test_a_model_is_rewritten_with_the_bits_of_one_thread_without_numba(
    large: Any, method: str, into: torch.dtype, tmp_path: Path, monkeypatch: Any
) -> None:
    plugin, found = methods.get(method), []
    extras = dict.fromkeys(plugin.facts["extras"], open_source(large[1]))
    pair = ResidentPair(open_source(large[0]), open_source(large[1]), extras=extras)
    knob, knobs = plugin.facts["knob"], check_request(plugin, {}, extras=list(extras))
    for threads, worth in ((1, 2**40), (3, 2**40), (3, 1000)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(passes, "WORTH", worth)
        monkeypatch.setattr(passes, "CACHED", 5000)
        try:
            for lam in (0.2, 0.7):  # the second λ knows all that it asks of the pair
                targets = {name: torch.empty(one.shape, dtype=into) for name, one in large[0].tensors.items()}
                pair.write_into(targets, plugin, knobs | {knob: lam})
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        found.append({name: bits(target) for name, target in targets.items()})
    assert found[0] == found[1] == found[2]
    recipe = merge_to_folder(
        *large, plugin, knobs | {knob: 0.7}, tmp_path / "out", extras=dict.fromkeys(extras, large[1])
    )
    merged = open_source(read_folder("out", tmp_path / "out"))
    assert found[0] == {name: bits(merged.read(name).to(into)) for name in merged.names()}, recipe["method"]


HALF, FULL = torch.bfloat16, torch.float32
ODD = [0.0, -0.0, 1e-45, -1e-39, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1e-3, 3e17, -3e17]  # ties, denormals


@pytest.mark.parametrize("reads", [HALF, FULL], ids=str)
@pytest.mark.parametrize("stored", [HALF, FULL], ids=str)
@pytest.mark.parametrize("into", [HALF, FULL], ids=str)
def test_compiled_loops_round_as_torch_does(
    reads: torch.dtype, stored: torch.dtype, into: torch.dtype, monkeypatch: Any
) -> None:
    generator = torch.Generator().manual_seed(3)
    origin = torch.cat([torch.tensor(ODD), torch.randn(5000, generator=generator)]).to(reads)
    goal = origin[torch.randperm(len(origin), generator=generator)]
    step, found = goal.float() * (1 + 2**-12), []
    for worth in (2**40, 1):
        monkeypatch.setattr(passes, "WORTH", worth)
        targets = [torch.full(origin.shape, 7.0, dtype=into) for _ in range(4)]
        passes.write_step(origin, step, 0.3, targets[0], stored, Crew())
        passes.write_blend(origin, goal, (0.3, 0.71), targets[1], stored, Crew())
        for share, target in zip((0.3, 0.7), targets[2:], strict=True):
            passes.write_line(origin, goal, share, target, Crew())
        found.append([bits(target) for target in targets])
        assert (passes._loops_for(origin, targets[0], stored) is None) == (worth > 1)
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_walk_past_the_end_that_leaves_fp16_is_refused(method: str) -> None:
    plugin, ends = methods.get(method), [torch.tensor([0.0, 1.0]).half(), torch.tensor([6e4, 1.0]).half()]
    bundle = Bundle.of(Place("w"), ends[0], ends[1:])
    step = walked_step(bundle, plugin, {"lam": 1.5})[0] if plugin.facts["gives"] == "step" else None
    assert rewrite(bundle, plugin, {"lam": 1.5}, torch.empty_like(ends[0]), step=step) is None
    with pytest.raises(UserError, match="w: got 90000.0; allowed is up to 65504" if step else "w: got inf"):
        merge_whole(bundle, plugin, {"lam": 1.5})


def test_what_a_thread_of_a_crew_raises_is_raised() -> None:
    def fail(block: int) -> None:
        raise ValueError(f"block {block}")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="block 0"), Crew() as crew:
            crew.each(fail, [0, 1], torch.device("cpu"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@given(st.lists(st.sampled_from([0.0, 1e-45, 1e-20, 0.5, 1.0, 3.0, 1e30]), min_size=1, max_size=40), st.integers(1, 7))
def test_numbers_ranked_over_blocks_are_those_of_a_sorted_list(numbers: list[float], size: int) -> None:
    sizes = torch.tensor(numbers, dtype=torch.float32)
    cuts = spans(sizes.shape, block=size)
    places = sorted({0, len(numbers) // 2, len(numbers) - 1})
    (found, *_) = over_blocks(
        len(numbers), len(cuts), lambda index, whole: whole.ranked(sizes[slice(*cuts[index])], places)
    )
    assert found == sizes.sort().values[places].tolist()


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_a_killed_merge_goes_on_and_gives_the_same_bytes(large: Any, tmp_path: Path, method: str) -> None:
    straight = merge_to_folder(
        *large, methods.get(method), check_request(methods.get(method), {}), tmp_path / "straight"
    )
    journal = tmp_path / "out.tmp/journal.jsonl"
    with child(large, tmp_path / "out", method, most=0.4) as killed:
        assert "held\n" in killed.stdout
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    finished = [json.loads(line)[0] for line in journal.read_text().splitlines()[1:] if line.endswith("]")]
    assert 2 < len(finished) <= 12
    first = tmp_path / "out.tmp/model-00001-of-00004.safetensors"
    before = first.stat().st_ino
    recipe = merge_to_folder(*large, methods.get(method), check_request(methods.get(method), {}), tmp_path / "out")
    assert (tmp_path / "out" / first.name).stat().st_ino == before
    assert (recipe["files"], recipe["effective"]) == (straight["files"], straight["effective"])
    assert recipe.get("straight_lines") == straight.get("straight_lines")
    assert ("straight_lines" in recipe) == (method == "slerp")
    assert {name: file_hash(tmp_path / "out" / name) for name in recipe["files"]} == recipe["files"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in (tmp_path / "straight").iterdir()
    )


def test_what_an_older_version_of_the_arithmetic_left_is_begun_anew(large: Any, tmp_path: Path) -> None:
    older = tmp_path / "older"
    for folder in ("backend", "tests"):
        shutil.copytree(ROOT / folder, older / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (older / "backend/merging/ops.py").open("a") as source:
        source.write("# as it was before\n")
    with child(large, tmp_path / "out", "linear", most=0.4, code=older) as killed:
        assert "held\n" in killed.stdout
        killed.kill()
    first = tmp_path / "out.tmp/model-00001-of-00004.safetensors"
    with first.open("r+b") as file:  # what is taken over shows
        file.seek(-4, os.SEEK_END)
        file.write(b"past")
    recipe = merge_to_folder(*large, methods.get("linear"), {"lam": 0.5}, tmp_path / "out")
    straight = merge_to_folder(*large, methods.get("linear"), {"lam": 0.5}, tmp_path / "straight")
    assert recipe["files"] == straight["files"]
    assert {name: file_hash(tmp_path / "out" / name) for name in recipe["files"]} == recipe["files"]


class Killed(BaseException):
    """Stands for the end of the process: nothing is tidied up."""


def interrupted(large: Any, out: Path, monkeypatch: Any, knobs: dict[str, Any], tensors: int = 5) -> None:
    """Leave what a kill after some tensors leaves."""
    monkeypatch.setattr(writing, "SECONDS_BETWEEN_SAVES", -1.0)
    monkeypatch.setattr(writing.FolderWriter, "_abandon", lambda self: self._close())
    plugin = methods.get("linear")
    count = iter(range(1000))
    finish = writing.FolderWriter.finish

    def finishing(self: Any, name: str, note: Any = ()) -> None:
        finish(self, name, note)
        if self._save is not None:
            self._save.result()
        if next(count) == tensors:
            raise Killed

    monkeypatch.setattr(writing.FolderWriter, "finish", finishing)
    with pytest.raises(Killed):
        merge_to_folder(*large, plugin, check_request(plugin, knobs), out)
    monkeypatch.undo()


def test_other_knobs_void_what_was_finished_and_the_same_ones_do_not(
    large: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    plugin = methods.get("linear")
    put = writing.FolderWriter.put
    for knobs, expected in (({"lam": 0.5}, 6), ({"lam": 0.25}, 12)):
        out = tmp_path / f"out{expected}"
        interrupted(large, out, monkeypatch, {"lam": 0.5})
        written: set[str] = set()

        def counted(self: Any, name: str, begin: int, tensor: Tensor, written: set[str] = written) -> None:
            written.add(name)
            put(self, name, begin, tensor)

        with monkeypatch.context() as patch:
            patch.setattr(writing.FolderWriter, "put", counted)
            recipe = merge_to_folder(*large, plugin, check_request(plugin, knobs), out)
        assert len(written) == expected
        straight = merge_to_folder(*large, plugin, check_request(plugin, knobs), tmp_path / f"straight{expected}")
        assert recipe["files"] == straight["files"]


def test_the_key_of_a_merge_names_the_donor_the_chats_and_what_was_measured(large: Any, tmp_path: Path) -> None:
    keys = []

    class Seen(Exception):
        pass

    def noted(*_: Any, key: str, **__: Any) -> None:
        keys.append(key)
        raise Seen

    gram = {"model.layers.0.mlp.up_proj.weight": torch.eye(500)}
    cases: list[dict[str, Any]] = [{}, {"donor": "fine_tuned"}, {"calibration": {"sha256": "a"}}, {"grams": gram}]
    cases.append({"grams": {name: 2 * one for name, one in gram.items()}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.merging.engine.FolderWriter", noted)
        for case in [*cases, {}]:
            with pytest.raises(Seen):
                merge_to_folder(*large, methods.get("linear"), {"lam": 0.5}, tmp_path / "out", **case)
    assert len(set(keys)) == len(cases)
    assert keys[0] == keys[-1]


def test_changed_inputs_void_what_was_finished(large: Any, tmp_path: Path, monkeypatch: Any) -> None:
    plugin = methods.get("linear")
    interrupted(large, tmp_path / "out", monkeypatch, {"lam": 0.5})
    shard = large[1].folder / "model-00001-of-00004.safetensors"
    data = bytearray(shard.read_bytes())
    data[-2000:] = bytes(2000)
    shard.write_bytes(data)
    recipe = merge_to_folder(*large, plugin, {"lam": 0.5}, tmp_path / "out")
    assert recipe["files"] == merge_to_folder(*large, plugin, {"lam": 0.5}, tmp_path / "straight")["files"]


def test_a_header_that_never_reached_the_disk_is_written_again(large: Any, tmp_path: Path, monkeypatch: Any) -> None:
    interrupted(large, tmp_path / "out", monkeypatch, {"lam": 0.3})
    for shard in (tmp_path / "out.tmp").glob("*.safetensors"):  # what a power cut may leave of it
        with shard.open("r+b") as file:
            file.write(b"\0" * 64)
    linear = methods.get("linear")
    recipe = merge_to_folder(*large, linear, check_request(linear, {"lam": 0.3}), tmp_path / "out")
    assert {name: file_hash(tmp_path / "out" / name) for name in recipe["files"]} == recipe["files"]
    assert read_folder("out", tmp_path / "out").tensors.keys() == large[0].tensors.keys()


def test_an_input_that_changes_during_the_merge_fails_it_by_name(large: Any, tmp_path: Path) -> None:
    weights = next(iter(large[1].tensors.values())).file
    linear = methods.get("linear")
    with pytest.raises(RunFailed, match=r"tuned changed while it was merged; nothing was kept"):
        merge_to_folder(
            *large, linear, check_request(linear, {}), tmp_path / "out", report=lambda done, said: os.utime(weights)
        )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []


def test_an_interrupted_merge_goes_on_where_it_was(large: Any, tmp_path: Path) -> None:
    linear = methods.get("linear")
    knobs = check_request(linear, {})

    def stop(fraction: float, phrase: str) -> None:
        raise Interrupted("the worker stops")

    with pytest.raises(Interrupted):
        merge_to_folder(*large, linear, knobs, tmp_path / "out", report=stop)
    journal = tmp_path / "out.tmp/journal.jsonl"
    assert len(journal.read_text().splitlines()) >= 2
    before = (tmp_path / "out.tmp/model-00001-of-00004.safetensors").stat().st_ino
    recipe = merge_to_folder(*large, linear, knobs, tmp_path / "out")
    assert (tmp_path / "out/model-00001-of-00004.safetensors").stat().st_ino == before
    assert recipe["files"] == merge_to_folder(*large, linear, knobs, tmp_path / "straight")["files"]


def test_a_restarted_run_goes_on_with_what_the_killed_one_left(
    large: Any, tmp_path: Path, monkeypatch: Any, settings: Any
) -> None:
    from backend.api import Studio
    from backend.types import RunStatus

    for checkpoint in large:
        tiny.tokenizer().save_pretrained(checkpoint.folder)
    out, studio = tmp_path / "out", Studio(settings)
    request = {"aligned": str(large[0].folder), "tuned": str(large[1].folder), "method": "linear", "out": str(out)}
    try:
        run = studio.submit("merge", request | {"parameters": {"lam": 0.5}})
        interrupted(large, out, monkeypatch, {"lam": 0.5})
        first = out.with_name("out.tmp") / "model-00001-of-00004.safetensors"
        before = first.stat().st_ino
        done = studio.wait(run.id)
        assert (done.status, done.error) == (RunStatus.DONE, "")
    finally:
        studio.close()
    assert (out / first.name).stat().st_ino == before
    straight = merge_to_folder(*large, methods.get("linear"), {"lam": 0.5}, tmp_path / "straight")
    assert json.loads((out / "recipe.json").read_text())["files"] == straight["files"]


def test_a_merge_stops_between_blocks_and_leaves_nothing(large: Any, tmp_path: Path) -> None:
    calls = iter(range(10_000))
    with pytest.raises(Cancelled):
        merge_to_folder(
            *large,
            methods.get("ties"),
            {"lam": 0.5, "density": 0.5},
            tmp_path / "out",
            should_stop=lambda: next(calls) > 3,
        )
    assert {path.name for path in tmp_path.iterdir()} == {"aligned", "tuned"}
    assert next(calls) < 8


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_the_estimate_counts_the_blocks_that_a_merge_holds() -> None:
    assert (guard.BLOCK, guard.THREADS, guard.BLOCKS_HELD) == (blocks.BLOCK, stream.MOST_THREADS, stream.AHEAD + 1)


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "dare_linear", "karcher", "arcee_fusion", "safe_lora"])
def test_memory_is_what_the_estimate_says(large: Any, tmp_path: Path, method: str) -> None:
    facts = methods.get(method).facts
    assert (facts["splits"] == "tensor") == (method == "safe_lora")
    light = needs_no_torch(methods.get(method), large[0], [large[1]] * (1 + len(facts["extras"])))
    assert light == (method in ("linear", "slerp"))
    whole = facts["splits"] == "tensor"
    told = estimate_merge(*large, *[large[1]] * len(facts["extras"]), whole=whole, light=light).memory
    knobs = '{"rescale": "l1"}' if method == "dare_linear" else "{}"
    with child(large, tmp_path / "out", method, knobs) as process:
        said, _ = process.communicate()
    assert process.returncode == 0
    peak = json.loads(said.splitlines()[-1])["peak"]
    assert 0.5 * told < peak <= told, f"{peak} of {told}"


def test_hashes_made_beside_other_work_are_those_of_the_files(large: Any, monkeypatch: Any) -> None:
    from backend.checkpoints import hashes

    monkeypatch.setattr(hashes, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(hashes, "_known", {})
    with HashesAhead(large) as ahead:
        ahead.wait()
        assert len(hashes._known) == 8
    found = [file_hashes(one) for one in large]
    monkeypatch.setattr(hashes, "_known", {})
    assert found == [file_hashes(one) for one in large]


def test_hashes_are_kept_for_the_next_process_and_never_for_changed_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    from backend.checkpoints import hashes

    monkeypatch.setattr(hashes, "_known", {})
    file, kept = tmp_path / "model.safetensors", tmp_path / "home" / "hashes.json"
    file.write_bytes(bytes(hashes.WORTH_KEEPING))
    first = hashes.file_hash(file)
    hashes.remember(kept)
    hashes._known.clear()
    hashes.recall(kept)
    with monkeypatch.context() as broken:
        broken.setattr(hashes.hashlib, "sha256", lambda: pytest.fail("the file was read again"))
        assert hashes.file_hash(file) == first
    before, probe = file.stat(), tmp_path / "probe"

    def later() -> bool:
        probe.write_text("")
        return probe.stat().st_ctime_ns > before.st_ctime_ns

    wait_until(later)  # a file system's clock may tick only a hundred times a second
    file.write_bytes(b"\1" * hashes.WORTH_KEEPING)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same path, inode, size and time of change
    assert hashes.file_hash(file) != first
    kept.write_text("[[1, 2")
    hashes.recall(kept)
    hashes.remember(kept)
    assert len(json.loads(kept.read_text())) == 1
