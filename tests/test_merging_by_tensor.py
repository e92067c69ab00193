"""Weights and densities that differ between models, over the depth and by the names of tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.__main__ import main
from backend.checkpoints.folder import read_folder
from backend.checkpoints.reader import open_source
from backend.errors import UserError
from backend.merging.arithmetic import merge_one
from backend.merging.inputs import Bundle
from backend.merging.mergekit import from_mergekit, to_mergekit
from backend.merging.place import Place
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import methods
from backend.types import Checkpoint, TensorInfo
from tests import tiny

DENSE = [method for method in methods if any(one.name == "densities" for one in method.parameters)]
MLP_ONLY = [{"filter": "mlp", "value": 0.5}, {"value": 0.0}]


def bundle(name: str, count: int = 2) -> Bundle:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(16, 12, generator=generator)
    tuned = [start + 0.1 * torch.randn(16, 12, generator=generator) for _ in range(count)]
    return Bundle.of(Place(name, 3, 4), start, tuned)


@pytest.mark.parametrize("method", DENSE, ids=lambda method: method.name)
def test_one_density_for_each_model_is_density_where_all_are_equal(method: Any) -> None:
    made = bundle("layers.1.mlp.w")
    one = merge_one(made, method, check_request(method, {"density": 0.4}, tuned=2))
    each = merge_one(made, method, check_request(method, {"densities": [0.4, 0.4]}, tuned=2))
    other = merge_one(made, method, check_request(method, {"densities": [0.4, 0.8]}, tuned=2))
    assert torch.equal(one, each)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", DENSE, ids=lambda method: method.name)
def test_a_tensor_gets_the_numbers_of_its_depth_and_name(method: Any) -> None:
    varied = {"densities": [0.5, [0.8, 0.6]], "weights": [[0.0, 1.0, 0.2], MLP_ONLY]}
    checked = check_request(method, varied, tuned=2)
    for name, densities, weights in (
        ("layers.1.mlp.w", [0.5, 0.7], [1.0, 0.5]),
        ("layers.2.self_attn.w", [0.5, 0.6], [0.2, 0.0]),
        ("embed_tokens.weight", [0.5, 0.8], [0.0, 0.0]),
    ):
        plain = check_request(method, {"densities": densities, "weights": weights}, tuned=2)
        assert torch.equal(merge_one(bundle(name), method, checked), merge_one(bundle(name), method, plain)), name


def test_what_says_nothing_of_some_tensors_or_twice_is_refused() -> None:
    def sentence(name: str, parameters: dict[str, Any], tuned: int = 2) -> str:
        with pytest.raises(UserError) as caught:
            check_request(methods.get(name), parameters, tuned=tuned)
        return str(caught.value)

    for weights in (
        [1.0, [{"filter": "mlp", "value": 0.5}]],
        [1.0, [{"value": 0.5}, {"filter": "mlp", "value": 1.0}]],
        [1.0, [{"filter": "mlp"}, {"value": 1}]],
        [1.0, [{"filter": "mlp", "value": 9.0}, {"value": 1}]],
        [1.0, [0, 5]],
        [1.0, []],
        "[1, [0, 1]",
        [1.0, {"value": 1}],
    ):
        said = sentence("ties", {"weights": weights})
        assert said.startswith("weights: got")
        assert "numbers with commas from -2 to 2, or [1, [0, 0.5]] with a list over the depth" in said
    assert "allowed is numbers with commas from 0 to 2." in sentence("linear", {"weights": [1.0, [0, 1]]})
    assert "one number for each of the 2" in sentence("ties", {"densities": [[0.1, 1]]})
    assert sentence("ties", {"density": 0.3, "densities": [0.1, 1]}).endswith(
        "densities says it for every model. Empty densities, or leave density at 0.5."
    )
    said = sentence("della", {"densities": [0.5, [0.5, 0.9]], "epsilon": 0.2})
    assert said.startswith("epsilon: got 0.2; allowed is density − epsilon above 0")
    assert sentence("ties", {"densities": [0.4]}, tuned=1).startswith("densities: it changes nothing with one")
    assert check_request(methods.get("ties"), {"densities": [[0.4, 1]]})["densities"] == [[0.4, 1.0]]


def test_files_memory_recipe_and_mergekit_say_the_same(settings: Any, tmp_path: Path, monkeypatch: Any) -> None:
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    root = settings.models_root
    aligned = tiny.folder(root / "aligned", layers=3)
    tuned = [tiny.folder(root / f"tuned{seed}", seed=seed, near=aligned, layers=3) for seed in (1, 2)]
    knobs = {"densities": [0.3, [0.2, 0.9]], "weights": [[1.0, 0.0], MLP_ONLY]}
    words = ["merge", "--method", "ties", "--aligned", "aligned"]
    words += [part for one in tuned for part in ("--tuned", one.name)]
    words += [part for name, value in knobs.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    recipe = json.loads((tmp_path / "out/recipe.json").read_text())
    assert {name: recipe["parameters"][name] for name in knobs} == knobs
    assert main(["merge", "--recipe", str(tmp_path / "out/recipe.json"), "--out", str(tmp_path / "again")]) == 0
    merged, again = (load_file(tmp_path / one / "model.safetensors") for one in ("out", "again"))
    assert all(torch.equal(merged[name], again[name]) for name in merged)

    sources = [open_source(read_folder(one.name, one)) for one in (aligned, *tuned)]
    targets = {name: torch.empty_like(one) for name, one in merged.items()}
    effect = ResidentPair(sources[0], sources[1:]).write_into(targets, methods.get("ties"), recipe["parameters"])
    assert effect == recipe["effective"]
    assert all(torch.equal(targets[name], merged[name]) for name in merged)

    text = to_mergekit({"method": "ties", "aligned": "a", "tuned": ["b", "c"], "parameters": recipe["parameters"]})
    request = from_mergekit(text)
    assert check_request(methods.get("ties"), request["parameters"], tuned=2) == recipe["parameters"]

    def stacked(name: str) -> Checkpoint:
        names = ("layers.0.w", "layers.1.w", "vision_tower.encoder.layers.0.w")
        return Checkpoint(name, Path(), "full", {}, {one: TensorInfo(one, "F32", (1,), Path(), 0, 4) for one in names})

    with pytest.raises(UserError, match="each of the two stacks of layers"):
        from_mergekit(text, find=stacked)
