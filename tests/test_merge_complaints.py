"""What users of merge tools complain about, one test per complaint: it is answered before the work or in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.api import Studio
from backend.checkpoints import space
from backend.checkpoints.guard import check_pair
from backend.checkpoints.reader import open_source
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.jobs.planning import make_plan
from backend.merging.engine import merge_to_folder, open_models
from backend.merging.ops import Effect
from backend.merging.resident import ResidentPair
from backend.registry import methods
from tests import tiny

LINEAR = methods.get("linear")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world(settings) -> Path:
    root = settings.models_root
    aligned = tiny.folder(root / "aligned", dtype=torch.bfloat16)
    tiny.folder(root / "tuned", seed=1, dtype=torch.bfloat16, near=aligned)
    tiny.adapter(root / "lora", aligned)
    return root


REQUEST = {"aligned": "aligned", "tuned": "tuned"}


def refusal(settings, request: dict) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(settings, "merge", REQUEST | request)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    table = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: one for name, one in table.items() if one is not None}, path, metadata={"format": "pt"})


def test_out_of_memory_or_disk_the_gap_is_named_before_anything_is_read(world, settings, monkeypatch) -> None:
    monkeypatch.setattr(space, "free_memory", lambda: 50 * 2**20)
    assert re.match(r"memory: this needs [\d.]+ MB of memory, 52\.4 MB are free", refusal(settings, {}))
    monkeypatch.undo()
    monkeypatch.setattr(space, "free_disk", lambda path: 1000)
    assert re.match(r"out: this needs .* of disk and .* in reserve, 1000 bytes are free", refusal(settings, {}))


def test_a_dry_run_says_time_memory_and_disk_and_writes_nothing(world, settings, tmp_path: Path) -> None:
    plan = make_plan(settings, "merge", REQUEST | {"out": str(tmp_path / "out")})
    assert min(plan.estimate.seconds, plan.estimate.memory, plan.estimate.disk) > 0
    assert not (tmp_path / "out").exists()


def test_vocabulary_and_padding_are_compared_by_token_and_row_counts_are_shown(world, settings) -> None:
    tiny.folder(world / "padded", seed=1, vocabulary=192, dtype=torch.bfloat16)
    (said,) = (one for one in make_plan(settings, "merge", REQUEST | {"tuned": "padded"}).warnings if "rows" in one)
    assert "has 160 rows in the aligned and 192 in the fine-tuned model" in said


def test_a_tied_and_an_untied_head_merge_and_it_is_said(world, settings, tmp_path: Path) -> None:
    tiny.folder(world / "tied", tied=True, seed=1, dtype=torch.bfloat16)
    plan = make_plan(settings, "merge", REQUEST | {"tuned": "tied"})
    assert any("ties its output head to the embedding" in sentence for sentence in plan.warnings)
    merge_to_folder(resolve("aligned", settings), resolve("tied", settings), LINEAR, {"lam": 0.5}, tmp_path / "out")
    assert "lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize("family", ["olmo2", "smollm3", "granite"])
def test_a_new_family_needs_no_architecture_file(family: str, world, settings, tmp_path: Path) -> None:
    for name in ("aligned", "tuned"):
        config = json.loads((world / name / "config.json").read_text())
        (world / name / "config.json").write_text(json.dumps(config | {"model_type": family}))
        edit(world / name, model__layers__0__self_attn__novel__weight=torch.full((4, 4), float(name == "tuned")))
    make_plan(settings, "merge", REQUEST)
    merge_to_folder(resolve("aligned", settings), resolve("tuned", settings), LINEAR, {"lam": 0.5}, tmp_path / "out")
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(made["model.layers.0.self_attn.novel.weight"], torch.full((4, 4), 0.5))


def test_the_parameters_of_a_method_are_its_form_and_others_are_refused_by_name(world, settings) -> None:
    studio = Studio(settings)
    forms = {
        method["name"]: {one["name"]: one for one in method["parameters"]} for method in studio.catalogue()["methods"]
    }
    studio.close()
    for name, form in forms.items():
        assert all(one["help"] and "default" in one for one in form.values()), name
    assert forms["ties"]["density"] | {"low": 0.001, "high": 1, "default": 0.5} == forms["ties"]["density"]
    assert forms["ties"]["weights"]["several"], "says nothing with one fine-tuned model, so the form leaves it out"
    assert 'no "densty". Did you mean "density"?' in refusal(
        settings, {"method": "ties", "parameters": {"densty": 0.3}}
    )
    assert "changes nothing with one fine-tuned model" in refusal(
        settings, {"method": "ties", "parameters": {"weights": "0.3"}}
    )


def test_precision_is_fp32_inside_one_rounding_at_the_end_and_the_dtype_is_said(world, settings, tmp_path) -> None:
    tiny.folder(world / "wide", seed=1, near=world / "aligned")
    plan = make_plan(settings, "merge", REQUEST | {"tuned": "wide"})
    assert any("BF16 in aligned and F32 in fine-tuned: they are merged in F32" in one for one in plan.warnings)
    merge_to_folder(resolve("aligned", settings), resolve("wide", settings), LINEAR, {"lam": 0.5}, tmp_path / "out")
    ours, theirs, made = (
        load_file(folder / "model.safetensors") for folder in (world / "aligned", world / "wide", tmp_path / "out")
    )
    for name, tensor in made.items():
        assert torch.equal(tensor, torch.lerp(ours[name].float(), theirs[name], 0.5).to(torch.bfloat16))


def test_how_many_tensors_slerp_mixed_along_a_straight_line_is_counted(world, settings, tmp_path: Path) -> None:
    ours = load_file(world / "aligned" / "model.safetensors")
    turned = [name for name in ours if name.endswith(("up_proj.weight", "q_proj.weight"))]
    nudged = [name for name in ours if name.endswith("down_proj.weight")]
    changed = {name: ours[name].flip(0) for name in turned} | {name: ours[name] * 1.5 for name in nudged}
    save_file(ours | changed, world / "tuned" / "model.safetensors", metadata={"format": "pt"})
    aligned, tuned = (resolve(name, settings) for name in ("aligned", "tuned"))
    said = {"straight_lines": {"tensors": len(nudged), "of": len(nudged) + len(turned)}}
    recipe = merge_to_folder(aligned, tuned, methods.get("slerp"), {"lam": 0.3}, tmp_path / "slerp")
    assert recipe | said == recipe
    resident, target = ResidentPair.of(open_models(aligned, [tuned])), {n: t.clone() for n, t in ours.items()}
    for lam, expected in ((0.3, said), (0.7, said), (0.0, {}), (1.0, {})):
        effect = Effect()
        resident.write_into(target, methods.get("slerp"), {"lam": lam}, effect=effect)
        assert effect.lines_json() == expected
    assert "straight_lines" not in merge_to_folder(aligned, tuned, LINEAR, {"lam": 0.3}, tmp_path / "linear")


def test_requirements_are_ranges_but_for_torch_whose_bits_are_the_recipes() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert wanted
    assert {re.split("[=~<>]", line)[0] for line in wanted if "==" in line} <= {"torch"}


def test_an_adapter_whose_keys_do_not_match_is_refused_and_never_an_empty_merge(world, settings) -> None:
    path = world / "lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name.replace("self_attn", "attention"): one for name, one in tensors.items()}, path)
    said = refusal(settings, {"tuned": "lora"})
    assert "the adapter changes model.layers." in said
    assert "which the aligned model does not have. Pick the model it was trained on." in said


def test_quantised_weights_and_gguf_files_are_named_with_what_to_do(world, settings) -> None:
    edit(world / "tuned", model__layers__0__mlp__up_proj__weight=torch.zeros(64, 32, dtype=torch.uint8))
    assert "is stored as U8, so the model is quantised; allowed are F32, F16 and BF16: dequantise it first" in refusal(
        settings, {}
    )
    (world / "gguf").mkdir()
    (world / "gguf" / "model.Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "holds model.Q4_K_M.gguf; allowed is *.safetensors. Use the original checkpoint" in refusal(
        settings, {"tuned": "gguf"}
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True}),
        ("llama", {"modules_to_save": ["lm_head"], "target_modules": ["up_proj"]}),
        ("llama", {"target_modules": ["embed_tokens"]}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
    ids=["all linear", "rslora", "modules to save", "embedding", "transposed"],
)
def test_an_adapter_that_moves_the_weights_as_no_fine_tune_does_is_said(
    family: str, options: dict, dtype: torch.dtype, settings
) -> None:
    root = settings.models_root
    start = tiny.folder(root / "aligned", family, tied=family == "gpt2", dtype=dtype)
    tiny.adapter(root / "small", start, lora_alpha=1, **({**options, "modules_to_save": None}))
    tiny.adapter(root / "large", start, lora_alpha=150, **options)
    aligned, small, large = (resolve(name, settings) for name in ("aligned", "small", "large"))
    assert not any("times their size" in one.sentence for one in check_pair(aligned, small))
    (said,) = (one.sentence for one in check_pair(aligned, large) if "times their size" in one.sentence)
    source, start_of = open_source(large, aligned), open_source(aligned)
    moved = size = 0.0
    for name in (name for name in start_of.names() if len(start_of.shape(name)) == 2):
        before = start_of.read(name).float()
        moved += float((source.read(name).float() - before).square().sum())
        size += float(before.square().sum())
    assert float(re.search(r"by ([\d.]+) times", said)[1]) == pytest.approx((moved / size) ** 0.5, rel=0.15)


def test_the_demos_fine_tunes_are_children_as_adapters_and_merged(settings, tmp_path: Path) -> None:
    aligned, tuned = (resolve(name, settings) for name in ("demo/aligned", "demo/code-mixed-sft"))
    assert check_pair(aligned, tuned) == ()
    merge_to_folder(aligned, tuned, LINEAR, {"lam": 1.0}, tmp_path / "whole")
    assert check_pair(aligned, resolve(str(tmp_path / "whole"), settings)) == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_is_no_child_of_the_other_is_said(dtype: torch.dtype, world, settings) -> None:
    tiny.folder(world / "stranger", seed=3, dtype=dtype)
    aligned, tuned, stranger = (resolve(name, settings) for name in ("aligned", "tuned", "stranger"))
    (said,) = (one.sentence for one in check_pair(aligned, stranger) if "times their size" in one.sentence)
    found = float(re.search(r"by ([\d.]+) times", said)[1])
    assert found == pytest.approx(2**0.5, abs=0.1)
    assert not any("times their size" in one.sentence for one in check_pair(aligned, tuned))
    assert "same checkpoint" in check_pair(aligned, aligned)[0].sentence
