"""Every method from the command line, in files and in memory; recipes that replay; mergekit's files in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backend.__main__ import main
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.inference.activations import gram_matrices
from backend.inference.model import load
from backend.jobs.calibration import read_chats
from backend.jobs.planning import make_plan
from backend.merging.engine import merge_to_folder, open_models
from backend.merging.mergekit import SHARED, from_mergekit, to_mergekit
from backend.merging.resident import ResidentPair
from backend.registry import Plugin, methods
from tests import tiny

METHODS = list(methods)
CHATS = "demo/references"
NAMES = ("tuned", "second", "raw", "safe", "unaligned")
each_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])


@pytest.fixture
def world(settings, monkeypatch, tmp_path: Path) -> Path:
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    root = settings.models_root
    aligned = tiny.folder(root / "aligned", "llama", dtype=torch.bfloat16, shard="20KB")
    for seed, name in enumerate(NAMES, 1):
        tiny.folder(root / name, "llama", dtype=torch.bfloat16, seed=seed, near=aligned)
    tiny.adapter(root / "lora", aligned)
    return tmp_path


def inputs(method: Plugin) -> dict[str, Any]:
    count = method.facts["fine_tunes"][0]
    given = {"aligned": "aligned", "tuned": list(NAMES[:count])} | {role: role for role in method.facts["extras"]}
    return given | ({"calibration": CHATS} if method.facts["calibration"] else {})


def words(method: Plugin, request: dict[str, Any]) -> list[str]:
    pairs = [("method", method.name), ("aligned", request["aligned"])]
    pairs += [("tuned", name) for name in request["tuned"]]
    pairs += [(role, request[role]) for role in method.facts["extras"]]
    return [part for name, value in pairs for part in (f"--{name}", value)]


@each_method
def test_every_method_writes_a_folder_that_loads_and_equals_the_models_in_memory(
    method: Plugin, world: Path, settings
) -> None:
    request = inputs(method)
    spec = make_plan(settings, "merge", request | {"method": method.name, "seed": 5}).spec
    aligned = resolve("aligned", settings)
    tuned = [resolve(name, settings) for name in request["tuned"]]
    extras = {role: resolve(role, settings) for role in method.facts["extras"]}
    grams = {}
    if method.facts["calibration"]:
        responder = load(aligned, device=torch.device("cpu"))
        grams = gram_matrices(responder.model, [responder.encode_chat(c) for c in read_chats(settings, CHATS)][:3])
    parameters = spec["parameters"]
    recipe = merge_to_folder(aligned, tuned, method, parameters, world / "out", extras=extras, grams=grams, seed=5)
    merged = AutoModelForCausalLM.from_pretrained(world / "out")
    target = AutoModelForCausalLM.from_pretrained(aligned.folder)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    resident = ResidentPair.of(open_models(aligned, tuned, extras, grams=grams), seed=5)
    knob = method.facts["knob"]
    for value in (0.1, spec["parameters"][knob]):  # the second time with what the first one kept
        effect = resident.write_into(target.state_dict(), method, spec["parameters"] | {knob: value})
    assert effect == recipe["effective"]
    assert all(torch.equal(merged.state_dict()[name], tensor) for name, tensor in target.state_dict().items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("name", ["dare_ties", "safemerge"])
def test_a_recipe_replays_to_the_same_bytes(name: str, world: Path, capsys) -> None:
    method = methods.get(name)
    first, second = world / "first", world / "second"
    assert main(["merge", *words(method, inputs(method)), "--seed", "7", "--out", str(first), "--json"]) == 0
    assert main(["merge", "--recipe", str(first / "recipe.json"), "--out", str(second), "--json"]) == 0
    for path in first.glob("*.safetensors"):
        assert path.read_bytes() == (second / path.name).read_bytes()
    recipes = [json.loads((folder / "recipe.json").read_text()) for folder in (first, second)]
    assert recipes[0] == recipes[1]
    assert recipes[0]["seed"] == 7


def test_a_recipe_is_refused_for_other_weights_and_other_files(world: Path, settings, capsys) -> None:
    def refused(*command: str) -> str:
        capsys.readouterr()
        assert main(["merge", *command]) == 2
        return capsys.readouterr().err.strip()

    out = world / "out"
    assert main(["merge", "--aligned", "aligned", "--tuned", "tuned", "--out", str(out)]) == 0
    sentence = refused("--recipe", str(out), "--tuned", "second")
    assert "tuned: second holds other weights than the recipe's tuned" in sentence
    assert "Leave out the others" in refused("--recipe", str(out), "--lambda", "0.2")
    assert "cannot be read" in refused("--recipe", str(world / "none.json"))
    for text, said in (("{", "no JSON"), ("[]", "no recipe"), ("{}", "has no method")):
        (world / "bad.json").write_text(text)
        assert said in refused("--recipe", str(world / "bad.json"))


@pytest.mark.parametrize("name", SHARED)
def test_what_is_written_for_mergekit_comes_back_as_the_same_merge(name: str, world: Path, settings) -> None:
    method = methods.get(name)
    given = {"lam": 0.25} if name in ("linear", "slerp", "ties", "task_arithmetic", "dare_ties", "breadcrumbs") else {}
    given |= {"rescale": "l1"} if any(p.name == "rescale" for p in method.parameters) else {}
    spec = make_plan(settings, "merge", inputs(method) | {"method": name, "parameters": given}).spec
    request = from_mergekit(to_mergekit(spec), "aligned")
    again = make_plan(settings, "merge", request).spec
    changed = {key for key in spec["parameters"] if spec["parameters"][key] != again["parameters"][key]}
    assert changed <= {"weights"}  # none given is written as ones
    assert {**again, "parameters": 0} == {**spec, "parameters": 0}


def test_merging_from_a_mergekit_file_and_writing_one(world: Path, capsys) -> None:
    config, out, written = world / "config.yml", world / "out", world / "written.yml"
    config.write_text("""
merge_method: ties
base_model: aligned
models:
  - model: tuned
    parameters: {weight: 0.3, density: 0.4}
  - {model: second, parameters: {weight: 0.6, density: 0.4}}
parameters: {lambda: 0.8, int8_mask: true}
dtype: bfloat16
""")
    assert main(["merge", "--from-mergekit", str(config), "--out", str(out), "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert recipe["parameters"]["weights"] == [0.3, 0.6]
    assert (recipe["parameters"]["density"], recipe["parameters"]["lam"]) == (0.4, 0.8)
    assert main(["merge", "--from-mergekit", str(config), "--to-mergekit", str(written)]) == 0
    assert "lambda: 0.8" in written.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_method: [", "no YAML in line 1"),
        ("models: []", "no merge_method"),
        ("merge_method: teis", 'Did you mean "ties"'),
        ("{merge_method: slerp, models: []}", "which model is the aligned one"),
        ("{merge_method: slerp, base_model: a, models: [{model: b}], parameters: {t: [0, 1]}}", "layerwise"),
        ("{merge_method: slerp, base_model: a, models: [{model: b}], parameters: {t: x}}", "t is 'x'"),
        ("{merge_method: ties, base_model: a, models: [{}]}", "a model has no name"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], parameters: {densty: 1}}", 'mean "density"'),
        ("{merge_method: ties, base_model: a, models: [{model: b, parameters: {epsilon: 1}}]}", 'no "epsilon"'),
        ("{merge_method: slerp, base_model: a, models: [{model: b, wieght: 1}]}", "a model has `wieght`"),
        ("{merge_method: ties, base_model: a, models: {model: b}}", "models are no list"),
        ("{merge_method: ties, base_model: a}", "models are no list"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], tokenizer_source: union}", "is 'union'; allowed"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], out_dtype: float16}", "keeps the aligned model's"),
        ("{merge_method: passthrough, base_model: a, slices: [{}, {}]}", "layers of different models"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], modules: {}}", "`modules` has no counterpart"),
        ("{merge_method: ties, base_model: a, models: [{model: c+b}]}", "stands on another model"),
        (
            "{merge_method: linear, base_model: a, models: [{model: b}], parameters: {normalize: false, weight: 2}}",
            "sum",
        ),
    ],
)
def test_a_mergekit_file_that_means_something_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_mergekit(text)


def test_a_slice_is_whole_models_only_if_it_ends_with_their_last_layer() -> None:
    text = "{merge_method: slerp, base_model: a, parameters: {t: 0.3}, slices: [{sources: [%s]}]}"
    whole, part = (
        text % f"{{model: a, layer_range: [0, {end}]}}, {{model: b, layer_range: [0, {end}]}}" for end in (12, 8)
    )
    assert from_mergekit(whole, layers_of=lambda name: 12)["tuned"] == ["b"]
    for layers in (12, None):
        with pytest.raises(UserError, match=r"takes the layers \[0, 8\] of a with"):
            from_mergekit(part, layers_of=lambda name, layers=layers: layers)


def test_what_mergekit_lacks_is_not_written() -> None:
    pair = {"aligned": "a", "tuned": "b"}
    for method, parameters in (
        ("resta", {}),
        ("dare_linear", {"rescale": "inverse"}),
        ("ties", {"election": "total"}),
        ("karcher", {"lam": 0.5}),
    ):
        with pytest.raises(UserError, match="mergekit"):
            to_mergekit({"method": method, "parameters": parameters, **pair})


def test_adapters_merge_by_every_method_of_one_pair_as_their_full_weights_do(world: Path, settings) -> None:
    aligned, lora = resolve("aligned", settings), resolve("lora", settings)
    merge_to_folder(aligned, lora, methods.get("linear"), {"lam": 1.0}, settings.models_root / "full")
    full = resolve("full", settings)
    for name in ("ties", "slerp", "breadcrumbs", "layerwise"):
        method = methods.get(name)
        for tuned, out in ((lora, "of-lora"), (full, "of-full")):
            merge_to_folder(aligned, tuned, method, {"lam": 0.5}, world / name / out)
        one, other = (load_all(world / name / out) for out in ("of-lora", "of-full"))
        far = sum(float((one[key].double() - other[key].double()).norm() ** 2) for key in one) ** 0.5
        size = sum(float(one[key].double().norm() ** 2) for key in one) ** 0.5
        assert far < 0.01 * size  # the full one was rounded to bf16 first


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
