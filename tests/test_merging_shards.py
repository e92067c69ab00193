"""How weights are spread over files is no part of them: every method makes the same tensors of other shards."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from backend.checkpoints.folder import read_folder
from backend.merging.engine import merge_to_folder, merged_tensors, open_models
from backend.merging.request import check_request
from backend.registry import Plugin, methods
from backend.types import Checkpoint
from tests import tiny

METHODS = list(methods)
ROLES = ("aligned", "tuned", "second", "raw", "safe", "unaligned")
ORDERS = (1, 2)  # seeds


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def spread(folder: Path, out: Path, seed: int, per_shard: int) -> Checkpoint:
    """The model of `folder` again, its tensors shuffled and a few in each file, where they lie in that order too."""
    tensors = sorted(load_file(folder / "model.safetensors").items())
    random.Random(seed).shuffle(tensors)
    out.mkdir(parents=True)
    (out / "config.json").write_text((folder / "config.json").read_text())
    places = {}
    shards = [tensors[begin : begin + per_shard] for begin in range(0, len(tensors), per_shard)]
    for number, shard in enumerate(shards, 1):
        file, header, data = f"model-{number:05d}-of-{len(shards):05d}.safetensors", {}, b""
        for name, tensor in shard:
            ends = [len(data), len(data) + len(bits(tensor))]
            header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": ends}
            data += bits(tensor)
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        (out / file).write_bytes(len(head).to_bytes(8, "little") + head + data)
        places |= dict.fromkeys(header, file)
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return read_folder(out.parent.name, out)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: Any) -> dict[str, dict[str, Checkpoint]]:
    """The same family in one file each, and the aligned side, the other side and both in two shuffled orders."""
    root = tmp_path_factory.mktemp("shards")
    shape: dict[str, Any] = {"hidden": 16, "layers": 1, "vocabulary": 40, "words": False, "dtype": torch.bfloat16}
    for seed, role in enumerate(ROLES):
        near = None if role == "aligned" else root / "whole" / "aligned"
        tiny.folder(root / "whole" / role, seed=seed, near=near, **shape)
    whole = {role: read_folder(role, root / "whole" / role) for role in ROLES}
    found = {"one file": whole}
    for seed in ORDERS:
        places = {role: root / str(seed) / role for role in ROLES}
        shuffled = {
            role: spread(whole[role].folder, place, 10 * seed + number, 2 + number % 3)
            for number, (role, place) in enumerate(places.items())
        }
        found[f"aligned, order {seed}"] = whole | {"aligned": shuffled["aligned"]}
        found[f"others, order {seed}"] = shuffled | {"aligned": whole["aligned"]}
        found[f"both, order {seed}"] = shuffled
    return found


def knob_sets(method: Plugin, count: int) -> list[dict[str, Any]]:
    """Knobs under which every method changes something, and those that look at more than one tensor."""
    known = {parameter.name for parameter in method.parameters}
    usual = {"strength": 3000.0, "drop": 0.5}
    sets = [{name: value for name, value in usual.items() if name in known}]
    sets += [{"matrices": 3}] if "matrices" in known else []
    return [check_request(method, given, tuned=count, extras=method.facts["extras"]) for given in sets]


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_other_shards_and_orders_of_the_same_weights_give_the_same_bits(
    method: Plugin, layouts: dict[str, dict[str, Checkpoint]], tmp_path: Path
) -> None:
    least, most = method.facts["fine_tunes"]
    count = 2 if most is None else least
    grams = None
    if method.facts["calibration"]:
        shapes = {name: one.shape for name, one in layouts["one file"]["aligned"].tensors.items() if ".layers." in name}
        seen = torch.randn(50, 64, generator=torch.Generator().manual_seed(4))
        grams = {name: seen[:, : size[1]].T @ seen[:, : size[1]] for name, size in shapes.items() if len(size) == 2}
    for number, knobs in enumerate(knob_sets(method, count)):
        expected: dict[str, bytes] = {}
        for label, models in layouts.items():
            tuned = [models["tuned"], models["second"]][:count]
            extras = {role: models[role] for role in method.facts["extras"]}
            opened = open_models(models["aligned"], tuned, extras, grams=grams)
            found = {name: bits(tensor) for name, tensor in merged_tensors(opened, method, knobs, seed=11)}
            expected = expected or found
            assert found == expected, label
        out = tmp_path / str(number)  # of the last layout: writing takes longer than all the rest
        merge_to_folder(models["aligned"], tuned, method, knobs, out, extras=extras, grams=grams, seed=11)
        files = sorted(out.glob("*.safetensors"))
        assert len(files) == len({one.file for one in models["aligned"].tensors.values()}) > 3
        assert {name: bits(tensor) for file in files for name, tensor in load_file(file).items()} == expected
        whole = load_file(layouts["one file"]["aligned"].folder / "model.safetensors")
        assert any(bits(tensor) != expected[name] for name, tensor in whole.items())


def test_the_layouts_differ_as_they_should(layouts: dict[str, dict[str, Checkpoint]]) -> None:
    orders = {label: list(models["aligned"].tensors) for label, models in layouts.items()}
    assert len({tuple(names) for names in orders.values()}) == 1 + len(ORDERS)
    assert len({frozenset(names) for names in orders.values()}) == 1
    for label, models in layouts.items():
        shards = {role: len({one.file for one in model.tensors.values()}) for role, model in models.items()}
        assert (shards["aligned"] > 3) == label.startswith(("aligned", "both"))
        assert (shards["tuned"] > 3) == label.startswith(("others", "both"))
