"""Every method from the command line, in files and in memory; recipes that replay; mergekit's files in and out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backend.__main__ import main
from backend.checkpoints.resolve import resolve
from backend.commands import merge as merge_command
from backend.errors import RunFailed, UserError
from backend.inference.activations import gram_matrices
from backend.inference.model import load
from backend.jobs.calibration import read_chats
from backend.jobs.merge import merge_device
from backend.jobs.planning import make_plan
from backend.jobs.replay import check_result
from backend.merging.engine import merge_to_folder, open_models
from backend.merging.mergekit import SHARED, from_mergekit, to_mergekit
from backend.merging.place import Place
from backend.merging.resident import ResidentPair
from backend.registry import Plugin, methods
from backend.types import Checkpoint, TensorInfo
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
    towards_nothing = method.facts["fine_tunes"][1] == 0  # it changes the aligned model, and there is no task vector
    assert [effect[name] is None for name in ("projection", "distance")] == [towards_nothing] * 2
    assert ("shift" in effect) == towards_nothing
    card = (world / "out" / "README.md").read_text()
    assert ("in units of the aligned model's own length" in card) == towards_nothing
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
    assert (recipes[0]["seed"], recipes[0]["device"]) == (7, "cpu")
    elsewhere = recipes[0] | {"device": "cuda", "files": dict.fromkeys(recipes[0]["files"], "of a GPU")}
    (world / "gpu.json").write_text(json.dumps(elsewhere))
    capsys.readouterr()
    assert main(["merge", "--recipe", str(world / "gpu.json"), "--out", str(world / "third")]) == 1
    assert (
        f"made with torch {torch.__version__} on cuda, now torch {torch.__version__} on cpu" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ({}, r"versions and device \(torch 2 on cpu\) are the same, so another processor or an older studio made it"),
        ({"versions": {"torch": "1", "python": "3"}}, "made with torch 1 on cpu, now torch 2 on cpu"),
        (
            {"versions": {"torch": "2", "python": "4"}, "device": "cuda"},
            "made with torch 2, python 4 on cuda, now torch 2, python 3 on cpu",
        ),
    ],
)
def test_a_replay_that_gave_other_bytes_names_what_was_different(then: dict[str, Any], said: str) -> None:
    recipe = {"files": {"w": "a"}, "versions": {"python": "3", "torch": "2"}}
    check_result(recipe | then, recipe)
    with pytest.raises(RunFailed, match=f"^w is not the recipe's byte for byte: {said}. The folder was kept"):
        check_result(recipe | then, recipe | {"files": {"w": "b"}})


@pytest.mark.parametrize(
    ("device", "method", "recorded", "expected"),
    [
        ("auto", "linear", "", "cpu"),  # bound by the disk
        ("auto", "lox", "", "cuda"),
        ("auto", "linear", "cuda", "cuda"),
        ("auto", "lox", "cpu", "cpu"),
        ("cuda", "linear", "cpu", "cuda"),
        ("cpu", "lox", "cuda", "cpu"),
    ],
)
def test_where_a_merge_computes(settings, monkeypatch, device, method, recorded, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert merge_device(replace(settings, device=device), methods.get(method), recorded) == expected


def test_a_recipe_is_refused_for_other_weights_and_other_files(world: Path, settings, capsys) -> None:
    def refused(*command: str) -> str:
        capsys.readouterr()
        assert main(["merge", *command]) == 2
        return capsys.readouterr().err.strip()

    out = world / "out"
    assert main(["merge", "--aligned", "aligned", "--tuned", "tuned", "--out", str(out)]) == 0
    sentence = refused("--recipe", str(out), "--tuned", "second")
    assert "tuned: second holds other weights than the recipe's tuned" in sentence
    assert "cannot be read" in refused("--recipe", str(world / "none.json"))
    strange = json.dumps(json.loads((out / "recipe.json").read_text()) | {"device": "tpu"})
    for text, said in (("{", "no JSON"), ("[]", "no recipe"), ("{}", "has no method"), (strange, "no device we know")):
        (world / "bad.json").write_text(text)
        assert said in refused("--recipe", str(world / "bad.json"))


def test_what_a_file_says_is_not_said_beside_it(world: Path, capsys) -> None:
    def refused(*command: str) -> str:
        assert main(["merge", *command, "--out", str(world / "out")]) == 2
        return capsys.readouterr().err.strip()

    recipe = "error: recipe: the file says that itself. Leave out"
    for option, value in (("--lambda", "0.2"), ("--set", "lam=1"), ("--method", "ties"), ("--donor", "fine_tuned")):
        assert refused("--recipe", "r.json", option, value) == f"{recipe} {option}."
    assert refused("--recipe", "r.json", "--from-mergekit", "f.yml", "--seed", "0") == (
        f"{recipe} --from-mergekit and --seed."
    )
    mergekit = "error: from-mergekit: the file says that itself. Leave out"
    for option in ("--tuned", "--raw", "--calibration", "--donor", "--lambda"):
        assert refused("--from-mergekit", "f.yml", option, "1") == f"{mergekit} {option}."
    (world / "f.yml").write_text("{merge_method: ties, base_model: aligned, models: [{model: tuned}]}")
    other = refused("--from-mergekit", str(world / "f.yml"), "--aligned", "raw")
    assert other.startswith("error: aligned: the configuration has base_model aligned, and raw was given.")
    same = str(world / "home" / "models" / "aligned")
    assert main(["merge", "--from-mergekit", str(world / "f.yml"), "--aligned", same, "--dry-run"]) == 0


def test_a_recipe_of_folders_that_lie_elsewhere_now_says_which_option_names_them(world: Path, settings, capsys) -> None:
    out, elsewhere = world / "out", world / "elsewhere"
    assert main(["merge", *words(methods.get("safe_lora"), inputs(methods.get("safe_lora"))), "--out", str(out)]) == 0
    settings.models_root.rename(elsewhere)
    settings.models_root.mkdir()

    def refused(*command: str) -> str:
        capsys.readouterr()
        assert main(["merge", "--recipe", str(out), "--out", str(world / "again"), *command]) == 2
        return capsys.readouterr().err.strip()

    found: list[str] = []
    for role in ("aligned", "tuned", "raw"):
        problem = f'error: {role}: the recipe names the folder "{role}", and none of that name is here'
        assert refused(*found) == f"{problem}. Name its folder with --{role}."
        found += [f"--{role}", str(elsewhere / role)]
    assert main(["merge", "--recipe", str(out), "--out", str(world / "again"), *found]) == 0
    recipe = json.loads((out / "recipe.json").read_text())
    several = recipe | {"fine_tuned": recipe["fine_tuned"] * 2}
    (out / "recipe.json").write_text(json.dumps(several))
    assert refused("--aligned", "demo/aligned").endswith("all fine-tuned models, in the recipe's order, with --tuned.")


@pytest.mark.parametrize("name", SHARED)
def test_what_is_written_for_mergekit_comes_back_as_the_same_merge(name: str, world: Path, settings) -> None:
    method = methods.get(name)
    given = {"lam": 0.25} if name in ("linear", "slerp", "ties", "task_arithmetic", "dare_ties", "breadcrumbs") else {}
    given |= {"rescale": "l1"} if any(p.name == "rescale" for p in method.parameters) else {}
    donor = {"donor": "fine_tuned"} if name in ("linear", "ties", "nuslerp", "karcher") else {}
    spec = make_plan(settings, "merge", inputs(method) | {"method": name, "parameters": given} | donor).spec
    given_models = {one: resolve(one, settings) for one in (*NAMES, "aligned")}
    text = to_mergekit(spec, aligned=given_models["aligned"])
    assert "dtype: float32\nout_dtype: bfloat16\n" in text
    request = from_mergekit(text, "aligned", find=given_models.get)
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


def test_a_mergekit_file_is_written_where_there_is_none_or_not_at_all(world: Path, capsys) -> None:
    written = world / "written.yml"
    command = ["merge", "--aligned", "aligned", "--tuned", "tuned", "--to-mergekit"]
    assert main([*command, str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mergekit": str(written)}
    before = written.read_text()

    def refused(*more: str) -> str:
        assert main([*command, *more]) == 2
        return capsys.readouterr().err.strip()

    sentence = f"error: to-mergekit: {written} exists. Name a new file, or move this one away."
    assert refused(str(written), "--lambda", "0.9") == sentence
    assert written.read_text() == before
    missing = f"error: to-mergekit: {world / 'missing'} is no folder that can be written to."
    assert refused(str(world / "missing" / "x.yml"), "--method", "no such method").startswith(missing)
    assert refused(str(world / "x.yml"), "--out", str(world / "out")).endswith("merges nothing. Leave out --out.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_method: [", "no YAML in line 1"),
        ("models: []", "no merge_method"),
        ("merge_method: teis", 'Did you mean "ties"'),
        ("{merge_method: slerp, models: []}", "which model is the aligned one"),
        ("{merge_method: slerp, base_model: a, models: [{model: b}], parameters: {t: [0, 1]}}", "slerp_curves"),
        ("{merge_method: slerp, base_model: a, models: [{model: b}], parameters: {t: x}}", "t is 'x'"),
        ("{merge_method: ties, base_model: a, models: [{}]}", "a model has no name"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], parameters: {densty: 1}}", 'mean "density"'),
        ("{merge_method: ties, base_model: a, models: [{model: b, parameters: {epsilon: 1}}]}", 'no "epsilon"'),
        ("{merge_method: slerp, base_model: a, models: [{model: b, wieght: 1}]}", "a model has `wieght`"),
        ("{merge_method: ties, base_model: a, models: {model: b}}", "models are no list"),
        ("{merge_method: ties, base_model: a}", "models are no list"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], tokenizer_source: union}", "is 'union'; allowed"),
        ("{merge_method: passthrough, base_model: a, slices: [{}, {}]}", "layers of different models"),
        ("{merge_method: ties, base_model: a, models: [{model: b}], modules: {}}", "`modules` has no counterpart"),
        ("{merge_method: ties, base_model: a, models: [{model: c+b}]}", "stands on another model"),
        (
            "{merge_method: linear, base_model: a, models: [{model: b}], parameters: {normalize: false, weight: 2}}",
            "sum",
        ),
        ("{merge_method: linear, base_model: a, models: [{model: b, parameters: {weight: x}}]}", "weight is 'x'"),
    ],
)
def test_a_mergekit_file_that_means_something_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_mergekit(text)


LLAMA = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] + [
    f"model.layers.{layer}.{name}.weight"
    for layer in range(5)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm")
]
LINEAR_BY_FILTER = """
merge_method: linear
models:
  - {model: a, parameters: {weight: [{filter: self_attn, value: 0.75}, {filter: mlp, value: 0.5}, {value: 0.25}]}}
  - {model: b, parameters: {weight: [{filter: self_attn, value: 0.25}, {filter: mlp, value: 0.5}, {value: 0.75}]}}
"""


def llama(name: str, layers: int = 5) -> Checkpoint:
    """A model of five layers, known by its tensors' names."""
    tensors = {tensor: TensorInfo(tensor, "BF16", (1,), Path(), 0, 2) for tensor in LLAMA}
    return Checkpoint(name, Path("nowhere"), "full", {"num_hidden_layers": layers}, tensors)


def walked(text: str, name: str) -> float:
    """The share of the way that the studio's merge of a mergekit file walks for one tensor."""
    request = from_mergekit(text, "a", find=llama)
    assert (request["method"], request["aligned"], request["tuned"]) == ("layerwise", "a", ["b"])
    step = methods.get("layerwise").function([torch.ones(1)], Place(name, layers=5), **request["parameters"])
    return float(step) * request["parameters"]["lam"]


def test_weights_by_kind_of_module_become_layerwise() -> None:
    for name in LLAMA:
        expected = 0.25 if "self_attn" in name else 0.5 if "mlp" in name else 0.75
        assert walked(LINEAR_BY_FILTER, name) == pytest.approx(expected)


def test_a_mergekit_file_with_weights_by_kind_merges_as_it_says(world: Path, capsys) -> None:
    config, out = world / "config.yml", world / "out"
    config.write_text(LINEAR_BY_FILTER.replace("model: a", "model: aligned").replace("model: b", "model: tuned"))
    command = ["merge", "--from-mergekit", str(config), "--aligned", "aligned", "--out", str(out), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["method"] == "layerwise"
    models = world / "home" / "models"
    ours, theirs, merged = (load_all(folder) for folder in (models / "aligned", models / "tuned", out))
    for name, tensor in merged.items():
        share = 0.25 if "self_attn" in name else 0.5 if "mlp" in name else 0.75
        exact = ours[name].float() + share * (theirs[name].float() - ours[name].float())
        assert torch.allclose(tensor.float(), exact, rtol=2**-8, atol=1e-6)


def test_weights_along_the_layers_become_layerwise_where_the_final_norm_agrees() -> None:
    text = "{merge_method: %s, base_model: a, models: [{model: b, parameters: {weight: %s}}]}"
    for name, expected in (("embed_tokens", 0.8), ("norm", 0.8), ("layers.1.mlp.up_proj", 0.5), ("layers.4.mlp", 1.0)):
        full = f"model.{name}.weight"
        assert walked(text % ("task_arithmetic", "[0.8, 0.2, 1]"), full) == pytest.approx(expected)
    kinds = "[{filter: self_attn, value: [0, 0.5]}, {filter: mlp, value: [0, 1]}, {value: 0}]"
    for name, expected in (("layers.2.self_attn.q_proj", 0.25), ("layers.2.mlp.up_proj", 0.5), ("norm", 0)):
        assert walked(text % ("task_arithmetic", kinds), f"model.{name}.weight") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("method", "models", "said"),
    [
        ("task_arithmetic", "{model: b, parameters: {weight: [0, 0.5, 1]}}", "in a way that no merge here does"),
        ("task_arithmetic", "{model: b, parameters: {weight: [{filter: q_proj, value: 1}, {value: 0}]}}", "no merge"),
        ("task_arithmetic", "{model: b, parameters: {weight: [{filter: mlp, value: 1}]}}", "no merge here does"),
        ("task_arithmetic", "{model: b, parameters: {weight: [1, x]}}", "no merge here does"),
        ("linear", "{model: b, parameters: {weight: [0, 1]}}, {model: c}", "task_arithmetic takes others"),
        ("ties", "{model: b, parameters: {weight: [{filter: mlp, value: 1}]}}", "weight says nothing of some tensors"),
        ("della", "{model: b, parameters: {epsilon: [0.1, 0.2]}}", "epsilon differs by depth or by tensor"),
        ("della", "{model: b, parameters: {epsilon: 0.1}}, {model: c}", "epsilon differs between the models"),
    ],
)
def test_what_no_layerwise_merge_computes_is_refused_by_name(method: str, models: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_mergekit(f"{{merge_method: {method}, base_model: a, models: [{models}]}}", find=llama)


SLERP = "{merge_method: slerp, base_model: a, models: [{model: a}, {model: b}], parameters: {t: %s}}"


def test_the_common_form_of_slerp_goes_along_curves_for_every_tensor() -> None:
    common = "[{filter: self_attn, value: [0, 0.5, 1]}, {filter: mlp, value: [1, 0.5, 0]}, {value: 0.5}]"
    request = from_mergekit(SLERP % common, find=llama)
    curves = {"lam": 1.0, "attention": [0, 0.5, 1], "mlp": [1, 0.5, 0], "other": [0.5]}
    assert request == {"method": "slerp_curves", "aligned": "a", "tuned": ["b"], "parameters": curves}
    over_depth = from_mergekit(SLERP % "[0, 0.25, 1]", find=llama)["parameters"]
    assert over_depth == {"lam": 1.0, **{module: [0, 0.25, 1] for module in curves if module != "lam"}}
    same = "[{filter: self_attn, value: [0.5, 0.5]}, {value: 0.5}]"
    assert from_mergekit(SLERP % same)["parameters"] == {"lam": 0.5}


@pytest.mark.parametrize(
    "setting", ["[{filter: q_proj, value: 0.3}, {value: 0.5}]", "[{filter: self_attn, value: 0.3}]", "[0, x]", "[]"]
)
def test_a_slerp_along_what_is_no_curve_of_a_module_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"t differs by depth or by tensor.*slerp_curves"):
        from_mergekit(SLERP % setting, find=llama)


def test_a_slice_is_whole_models_only_if_it_ends_with_their_last_layer() -> None:
    text = "{merge_method: slerp, base_model: a, parameters: {t: 0.3}, slices: [{sources: [%s]}]}"
    whole, part = (
        text % f"{{model: a, layer_range: [0, {end}]}}, {{model: b, layer_range: [0, {end}]}}" for end in (12, 8)
    )
    assert from_mergekit(whole, find=lambda name: llama(name, 12))["tuned"] == ["b"]
    for known in (lambda name: llama(name, 12), lambda name: None):
        with pytest.raises(UserError, match=r"takes the layers \[0, 8\] of a with"):
            from_mergekit(part, find=known)


def test_a_curve_over_the_layers_of_two_stacks_is_refused_and_a_number_by_kind_is_not() -> None:
    def seeing(name: str) -> Checkpoint:
        tower = "vision_tower.encoder.layers.0.mlp.fc1.weight"
        return replace(
            llama(name), tensors=llama(name).tensors | {tower: TensorInfo(tower, "BF16", (1,), Path(), 0, 2)}
        )

    tasks = "{merge_method: task_arithmetic, base_model: a, models: [{model: b, parameters: {weight: %s}}]}"
    for text, curve in ((SLERP, "[0, 0.5]"), (tasks, "[{filter: mlp, value: [0, 0.5]}, {value: 0}]")):
        assert from_mergekit(text % curve, find=llama)["tuned"] == ["b"]
        with pytest.raises(UserError, match="by depth or by tensor in a way that no merge here does"):
            from_mergekit(text % curve, find=seeing)
        by_kind = "[{filter: mlp, value: 0.25}, {value: 0.5}]"
        assert from_mergekit(text % by_kind, find=seeing)["tuned"] == ["b"]


@pytest.mark.parametrize("name", SHARED)
def test_every_knob_of_a_method_is_written_for_mergekit_or_refused(name: str) -> None:
    method = methods.get(name)
    tuned = ["b", "c"][: method.facts["fine_tunes"][1] or 2]
    knobs = [one for one in method.parameters if not one.several or len(tuned) > 1]
    plain = {one.name: "l1" if one.name == "rescale" else one.default for one in knobs}
    others = {"weights": [0.25, 0.75], "axis": "rows", "filter_wise": True, "max_iter": 7}
    for knob in knobs:
        other = others.get(knob.name, 0.125 if knob.kind == "float" else knob.choices and knob.choices[-1])
        given = plain | {knob.name: other}
        try:
            text = to_mergekit({"method": name, "aligned": "a", "tuned": tuned, "parameters": given})
        except UserError:
            assert knob.name in ("lam", "normalize", "election", "rescale")
            continue
        again = plain | from_mergekit(text, "a")["parameters"]
        ours, theirs = (list(one.pop("weights", ())) or [1.0] * len(tuned) for one in (given, again))
        if name in ("linear", "multislerp"):
            ours, theirs = ([weight / sum(one) for weight in one] for one in (ours, theirs))
        assert theirs == pytest.approx(ours)
        lams = [one.pop("lam", 1.0) for one in (given, again)]
        assert (again, lams[1]) == (given, pytest.approx(lams[0]))


def test_the_fine_tuned_models_tokenizer_and_an_adapters_base_are_written_for_mergekit(world: Path, capsys) -> None:
    written = world / "written.yml"
    command = ["merge", "--aligned", "aligned", "--to-mergekit", str(written), "--tuned"]
    assert main([*command, "tuned", "--donor", "fine_tuned"]) == 0
    models = world / "home" / "models"
    assert f"tokenizer_source: {models}/tuned" in written.read_text()
    assert from_mergekit(written.read_text())["donor"] == "fine_tuned"
    written.unlink()
    assert main([*command, "lora"]) == 0
    assert f"- model: {models}/aligned+{models}/lora" in written.read_text()
    assert "tokenizer_source" not in written.read_text()
    written.unlink()
    capsys.readouterr()
    assert main([*command, "lora", "--donor", "fine_tuned"]) == 2
    assert "mergekit takes an adapter's tokenizer from the model under it" in capsys.readouterr().err


@pytest.mark.parametrize(("aligned", "tuned"), [("demo/aligned", "demo/tool-mixed-sft"), ("aligned", "lora")])
def test_a_mergekit_file_names_folders_that_are_there_and_is_read_as_the_same_request(
    aligned: str, tuned: str, world: Path, settings, capsys
) -> None:
    written, pair = world / "written.yml", ["--aligned", aligned, "--tuned", tuned]
    assert main(["merge", *pair, "--method", "ties", "--lambda", "0.5", "--to-mergekit", str(written)]) == 0
    table = yaml.safe_load(written.read_text())
    for name in (table["base_model"], *table["models"][0]["model"].split("+")):
        assert resolve(name, settings).folder == Path(name)
    hashes = []
    for command in (["--method", "ties", "--lambda", "0.5", *pair], ["--from-mergekit", str(written)]):
        capsys.readouterr()
        assert main(["merge", *command, "--dry-run", "--json"]) == 0
        hashes.append(json.loads(capsys.readouterr().out)["recipe_hash"])
    assert hashes[0] == hashes[1]


def test_a_hub_id_keeps_its_commit_in_a_mergekit_file_and_a_path_it_would_cut_is_refused(tmp_path: Path) -> None:
    hub = Checkpoint("owner/name@main", tmp_path, "full", {}, {}, revision="1f2e")
    assert merge_command._place(hub) == "owner/name@1f2e"
    with pytest.raises(UserError, match=r"mergekit takes \+ and @ in .*a\+b for an adapter"):
        merge_command._place(replace(hub, folder=tmp_path / "a+b", revision=""))


def test_a_seed_and_a_curve_over_the_layers_are_not_lost_on_the_way_to_mergekit() -> None:
    pair = {"aligned": "a", "tuned": "b"}
    dare = {"method": "dare_ties", "parameters": {"lam": 1.0, "density": 0.5, "rescale": "l1"}, **pair}
    assert "density: 0.5" in to_mergekit(dare | {"seed": 0})
    for spec, said in (
        (dare | {"seed": 7}, "mergekit's file has no seed, and dare_ties keeps what seed 7 draws"),
        ({"method": "layerwise", "parameters": {"curve": [0, 1]}, **pair}, "layerwise is not written for mergekit"),
    ):
        with pytest.raises(UserError, match=said):
            to_mergekit(spec)


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
