"""The whole path: a pair into a folder that transformers loads, equal to the pair in memory bit for bit."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.checkpoints import writer as writing
from backend.checkpoints.card import model_card
from backend.checkpoints.guard import check_pair
from backend.checkpoints.hashes import file_hash
from backend.checkpoints.inspect import front_matter
from backend.checkpoints.reader import Reader, open_source
from backend.checkpoints.resolve import resolve
from backend.checkpoints.writer import FolderWriter, Slot
from backend.errors import Cancelled, RunFailed, UserError
from backend.inference.model import load as load_responder
from backend.merging.engine import merge_to_folder, merged_tensors
from backend.merging.inputs import Models
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import methods
from backend.types import Checkpoint
from tests import tiny

LINEAR = methods.get("linear")

FORMS = {
    "fp32": ({}, {}),
    "tied": ({"tied": True}, {"tied": True}),
    "bf16 in shards": ({"dtype": torch.bfloat16, "shard": "20KB"}, {"dtype": torch.bfloat16}),
    "fp16": ({"dtype": torch.float16}, {"dtype": torch.float16}),
    "bf16 and fp32": ({"dtype": torch.bfloat16}, {"shard": "30KB"}),
    "only aligned tied": ({"tied": True}, {"tied": False}),
    "only fine-tuned tied": ({"tied": False}, {"tied": True}),
}


@dataclass
class Pair:
    aligned: Checkpoint
    tuned: Checkpoint

    def into(self, out: Path, lam: float, **options: Any) -> dict[str, Any]:
        return merge_to_folder(self.aligned, self.tuned, LINEAR, {"lam": lam}, out, **options)

    def resident(self) -> ResidentPair:
        return ResidentPair(open_source(self.aligned), open_source(self.tuned, self.aligned))


@pytest.fixture
def make(settings, tmp_path: Path) -> Callable[..., Pair]:
    def made(family: str = "llama", ours: dict[str, Any] | None = None, theirs: dict[str, Any] | None = None) -> Pair:
        aligned = tiny.folder(tmp_path / "aligned", family, **(ours or {}))
        tuned = tiny.folder(tmp_path / "tuned", family, seed=1, **(theirs or {}))
        return Pair(resolve(str(aligned), settings), resolve(str(tuned), settings))

    return made


@pytest.fixture
def make_lora(settings, tmp_path: Path) -> Callable[..., Pair]:
    def made(family: str = "llama", ours: dict[str, Any] | None = None, **options: Any) -> Pair:
        aligned = tiny.folder(tmp_path / "aligned", family, **(ours or {}))
        lora = tiny.adapter(tmp_path / "lora", aligned, **options)
        return Pair(resolve(str(aligned), settings), resolve(str(lora), settings))

    return made


def load(folder: Path) -> Any:
    """The folder in transformers, refused where a key is missing or left over."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("form", ["fp32", "tied", "bf16 in shards"])
def test_every_family_merges_to_a_folder_that_loads_and_equals_the_pair_in_memory(
    make, tmp_path: Path, family: str, form: str
) -> None:
    pair = make(family, *FORMS[form])
    recipe = pair.into(tmp_path / "out", 0.3)
    merged, target = load(tmp_path / "out"), load(pair.aligned.folder)
    assert pair.resident().write_into(target.state_dict(), LINEAR, {"lam": 0.3}) == recipe["effective"]
    assert same(merged.state_dict(), target.state_dict())
    assert merged.dtype == target.dtype
    assert not same(merged.state_dict(), load(pair.aligned.folder).state_dict())


@pytest.mark.parametrize("form", FORMS)
def test_both_ends_are_exact_in_files_and_in_memory(make, tmp_path: Path, form: str) -> None:
    pair = make("llama", *FORMS[form])
    resident = pair.resident()
    aligned, tuned = load(pair.aligned.folder), load(pair.tuned.folder)
    for lam, end in ((0.0, aligned), (1.0, tuned)):
        pair.into(tmp_path / f"out{lam}", lam)
        merged = load(tmp_path / f"out{lam}")
        expected = {name: tensor.to(aligned.dtype) for name, tensor in end.state_dict().items()}
        assert same(merged.state_dict(), expected)
        target = load(tmp_path / f"out{0.0}")
        assert (target.lm_head.weight is not target.model.embed_tokens.weight) == resident.untied
        resident.write_into(target.state_dict(), LINEAR, {"lam": 1 - lam})
        resident.write_into(target.state_dict(), LINEAR, {"lam": lam})
        assert same(target.state_dict(), expected)


def test_a_model_that_ties_its_head_cannot_take_an_untied_one(make) -> None:
    pair = make("llama", *FORMS["only aligned tied"])
    with pytest.raises(UserError, match="Load the model with tie_word_embeddings false"):
        pair.resident().write_into(load(pair.aligned.folder).state_dict(), LINEAR, {"lam": 0.5})


def test_a_head_stored_twice_stays_tied(make, tmp_path: Path) -> None:
    pair = make("llama", *FORMS["tied"])
    for checkpoint in (pair.aligned, pair.tuned):
        path = checkpoint.folder / "model.safetensors"
        tensors = load_file(path)
        save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    Pair(resolve_again(pair.aligned), resolve_again(pair.tuned)).into(tmp_path / "out", 0.5)
    merged = load(tmp_path / "out")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def resolve_again(checkpoint: Checkpoint) -> Checkpoint:
    from backend.checkpoints.folder import read_folder

    return read_folder(checkpoint.name, checkpoint.folder)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_adapter_at_one_is_what_peft_merges(make_lora, tmp_path: Path, family: str) -> None:
    pair = make_lora(family)
    pair.into(tmp_path / "out", 1.0)
    close(load(tmp_path / "out"), pair)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5}},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    ],
    ids=["rslora", "patterns", "modules to save", "embeddings"],
)
def test_every_kind_of_lora_at_one_is_what_peft_merges(make_lora, tmp_path: Path, options: dict[str, Any]) -> None:
    pair = make_lora("llama", **options)
    pair.into(tmp_path / "out", 1.0)
    close(load(tmp_path / "out"), pair)


@pytest.mark.parametrize("lam", [0.3, 0.7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5}},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
        {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    ],
    ids=["lora", "rslora", "patterns", "patterns of rslora", "embeddings"],
)
def test_an_adapter_on_the_way_is_what_peft_merges_at_that_scale(
    make_lora, tmp_path: Path, options: dict[str, Any], lam: float
) -> None:
    pair = make_lora("llama", **options)
    pair.into(tmp_path / "out", lam)
    close(load(tmp_path / "out"), pair, scale=lam)


@pytest.mark.parametrize(
    ("family", "options"),
    [("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}), ("gpt_neox", {})],
)
def test_transposed_layers_and_other_names_of_head_and_embedding(
    make_lora, tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    pair = make_lora(family, {"tied": family == "gpt2"}, **options)
    pair.into(tmp_path / "out", 1.0)
    close(load(tmp_path / "out"), pair)
    target = load(pair.aligned.folder)
    pair.resident().write_into(target.state_dict(), LINEAR, {"lam": 1.0})
    assert same(load(tmp_path / "out").state_dict(), target.state_dict())


def close(merged: Any, pair: Pair, *, scale: float = 1.0) -> None:
    """Every weight is PEFT's to a few roundings of fp32: PEFT adds the scaled product, a merge walks to the whole."""
    adapted = in_peft(pair)
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale("default", scale)  # `scale_layer` passes over embeddings
    expected = adapted.merge_and_unload()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("follows", [False, True], ids=["as it was", "ensure_weight_tying"])
@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
        {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ["q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ],
    ids=["embedding", "head", "both", "LoRA of the embedding", "LoRA of the head", "LoRA of both"],
)
def test_a_tied_end_that_an_adapter_changes_computes_what_peft_does_before_merging(
    make_lora, tmp_path: Path, options: dict[str, Any], follows: bool
) -> None:
    pair = make_lora("llama", {"tied": True}, ensure_weight_tying=follows, **options)
    words = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        expected = in_peft(pair)(words).logits
        recipe = pair.into(tmp_path / "out", 1.0)
        merged = load(tmp_path / "out")
        torch.testing.assert_close(merged(words).logits, expected, rtol=1e-4, atol=1e-4)
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == follows
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] == follows
    said = [one.sentence for one in check_pair(pair.aligned, pair.tuned)]
    assert any("the merged model gets a head of its own, as in PEFT" in one for one in said) != follows
    resident = pair.resident()
    target = load_responder(pair.aligned, device=torch.device("cpu"), untied=resident.untied).model
    assert resident.write_into(target.state_dict(), LINEAR, {"lam": 1.0}) == recipe["effective"]
    assert same(target.state_dict(), merged.state_dict())


def test_a_head_that_follows_its_embedding_follows_it_beside_one_that_does_not(make_lora, settings, tmp_path) -> None:
    lora = {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]}
    first = make_lora("llama", {"tied": True}, ensure_weight_tying=True, **lora)
    second = resolve(str(tiny.adapter(tmp_path / "second", first.aligned.folder, seed=9, **lora)), settings)
    mean = methods.get("task_arithmetic")
    merge_to_folder(first.aligned, [first.tuned, second], mean, {"lam": 1.0, "weights": []}, tmp_path / "out")
    head = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(head, in_peft(first).get_output_embeddings().weight.detach(), rtol=1e-5, atol=1e-5)


def in_peft(pair: Pair) -> Any:
    """The aligned model with the adapter on it, not merged."""
    import warnings

    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load(pair.aligned.folder), str(pair.tuned.folder)).eval()


@pytest.mark.parametrize("ours", [{}, {"tied": True}, {"dtype": torch.bfloat16, "shard": "20KB"}], ids=str)
def test_an_adapter_in_memory_equals_its_folder_and_holds_only_what_it_changes(
    make_lora, tmp_path: Path, ours: dict[str, Any]
) -> None:
    pair = make_lora("qwen3", ours, target_modules=["q_proj"])
    recipe = pair.into(tmp_path / "out", 0.4)
    resident, target = pair.resident(), load(pair.aligned.folder)
    assert resident.write_into(target.state_dict(), LINEAR, {"lam": 0.4}) == recipe["effective"]
    assert same(load(tmp_path / "out").state_dict(), target.state_dict())
    changed = sum(4 * info.elements for name, info in pair.aligned.tensors.items() if "q_proj.weight" in name)
    assert resident.bytes == pair.aligned.bytes + changed
    assert open_source(pair.tuned, pair.aligned).changed_names() == {
        name for name in pair.aligned.tensors if "q_proj.weight" in name
    }


@pytest.mark.parametrize("name", ["linear", "ties", "slerp", "della", "karcher", "arcee_fusion", "passthrough"])
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0)], ids=str)
def test_a_tensor_without_elements_stays_one(make, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    first = make()
    for checkpoint in (first.aligned, first.tuned):
        path = checkpoint.folder / "model.safetensors"
        save_file({"model.empty": torch.zeros(shape), **load_file(path)}, path)
    pair = Pair(resolve_again(first.aligned), resolve_again(first.tuned))
    method = methods.get(name)
    knobs = check_request(method, {})
    recipe = merge_to_folder(pair.aligned, pair.tuned, method, knobs, tmp_path / "out")
    made = load_file(tmp_path / "out/model.safetensors")
    assert made["model.empty"].shape == shape
    target = {key: torch.empty_like(tensor) for key, tensor in made.items()}
    assert pair.resident().write_into(target, method, knobs) == recipe["effective"]
    assert same(target, made)


def test_an_adapter_alone_is_no_source(make_lora) -> None:
    pair = make_lora()
    with pytest.raises(UserError, match="is an adapter, which is only the change to another model"):
        open_source(pair.tuned)


def test_the_order_of_a_sweep_changes_no_bit(make) -> None:
    pair = make("llama", *FORMS["bf16 in shards"])
    resident = pair.resident()
    one, other = load(pair.aligned.folder), load(pair.aligned.folder)
    first = resident.write_into(one.state_dict(), LINEAR, {"lam": 0.7})
    for lam in (1.0, 0.1, 0.7):
        last = resident.write_into(other.state_dict(), LINEAR, {"lam": lam})
    assert same(one.state_dict(), other.state_dict())
    assert first == last


def test_equal_models_are_held_once_and_have_no_effect(make, tmp_path: Path) -> None:
    aligned = make().aligned
    pair = Pair(aligned, aligned)
    assert pair.resident().bytes == aligned.bytes
    assert pair.into(tmp_path / "out", 0.5)["effective"] == {"projection": None, "distance": None}
    assert load_file(tmp_path / "out/model.safetensors").keys() == aligned.tensors.keys()


def test_integers_that_differ_are_refused_by_name(make) -> None:
    pair = make()
    sources = []
    for number, checkpoint in enumerate((pair.aligned, pair.tuned)):
        path = checkpoint.folder / "model.safetensors"
        save_file({**load_file(path), "steps": torch.tensor([number])}, path)
        sources.append(Reader(resolve_again(checkpoint)))
    with pytest.raises(UserError, match=r"`steps` holds integers \(I64\) that differ"):
        list(merged_tensors(Models(sources[0], sources[1:]), LINEAR, {"lam": 0.5}))
    with pytest.raises(UserError, match="`steps` holds integers"):
        ResidentPair(*sources)


def test_the_folder_says_where_it_comes_from(make, tmp_path: Path) -> None:
    pair = make("llama", *FORMS["bf16 in shards"])
    (pair.aligned.folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (pair.tuned.folder / "README.md").write_text("---\nlicense: apache-2.0\nbase_model:\n- a/b\n---\n")
    seen: list[tuple[float, str]] = []
    out = tmp_path / "out"
    recipe = pair.into(out, 0.25, seed=3, report=lambda *line: seen.append(line))
    assert recipe == json.loads((out / "recipe.json").read_text())
    assert (recipe["method"], recipe["parameters"], recipe["seed"]) == ("linear", {"lam": 0.25}, 3)
    assert recipe["effective"]["projection"] == pytest.approx(0.25, abs=1e-3)
    for checkpoint, given in ((pair.aligned, recipe["aligned"]), (pair.tuned, recipe["fine_tuned"][0])):
        for name, digest in given["files"].items():
            assert digest == file_hash(checkpoint.folder / name)
    assert {name: file_hash(out / name) for name in recipe["files"]} == recipe["files"]
    assert len(recipe["files"]) == len({info.file for info in pair.aligned.tensors.values()}) > 1
    assert str(tmp_path) not in json.dumps(recipe) + (out / "README.md").read_text()
    assert front_matter(out) == {"base_model": ["aligned", "tuned"], "license": ["apache-2.0"]}
    assert "Not evaluated." in (out / "README.md").read_text()
    assert seen[-1][0] == 1.0
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], config["model_type"]) == ("bfloat16", "llama")
    words = AutoTokenizer.from_pretrained(out)
    assert words.chat_template == tiny.TEMPLATE
    assert not (tmp_path / "out.tmp").exists()


def test_a_card_cannot_be_broken_by_a_name_and_shows_scores(make, tmp_path: Path) -> None:
    pair = make()
    recipe = pair.into(tmp_path / "a: b\n---", 0.5)
    scores = {"safety": {"value": 91.0, "low": 80.0, "high": 96.0, "n": 40}}
    card = model_card("a | <script>", recipe, [("aligned", pair.aligned), ("fine-tuned", pair.tuned)], scores=scores)
    assert "| safety | 91.0 | 80.0 – 96.0 | 40 |" in card
    assert "<script>" not in card


def test_a_card_says_what_the_methods_own_number_means(make, tmp_path: Path) -> None:
    pair = make()
    cards = {}
    for name in ("linear", "passthrough"):
        merge_to_folder(pair.aligned, pair.tuned, methods.get(name), {}, tmp_path / name)
        cards[name] = (tmp_path / name / "README.md").read_text()
    assert "`lam`: λ, no unit; 0 is the aligned model, 1 the fine-tuned one, both exactly." in cards["linear"]
    assert "`scale`: s, no unit; 1 is the fine-tuned model exactly." in cards["passthrough"]
    assert "λ" not in cards["passthrough"]


def test_without_a_fine_tuned_model_the_distance_is_in_the_aligned_models_own_length(make, tmp_path: Path) -> None:
    pair, lox, knobs = make(), methods.get("lox"), {"extrapolate": 2.0, "rank": 0}
    recipe = merge_to_folder(pair.aligned, [], lox, knobs, tmp_path / "out", extras={"raw": pair.tuned})
    start, end = (load_file(one / "model.safetensors") for one in (pair.aligned.folder, tmp_path / "out"))
    moved = sum(float((end[name].double() - start[name].double()).square().sum()) for name in start)
    length = sum(float(start[name].double().square().sum()) for name in start)
    assert recipe["effective"]["shift"] == pytest.approx((moved / length) ** 0.5, rel=1e-4)
    said = f"in units of the aligned model's own length: {recipe['effective']['shift']:.4f}. Seed 0."
    assert said in (tmp_path / "out" / "README.md").read_text()
    resident = ResidentPair(open_source(pair.aligned), [], extras={"raw": open_source(pair.tuned, pair.aligned)})
    assert resident.write_into(load(pair.aligned.folder).state_dict(), lox, knobs) == recipe["effective"]


def test_the_donor_gives_tokenizer_and_template(make, tmp_path: Path) -> None:
    pair = make("llama", {}, {"template": "{{ 'other' }}"})
    pair.into(tmp_path / "ours", 0.5)
    pair.into(tmp_path / "theirs", 0.5, donor="fine_tuned")
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").chat_template == tiny.TEMPLATE
    assert AutoTokenizer.from_pretrained(tmp_path / "theirs").chat_template == "{{ 'other' }}"


@pytest.mark.parametrize("donor", ["aligned", "fine_tuned"])
def test_what_prepares_images_and_older_tokenizers_come_along_without_code(make, tmp_path: Path, donor: Any) -> None:
    pair = make()
    ours, theirs = pair.aligned.folder, pair.tuned.folder
    for folder in (ours, theirs):
        (folder / "tokenizer.json").unlink()
    images = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 28}}
    (ours / "preprocessor_config.json").write_text(json.dumps(images | {"auto_map": {"AutoProcessor": "evil.Code"}}))
    (ours / "processor_config.json").write_text('{"processor_class": "Gemma3Processor"}')
    (theirs / "tekken.json").write_text('{"config": {}}')
    pair.into(tmp_path / "out", 0.5, donor=donor)
    assert json.loads((tmp_path / "out/preprocessor_config.json").read_text()) == images
    assert (tmp_path / "out/processor_config.json").is_file()
    assert (tmp_path / "out/tekken.json").read_text() == '{"config": {}}'


def test_a_cancelled_merge_leaves_nothing(make, tmp_path: Path) -> None:
    calls = iter(range(100))
    with pytest.raises(Cancelled):
        make().into(tmp_path / "out", 0.5, should_stop=lambda: next(calls) > 5)
    assert {path.name for path in tmp_path.iterdir()} == {"aligned", "tuned"}


def test_a_full_disk_leaves_nothing_and_says_so(make, tmp_path: Path, monkeypatch) -> None:
    def full(self: FolderWriter, *_block: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pair = make()
    monkeypatch.setattr(writing.FolderWriter, "_put", full)
    with pytest.raises(RunFailed, match=r"The disk is full while writing .*; nothing was kept\. Free some space"):
        pair.into(tmp_path / "out", 0.5)
    assert {path.name for path in tmp_path.iterdir()} == {"aligned", "tuned"}


def test_a_folder_that_is_there_is_not_overwritten(make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    pair = make()
    pair.into(tmp_path / "out", 0.5)
    before = file_hash(tmp_path / "out/model.safetensors")
    said = re.escape(f"out: the folder {tmp_path / 'out'} exists and is not empty. Choose another name")
    with pytest.raises(UserError, match=said):
        pair.into(tmp_path / "out", 0.7)
    assert file_hash(tmp_path / "out/model.safetensors") == before


def test_a_place_that_cannot_be_written_is_one_sentence(make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out: the folder .* cannot be written \(Not a directory\)\. Choose a folder"):
        make().into(tmp_path / "file" / "out", 0.5)


def test_two_runs_cannot_write_one_folder_and_leftovers_are_cleared(tmp_path: Path) -> None:
    slots = [[Slot("w", "F32", (2,))]]
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp/model.safetensors").write_text("half")
    with FolderWriter(tmp_path / "out", slots) as first:
        with pytest.raises(UserError, match="another run is writing"):
            FolderWriter(tmp_path / "out", slots)
        first.write("w", torch.ones(2))
        first.commit()
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["w"], torch.ones(2))


def test_a_folder_is_not_given_its_name_before_every_tensor_is_there(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="not every tensor"),
        FolderWriter(tmp_path / "o", [[Slot("w", "F32", ())]]) as w,
    ):
        w.commit()
    with pytest.raises(ValueError, match="expected Slot"), FolderWriter(tmp_path / "o", [[Slot("w", "F32", ())]]) as w:
        w.write("w", torch.ones(3))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_shrinks_while_it_is_read_is_one_sentence(make) -> None:
    aligned = make().aligned
    path = aligned.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:4000])
    last = max(aligned.tensors.values(), key=lambda info: info.begin).name
    with pytest.raises(RunFailed, match=r"ended inside .*: it changed while it was read"):
        Reader(aligned).read(last)
