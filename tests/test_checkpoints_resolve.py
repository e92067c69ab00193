"""From a name to a checkpoint: demo names, folders, and every folder that is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.checkpoints.adapter import updates_of
from backend.checkpoints.inspect import describe
from backend.checkpoints.resolve import ALLOWED, resolve
from backend.errors import UserError
from tests import tiny

ROOT = Path(__file__).parent.parent


def refusal(name: object, settings) -> str:
    with pytest.raises(UserError) as caught:
        resolve(str(name), settings, field="aligned")
    said = str(caught.value)
    assert "\n" not in said
    return said


def edit(path: Path, **more: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_is_read_and_described(settings, tmp_path: Path, family: str) -> None:
    tiny.folder(tmp_path / "m", family, shard="20KB", dtype=torch.bfloat16)
    table = describe(resolve(str(tmp_path / "m"), settings))
    assert (table["model_type"], table["kind"], table["dtype"], table["layers"]) == (family, "full", "BF16", 2)
    assert (table["vocabulary"], table["hidden"], table["tied"]) == (tiny.VOCABULARY, 32, False)
    assert table["shards"] > 1
    assert table["bytes"] == 2 * table["parameters"]
    assert len(table["tokenizer_hash"]) == len(table["template_hash"]) == 12
    json.dumps(table)


def test_an_adapter_is_read_and_described(settings, tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "a", tiny.folder(tmp_path / "m"))
    found = resolve(str(tmp_path / "a"), settings)
    table = describe(found)
    assert (found.kind, table["adapter"]["type"], table["adapter"]["rank"]) == ("adapter", "LORA", 4)


def test_a_demo_name_and_a_bare_name_are_found(settings, tmp_path: Path) -> None:
    settings = replace(settings, demo=tmp_path / "demo", models_root=tmp_path / "models")
    tiny.folder(tmp_path / "demo/models/aligned", tied=True)
    tiny.folder(tmp_path / "models/mine")
    tiny.folder(tmp_path / "models/owner/mine")
    assert describe(resolve("demo/aligned", settings))["tied"] is True
    assert resolve("mine", settings).folder == tmp_path / "models/mine"
    assert resolve("owner/mine", settings).folder == tmp_path / "models/owner/mine"
    assert refusal("demo/aligend", settings) == (
        'aligned: no "demo/aligend". Did you mean "demo/aligned"? Available: demo/aligned.'
    )
    assert 'Did you mean "mine"?' in refusal("mien", settings)
    assert 'no "demo/../mine"' in refusal("demo/../mine", settings)


def test_no_name_a_missing_folder_and_an_empty_one(settings, tmp_path: Path) -> None:
    assert refusal(" ", settings).startswith("aligned: got ''; allowed is a demo name, a folder, or a Hub id")
    assert f"the folder {tmp_path / 'no'} does not exist. Give the folder" in refusal(tmp_path / "no", settings)
    assert "is empty; allowed is a folder with config.json and *.safetensors" in refusal(tmp_path, settings)
    assert "there is no folder a/b/c; allowed is a demo name" in refusal("a/b/c", settings)


def test_a_file_is_not_a_folder(settings, tmp_path: Path) -> None:
    tiny.folder(tmp_path / "m")
    assert "model.safetensors is a file. Give the folder" in refusal(tmp_path / "m/model.safetensors", settings)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt", "model.gguf"])
def test_other_formats_are_refused_by_name_and_never_opened(settings, tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).write_bytes(b"anything")
    said = refusal(tmp_path, settings)
    assert f"holds {name}" in said
    assert "allowed is *.safetensors" in said
    assert "save_pretrained of transformers" in said


def test_weights_without_config_index_or_adapter_config(settings, tmp_path: Path) -> None:
    one, shards = tiny.folder(tmp_path / "one"), tiny.folder(tmp_path / "shards", shard="20KB")
    (one / "config.json").unlink()
    assert "the folder one holds no config.json. A checkpoint is" in refusal(one, settings)
    (shards / "model.safetensors.index.json").unlink()
    assert "but no model.safetensors and no model.safetensors.index.json. Name one" in refusal(shards, settings)
    adapter = tiny.adapter(tmp_path / "a", tiny.folder(tmp_path / "m"))
    (adapter / "adapter_config.json").unlink()
    assert "holds adapter_model.safetensors but no adapter_config.json" in refusal(adapter, settings)


def test_a_missing_shard_and_a_tensor_in_the_wrong_shard(settings, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "m", shard="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    edit(
        folder / "model.safetensors.index.json",
        weight_map={**index["weight_map"], "ghost": "model-00001-of-00006.safetensors"},
    )
    assert "'ghost' in" in refusal(folder, settings) or "lacks the file" in refusal(folder, settings)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shard = sorted(folder.glob("model-*.safetensors"))[-1]
    shard.unlink()
    assert f"the folder m lacks the file {shard.name}. Copy or download the missing file." in refusal(folder, settings)


@pytest.mark.parametrize(
    "place", ["../out.safetensors", "/etc/out.safetensors", "sub/out.safetensors", "..\\o.safetensors"]
)
def test_an_index_that_points_out_of_the_folder_is_refused(settings, tmp_path: Path, place: str) -> None:
    folder = tiny.folder(tmp_path / "m", shard="20KB")
    tiny.folder(tmp_path / "n")
    (tmp_path / "n/model.safetensors").rename(tmp_path / "out.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map={"lm_head.weight": place})
    said = refusal(folder, settings)
    assert "allowed is a *.safetensors file in the same folder" in said


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(settings, tmp_path: Path, name: str) -> None:
    folder = tiny.folder(tmp_path / "m")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert f"the file {name} is a link out of its folder. Copy" in refusal(folder, settings)
    inside = replace(settings, models_root=tmp_path)
    assert resolve(str(folder), inside).kind == "full"


def test_a_tensor_named_like_a_path_is_only_a_name(settings, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tiny.folder(tmp_path / "m")
    save_file({"../../x": torch.ones(1)}, folder / "model.safetensors")
    assert list(resolve(str(folder), settings).tensors) == ["../../x"]
    assert not (tmp_path.parent / "x").exists()


def test_config_keys_that_could_run_code_are_dropped_and_listed(settings, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "m")
    edit(
        folder / "config.json",
        auto_map={"AutoModelForCausalLM": "evil.Evil"},
        trust_remote_code=True,
        _attn_implementation_internal="evil/kernel",
        custom_pipelines={},
        quantization_config={"quant_method": "evil"},
        attn_implementation="evil/kernel",
    )
    found = resolve(str(folder), settings)
    dropped = {note.removeprefix("config.json: dropped ") for note in found.notes}
    assert dropped == {
        "auto_map",
        "trust_remote_code",
        "_attn_implementation_internal",
        "custom_pipelines",
        "quantization_config",
        "attn_implementation",
    }
    assert not dropped & found.config.keys()


def test_an_unknown_model_type_is_read_and_noted(settings, tmp_path: Path) -> None:
    edit(tiny.folder(tmp_path / "m") / "config.json", model_type="unheard")
    table = describe(resolve(str(tmp_path / "m"), settings))
    assert table["model_type"] == "unheard"
    assert table["notes"] == ["its architecture is not one that the studio runs: it can be inspected and merged only"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin1")]
)
def test_a_broken_config_is_one_sentence(settings, tmp_path: Path, text: str) -> None:
    (tiny.folder(tmp_path / "m") / "config.json").write_text(text, encoding="latin1")
    assert refusal(tmp_path / "m", settings).startswith("aligned: config.json is not ")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_json_beside_the_weights_must_be_flat_and_whole(settings, tmp_path: Path, name: str) -> None:
    path = tiny.folder(tmp_path / "m") / name
    path.write_text('{"a": ' * 500 + "1" + "}" * 500)
    assert f"aligned: {name} is nested deeper than 32 levels" in refusal(tmp_path / "m", settings)
    path.write_text("{")
    assert f"aligned: {name} is not readable JSON" in refusal(tmp_path / "m", settings)


def test_a_truncated_checkpoint_is_one_sentence(settings, tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "m") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "model.safetensors is truncated: its header describes" in refusal(tmp_path / "m", settings)


def test_looking_at_a_pair_imports_no_torch(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "a", tiny.folder(tmp_path / "m"))
    code = (
        "import sys\n"
        "from backend.checkpoints.resolve import resolve\n"
        "from backend.checkpoints.inspect import describe\n"
        "from backend.checkpoints.guard import check_pair, estimate_merge\n"
        "from backend.registry import methods\n"
        "from backend.settings import from_environment\n"
        "a, b = (resolve(path, from_environment({})) for path in sys.argv[1:])\n"
        "describe(a), describe(b), check_pair(a, b), estimate_merge(a, b), [m.to_json() for m in methods]\n"
        "import backend.merging.engine, backend.checkpoints.reader\n"
        "assert not {'torch', 'transformers', 'safetensors', 'gradio'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "m", tmp_path / "a"], cwd=ROOT, check=True)


def test_patterns_of_a_foreign_adapter_are_names_and_never_run_as_expressions(settings, tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "a", tiny.folder(tmp_path / "m"))
    names = resolve(str(tmp_path / "m"), settings).tensors
    edit(tmp_path / "a/adapter_config.json", alpha_pattern={"(.*)*(.*)*(.*)*(.*)*(.*)*x": 4})
    with pytest.raises(UserError) as caught:
        updates_of(resolve(str(tmp_path / "a"), settings), names)
    assert str(caught.value) == (
        "tuned: the adapter's alpha_pattern has the key '(.*)*(.*)*(.*)*(.*)*(.*)*x'; allowed is the name of a module "
        "or a dotted end of it. Write the modules out by name in adapter_config.json, or merge the adapter with PEFT "
        "first."
    )


def test_ranks_are_those_of_the_factors_whatever_expression_a_pattern_of_ranks_holds(settings, tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "a", tiny.folder(tmp_path / "m"), rank_pattern={r".*layers\.0\..*q_proj": 2}, lora_alpha=8)
    names = resolve(str(tmp_path / "m"), settings).tensors
    found = updates_of(resolve(str(tmp_path / "a"), settings), names)
    assert [found[f"model.layers.{layer}.self_attn.q_proj.weight"].scale for layer in (0, 1)] == [4.0, 2.0]


def test_a_plain_pattern_fits_a_module_by_name_or_by_a_dotted_end(settings, tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "a", tiny.folder(tmp_path / "m"))
    names = resolve(str(tmp_path / "m"), settings).tensors
    edit(tmp_path / "a/adapter_config.json", lora_alpha=4, alpha_pattern={"proj": 40, "layers.1.self_attn.q_proj": 8})
    found = updates_of(resolve(str(tmp_path / "a"), settings), names)
    scales = [found[f"model.layers.{layer}.self_attn.q_proj.weight"].scale for layer in (0, 1)]
    assert scales == [1.0, 2.0]


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 300, "/tmp/" + "x" * 300, "a/" * 3000 + "b"])
def test_a_name_that_no_file_system_knows_is_one_sentence(settings, name: str) -> None:
    said = refusal(name, settings)
    assert said == f"aligned: got {name[:200]!r}; allowed is {ALLOWED}. Check the name."
