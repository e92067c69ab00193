"""Models whose vocabularies differ: by tokens, not by sizes, the rest from one donor; tied and untied heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.__main__ import main
from backend.api import Studio
from backend.checkpoints.resolve import resolve
from backend.checkpoints.vocabularies import Rows, shared_rows
from backend.errors import UserError
from backend.jobs.planning import make_plan
from backend.jobs.sources import find_sources
from backend.jobs.sweep import load_sources
from backend.merging.engine import merge_to_folder, open_models
from backend.registry import methods
from tests import tiny
from tests.worlds import tiny_world, write_suite

LINEAR, SLERP = methods.get("linear"), methods.get("slerp")
CLASSES = [LINEAR, SLERP, methods.get("ties"), methods.get("passthrough")]
WORDS = len(tiny.tokenizer())
ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def add_tokens(folder: Path, *tokens: str) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(list(tokens))
    words.save_pretrained(folder)


@pytest.fixture
def world(settings, monkeypatch) -> Path:
    """`aligned` in 160 rows, `tuned` with two tokens more in 168, `trimmed` with the same tokens in 128."""
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    root = settings.models_root
    tiny.folder(root / "aligned", dtype=torch.bfloat16)
    tiny.folder(root / "tuned", seed=1, vocabulary=168)
    tiny.folder(root / "trimmed", seed=2, vocabulary=128)
    add_tokens(root / "tuned", "<|new|>", "<|newer|>")
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_shared_rows_go_by_tokens_where_they_differ_and_by_rows_where_not(world: Path, settings) -> None:
    aligned, tuned, trimmed = (resolve(name, settings) for name in ("aligned", "tuned", "trimmed"))
    assert shared_rows(aligned, [aligned], aligned) is None
    assert shared_rows(aligned, [tuned], aligned) == Rows(WORDS, 160)
    assert shared_rows(aligned, [tuned], tuned) == Rows(WORDS, 168)
    assert shared_rows(aligned, [trimmed], aligned) == Rows(128, 160)
    assert shared_rows(aligned, [tuned, trimmed], trimmed) == Rows(WORDS, 128)


@pytest.mark.parametrize("donor", ["aligned", "fine_tuned"])
def test_blocks_of_fitted_rows_are_pieces_of_the_whole(donor: Any, world: Path, settings) -> None:
    models = open_models(resolve("aligned", settings), [resolve("tuned", settings)], donor=donor)
    for source in (models.aligned, *models.tuned):
        whole = source.read(ENDS[0])
        flat, width = whole.reshape(-1), whole.shape[1]
        assert tuple(whole.shape) == source.shape(ENDS[0]) == (160 if donor == "aligned" else 168, width)
        edge = WORDS * width
        for begin, end in ((0, 5), (edge - 3, edge), (edge - 3, edge + 3), (edge, edge + 7), (edge + 1, len(flat))):
            assert torch.equal(source.read_block(ENDS[0], begin, end), flat[begin:end])


@pytest.mark.parametrize("method", CLASSES, ids=lambda method: method.name)
@pytest.mark.parametrize(("name", "shared"), [("tuned", WORDS), ("trimmed", 128)])
@pytest.mark.parametrize("donor", ["aligned", "fine_tuned"])
def test_rows_beyond_the_shared_ones_are_the_donors(
    method: Any, name: str, shared: int, donor: Any, world: Path, settings, tmp_path: Path
) -> None:
    aligned, tuned = resolve("aligned", settings), resolve(name, settings)
    knobs = {p.name: p.default for p in method.parameters if not p.several} | {method.facts["knob"]: 0.6}
    recipe = merge_to_folder(aligned, tuned, method, knobs, tmp_path / "out", donor=donor)
    found, start, goal = (weights(folder) for folder in (tmp_path / "out", aligned.folder, tuned.folder))
    given = start if donor == "aligned" else goal
    for end in ENDS:
        assert found[end].shape == given[end].shape
        assert found[end].dtype == torch.bfloat16
        assert torch.equal(found[end][shared:], given[end][shared:].to(torch.bfloat16))
        assert not torch.equal(found[end][:shared], given[end][:shared].to(torch.bfloat16))
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ("<|new|>" in words.get_vocab()) == (donor == "fine_tuned" and name == "tuned")
    assert recipe["donor"] == donor


@pytest.mark.parametrize("donor", ["aligned", "fine_tuned"])
def test_a_sweep_in_memory_equals_the_folder_whatever_the_donor(
    donor: Any, world: Path, settings, tmp_path: Path
) -> None:
    given = find_sources(settings, {"aligned": "aligned", "tuned": "tuned", "donor": donor}, SLERP)
    responder, pair = load_sources(given, settings)
    effect = pair.write_into(responder.parameters(), SLERP, {"lam": 0.3})
    recipe = merge_to_folder(given.aligned, given.tuned, SLERP, {"lam": 0.3}, tmp_path / "out", donor=donor)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in responder.parameters().items())
    assert effect == recipe["effective"]
    assert len(responder.tokenizer) == (WORDS if donor == "aligned" else WORDS + 2)


def test_the_donor_is_chosen_on_the_command_line_kept_in_the_recipe_and_replayed(
    world: Path, settings, tmp_path: Path, capsys
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["merge", "--aligned", "aligned", "--tuned", "tuned", "--lambda", "0.4", "--out", str(first)]
    assert main([*words, "--donor", "fine_tuned"]) == 0
    assert main(["merge", "--recipe", str(first / "recipe.json"), "--out", str(second)]) == 0
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()
    assert weights(first)[ENDS[0]].shape[0] == 168
    capsys.readouterr()
    assert main([*words[:-1], str(tmp_path / "x"), "--donor", "tuned"]) == 2
    assert 'donor: no "tuned". Did you mean "fine_tuned"?' in capsys.readouterr().err


def test_the_donor_is_part_of_a_recipe_only_where_it_is_not_the_default(world: Path, settings) -> None:
    request = {"aligned": "aligned", "tuned": "tuned"}
    plain, aligned, tuned = (
        make_plan(settings, "merge", request | more) for more in ({}, {"donor": "aligned"}, {"donor": "fine_tuned"})
    )
    assert plain.recipe_hash == aligned.recipe_hash != tuned.recipe_hash
    assert "donor" not in plain.spec
    assert any("chosen here" in sentence for sentence in plain.warnings)


def test_a_sweep_asks_with_the_donors_tokenizer(settings, world: Path) -> None:
    suite = str(write_suite(settings.home, "a", "safety", 3))
    request = {"aligned": "aligned", "tuned": "tuned", "grid": "0,1", "suites": [suite], "donor": "fine_tuned"}
    studio = Studio(settings)
    run = studio.wait(studio.submit("sweep", request).id)
    assert run.error == ""
    assert len(studio.points([run.id])) == 2
    studio.close()


def test_the_same_id_with_another_token_is_refused(world: Path, settings) -> None:
    add_tokens(world / "aligned", "<|other|>")
    with pytest.raises(UserError, match=rf"token {WORDS} is '<\|other\|>' in the aligned and '<\|new\|>'"):
        make_plan(settings, "merge", {"aligned": "aligned", "tuned": "tuned"})


def test_a_raw_model_with_fewer_rows_is_cut_to_what_all_share(world: Path, settings, tmp_path: Path) -> None:
    aligned, raw = resolve("aligned", settings), resolve("trimmed", settings)
    lox = methods.get("lox")
    merge_to_folder(aligned, [], lox, {"extrapolate": 1.0, "rank": 0}, tmp_path / "out", extras={"raw": raw})
    found, start, before = (weights(one) for one in (tmp_path / "out", aligned.folder, raw.folder))
    exact = 2 * start[ENDS[0]][:128].float() - before[ENDS[0]]
    assert torch.equal(found[ENDS[0]][128:], start[ENDS[0]][128:])
    torch.testing.assert_close(found[ENDS[0]][:128].float(), exact, rtol=0.01, atol=0.01)


# ------------------------------------------------------------------------------------ tied, untied, optional tensors


@pytest.mark.parametrize("method", [LINEAR, SLERP], ids=lambda method: method.name)
def test_a_tied_aligned_and_an_untied_fine_tuned_model_are_swept_in_memory(
    method: Any, settings, tmp_path: Path
) -> None:
    tiny.folder(settings.models_root / "tied", tied=True)
    tiny.folder(settings.models_root / "untied", tied=False, seed=1)
    given = find_sources(settings, {"aligned": "tied", "tuned": "untied"}, method)
    responder, pair = load_sources(given, settings)
    assert responder.model.lm_head.weight is not responder.model.model.embed_tokens.weight
    assert torch.equal(responder.model.lm_head.weight, responder.model.model.embed_tokens.weight)
    for lam in (0.0, 0.4):
        pair.write_into(responder.parameters(), method, {"lam": lam})
        merge_to_folder(given.aligned, given.tuned, method, {"lam": lam}, tmp_path / f"{lam}")
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / f"{lam}").state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in responder.parameters().items())
    assert json.loads((tmp_path / "0.4" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_tied_pair_stays_tied_in_memory(settings) -> None:
    tiny_world(settings)
    responder, _ = load_sources(find_sources(settings, {"aligned": "aligned", "tuned": "tuned"}, LINEAR), settings)
    assert responder.model.lm_head.weight is responder.model.model.embed_tokens.weight


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.layers.1.self_attn.q_proj.weight"])
def test_a_tensor_that_one_model_lacks_is_refused_in_one_sentence(lost: str, world: Path, settings) -> None:
    tuned = tiny.folder(world / "broken", seed=1)
    tensors = weights(tuned)
    del tensors[lost]
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"^tuned: .*`{lost}`.*") as caught:
        make_plan(settings, "merge", {"aligned": "aligned", "tuned": "broken"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("owner", ["aligned", "tuned"])
@pytest.mark.parametrize(
    "buffer",
    {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.linspace(1, 2, 4),
        "model.layers.0.attn.masked_bias": torch.tensor(-1e4),
        "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril(),
    }.items(),
    ids=lambda one: one[0].rsplit(".", 2)[-1],
)
def test_a_buffer_that_models_compute_themselves_may_be_in_one_of_them(
    buffer: tuple[str, torch.Tensor], owner: str, settings, tmp_path: Path
) -> None:
    tiny_world(settings)
    path = settings.models_root / owner / "model.safetensors"
    save_file(weights(path.parent) | dict([buffer]), path, metadata={"format": "pt"})
    given = find_sources(settings, {"aligned": "aligned", "tuned": "tuned"}, LINEAR)
    recipe = merge_to_folder(given.aligned, given.tuned, LINEAR, {"lam": 0.5}, tmp_path / "out")
    found = weights(tmp_path / "out")
    assert list(found) == list(weights(settings.models_root / "aligned"))
    if owner == "aligned":
        assert torch.equal(found[buffer[0]], buffer[1])
    responder, pair = load_sources(given, settings)
    assert pair.write_into(responder.parameters(), LINEAR, {"lam": 0.5}) == recipe["effective"]


def test_a_head_for_training_is_named_with_what_to_do(settings) -> None:
    tiny_world(settings)
    path = settings.models_root / "tuned" / "model.safetensors"
    extra = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    save_file(weights(path.parent) | extra, path, metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        make_plan(settings, "merge", {"aligned": "aligned", "tuned": "tuned"})
    assert str(caught.value) == (
        "tuned: the aligned model has no tensor `v_head.summary.bias` and 1 more: if `v_head` is only a head for "
        "training, as of a value or reward, save the fine-tuned model again without it; else pick a pair of one "
        "architecture."
    )


def test_dtypes_that_differ_by_tensor_and_model_are_merged_in_fp32_and_stored_as_the_aligned_ones(
    world: Path, settings, tmp_path: Path
) -> None:
    ours, theirs = weights(world / "aligned"), weights(tiny.folder(world / "mixed", seed=4))
    for number, name in enumerate(sorted(ours)):
        ours[name] = ours[name].to((torch.bfloat16, torch.float32, torch.float16)[number % 3])
        theirs[name] = theirs[name].to((torch.float16, torch.bfloat16)[number % 2])
    save_file(ours, world / "aligned" / "model.safetensors", metadata={"format": "pt"})
    save_file(theirs, world / "mixed" / "model.safetensors", metadata={"format": "pt"})
    spec = make_plan(settings, "merge", {"aligned": "aligned", "tuned": "mixed"}).spec
    aligned, tuned = resolve("aligned", settings), resolve("mixed", settings)
    merge_to_folder(aligned, tuned, LINEAR, spec["parameters"], tmp_path / "out")
    for name, tensor in weights(tmp_path / "out").items():
        expected = torch.lerp(ours[name].float(), theirs[name].float(), 0.5).to(ours[name].dtype)
        assert torch.equal(tensor, expected)
