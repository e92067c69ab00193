"""Where a fine-tune moved, against the same numbers by hand, for a full model and for an adapter."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from app.heatmap import heatmap
from app.text import moved
from backend.__main__ import main
from backend.api import Studio
from backend.errors import UserError
from tests import tiny


@pytest.fixture
def studio(settings):
    aligned = tiny.folder(settings.models_root / "aligned", "llama", tied=True)
    tiny.folder(settings.models_root / "tuned", "llama", tied=True, seed=1, near=aligned)
    tiny.adapter(settings.models_root / "lora", aligned)
    studio = Studio(settings)
    yield studio
    studio.close()


def by_hand(aligned, tuned, pattern):
    start = torch.cat([tensor.flatten().double() for name, tensor in aligned.items() if pattern in name])
    end = torch.cat([tensor.flatten().double() for name, tensor in tuned.items() if pattern in name])
    delta = end - start
    return float(delta.norm() / start.norm()), float(delta @ start / delta.norm() / start.norm())


@pytest.mark.filterwarnings("ignore")
def test_distance_and_cosine_are_those_of_the_weights(studio, settings):
    root = settings.models_root
    aligned = AutoModelForCausalLM.from_pretrained(root / "aligned").state_dict()
    full = AutoModelForCausalLM.from_pretrained(root / "tuned").state_dict()
    base = AutoModelForCausalLM.from_pretrained(root / "aligned")
    lora = PeftModel.from_pretrained(base, root / "lora").merge_and_unload().state_dict()
    for name, tuned in (("tuned", full), ("lora", lora)):
        cells = {(one.layer, one.module): one for one in studio.task_vector("aligned", name)}
        assert {module for _, module in cells} == {"q", "k", "v", "o", "gate", "up", "down", "norms", "embed"}
        for key, pattern in (((1, "q"), "layers.1.self_attn.q_proj"), ((0, "down"), "layers.0.mlp.down_proj")):
            found = cells[key].distance, cells[key].cosine
            assert found == pytest.approx(by_hand(aligned, tuned, pattern), rel=1e-4, abs=1e-6)
    assert cells[None, "embed"].distance == 0  # an adapter on linear layers leaves the embedding alone
    assert cells[None, "embed"].cosine is None


def test_the_answer_is_kept_until_the_weights_change(studio, settings, monkeypatch):
    first = studio.task_vector("aligned", "tuned")
    from backend.jobs import layers

    asked = []
    monkeypatch.setattr(layers, "_ask", lambda *names: asked.append(names) or "[]")
    assert studio.task_vector("aligned", "tuned") == first
    weights = settings.models_root / "tuned" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert studio.task_vector("aligned", "tuned") == []
    assert len(asked) == 1


def test_another_alpha_of_an_adapter_is_another_map(studio, settings, monkeypatch):
    from backend.jobs import layers

    asked = []
    monkeypatch.setattr(layers, "_ask", lambda *names: asked.append(names) or "[]")
    studio.task_vector("aligned", "lora")
    config = settings.models_root / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 99}))
    studio.task_vector("aligned", "lora")
    studio.task_vector("aligned", "lora")
    assert len(asked) == 2


def test_the_command_prints_a_table_or_json(studio, settings, capsys, monkeypatch):
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    assert main(["inspect", "aligned", "lora", "--layers"]) == 0
    printed = capsys.readouterr().out
    assert "distance ‖δ‖/‖θ0‖" in printed
    assert "gate" in printed
    assert main(["inspect", "aligned", "lora", "--layers", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"layer", "tower", "module", "distance", "cosine", "parameters"} == set(document["layers"][0])
    assert main(["inspect", "aligned", "--layers"]) == 2


def test_a_pair_that_does_not_fit_is_refused(studio):
    with pytest.raises(UserError, match="aligned: lora is an adapter"):
        studio.task_vector("lora", "tuned")
    with pytest.raises(UserError, match="tuned"):
        studio.task_vector("aligned", "nowhere")


def test_what_sees_has_rows_of_its_own_and_the_depth_is_the_language_models(settings, capsys, monkeypatch):
    sees = tiny.folder(settings.models_root / "sees", "gemma3", tied=True)
    tiny.folder(settings.models_root / "seen", "gemma3", tied=True, seed=1, near=sees)
    studio = Studio(settings)
    found = studio.task_vector("sees", "seen")
    assert {one.layer for one in found} == {None, 0, 1}, "the tower has three layers, the language model two"
    aligned, tuned = (load_file(settings.models_root / name / "model.safetensors") for name in ("sees", "seen"))
    cells = {(one.tower, one.layer, one.module): one for one in found}
    for key, pattern in {
        ("", 1, "q"): "language_model.model.layers.1.self_attn.q_proj",
        ("vision", None, "fc1"): ".mlp.fc1.",
        ("vision", None, "mm_input_projection_weight"): "mm_input_projection_weight",
    }.items():
        found_there = cells[key].distance, cells[key].cosine
        assert found_there == pytest.approx(by_hand(aligned, tuned, pattern), rel=1e-4, abs=1e-6)
    drawn = heatmap(found)["figure"]["data"][0]
    assert drawn["y"] == ["outside", "layer 0", "layer 1", "vision"]
    assert "fc1, the vision tower" in moved(cells["vision", None, "fc1"])
    studio.close()
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    assert main(["inspect", "sees", "seen", "--layers"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("outside", "0", "1", "2", "vision")] == [
        *("outside", "0", "1", "vision"),
        *("outside", "0", "1", "vision"),
    ]
