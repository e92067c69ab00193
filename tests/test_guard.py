"""The pre-flight check: every finding names the tensor or file, both values and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.api import Studio
from backend.checkpoints.guard import check_pair, estimate_merge, estimate_resident, raise_errors
from backend.checkpoints.resolve import resolve
from backend.checkpoints.space import check_memory, check_space, free_memory
from backend.errors import UserError
from backend.types import Checkpoint, Finding
from tests import tiny


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "aligned")


@pytest.fixture
def check(settings, aligned: Path) -> Callable[..., tuple[Finding, ...]]:
    def checked(tuned: Path, ours: Path = aligned) -> tuple[Finding, ...]:
        return check_pair(resolve(str(ours), settings), resolve(str(tuned), settings, field="tuned"))

    return checked


def sentences(findings: tuple[Finding, ...], level: str = "error") -> str:
    return " / ".join(finding.sentence for finding in findings if finding.level == level)


def edit_json(path: Path, **more: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_matching_pair_has_no_finding(settings, tmp_path: Path, check, family: str) -> None:
    ours = tiny.folder(tmp_path / "a", family, shard="20KB")
    assert check(tiny.folder(tmp_path / "b", family, seed=1, near=ours), ours) == ()
    assert check(tiny.adapter(tmp_path / "lora", ours), ours) == ()


def test_another_architecture(tmp_path: Path, check) -> None:
    said = sentences(check(tiny.folder(tmp_path / "b", "qwen3")))
    assert said == "the aligned model is a llama, the fine-tuned one a qwen3: pick a pair of one architecture."


def test_other_shapes_are_named_with_both_values_and_counted(tmp_path: Path, check) -> None:
    findings = check(tiny.folder(tmp_path / "b", hidden=48))
    said = sentences(findings)
    assert (
        "`model.layers.0.mlp.down_proj.weight` is 32 × 64 in the aligned and 48 × 96 in the fine-tuned model; "
        "they must be equal: pick a pair of one size." in said
    )
    assert "more tensors differ in shape" in said
    with pytest.raises(UserError, match=r"^tuned: `") as caught:
        raise_errors(findings)
    assert caught.value.field == "tuned"


def test_other_vocabulary_rows(tmp_path: Path, check) -> None:
    tuned = tiny.folder(tmp_path / "b", vocabulary=168)
    findings = check(tuned)
    assert sentences(findings) == ""
    assert (
        "`model.embed_tokens.weight` has 160 rows in the aligned and 168 in the fine-tuned model: "
        "the merged model gets as many as the aligned one, and its rows beyond those that both have."
    ) in sentences(findings, "warning")
    (tuned / "tokenizer.json").unlink()
    assert "has no tokenizer.json: its vocabulary cannot be compared; add the file." in sentences(check(tuned))


def test_a_tokenizer_with_more_tokens_than_rows(tmp_path: Path, check) -> None:
    tuned = tiny.folder(tmp_path / "b", vocabulary=90)
    said = sentences(check(tuned, tuned))
    assert "the aligned tokenizer has token 94, " in said
    assert "but the aligned model 90 rows: resize its embeddings" in said


def test_more_layers_are_missing_tensors(tmp_path: Path, check) -> None:
    said = sentences(check(tiny.folder(tmp_path / "b", layers=3)))
    assert "the aligned model has no tensor `model.layers.2." in said
    assert "and 8 more: pick a pair of one architecture." in said


def test_the_same_id_with_another_token(tmp_path: Path, check) -> None:
    tuned = tiny.folder(tmp_path / "b")
    table = json.loads((tuned / "tokenizer.json").read_text())
    table["added_tokens"][2]["content"] = "<|human|>"
    edit_json(tuned / "tokenizer.json", **table)
    said = sentences(check(tuned))
    assert said == (
        "token 2 is '<|user|>' in the aligned and '<|human|>' in the fine-tuned tokenizer (1 differ): "
        "pick a pair of one vocabulary."
    )


def test_added_tokens_in_padding_rows_are_a_warning(tmp_path: Path, check) -> None:
    tuned = tiny.folder(tmp_path / "b")
    table = json.loads((tuned / "tokenizer.json").read_text())
    count = max(token["id"] for token in table["added_tokens"]) + len(table["model"]["vocab"])
    table["added_tokens"].append({**table["added_tokens"][0], "id": count, "content": "<|new|>"})
    edit_json(tuned / "tokenizer.json", **table)
    findings = check(tuned)
    assert sentences(findings) == ""
    assert (
        "the fine-tuned tokenizer adds tokens: 1, from 99 '<|new|>': "
        "donor fine_tuned keeps its tokens, donor aligned, chosen here, the aligned one's."
    ) in sentences(findings, "warning")


def test_a_broken_and_a_missing_tokenizer(tmp_path: Path, check) -> None:
    tuned = tiny.folder(tmp_path / "b")
    (tuned / "tokenizer.json").write_text("[]")
    assert "tokenizer.json is not readable. Save the tokenizer again" in sentences(check(tuned))
    (tuned / "tokenizer.json").unlink()
    assert "has no tokenizer.json: its vocabulary cannot be compared" in sentences(check(tuned), "warning")


def test_a_donor_without_a_tokenizer_is_said_with_whose_the_merged_model_gets(
    settings, tmp_path: Path, aligned: Path
) -> None:
    def said(donor: str) -> str:
        found = check_pair(resolve(str(aligned), settings), resolve(str(tuned), settings), donor=donor)
        return sentences(found, "warning")

    tuned = tiny.folder(tmp_path / "b", near=aligned, words=False)
    assert "has no tokenizer:" not in said("aligned")
    expected = "the fine-tuned model has no tokenizer: the merged one gets the aligned one's; check that it fits."
    assert expected in said("fine_tuned")
    (aligned / "tokenizer.json").unlink()
    assert "neither model has a tokenizer: the merged one gets none and cannot be asked anything; copy" in said(
        "aligned"
    )
    (tuned / "tekken.json").write_text("{}")
    assert "the aligned model has no tokenizer: the merged one gets the fine-tuned one's" in said("aligned")
    tuned = tiny.adapter(tmp_path / "lora", tiny.folder(tmp_path / "c"))
    tiny.tokenizer().save_pretrained(aligned)
    assert "no tokenizer" not in said("fine_tuned")


def test_an_inspection_speaks_of_the_donor_that_was_chosen(settings, tmp_path: Path, aligned: Path) -> None:
    tuned = tiny.folder(tmp_path / "b", template=tiny.TEMPLATE + " ")
    studio = Studio(settings)
    for donor, who in (("aligned", "aligned"), ("fine_tuned", "fine-tuned")):
        found = studio.inspect(str(aligned), str(tuned), donor=donor)
        assert f"every point is asked with the {who} one's" in sentences(found.findings, "warning")
    studio.close()


def test_templates_dtypes_and_settings_that_differ_are_warnings(tmp_path: Path, check) -> None:
    tuned = tiny.folder(tmp_path / "b", template=tiny.TEMPLATE + " ", dtype=torch.bfloat16)
    edit_json(tuned / "config.json", num_attention_heads=8)
    findings = check(tuned)
    said = sentences(findings, "warning")
    assert sentences(findings) == ""
    assert "the fine-tuned model has another chat template: every point is asked with the aligned one's" in said
    assert "the weights are F32 in aligned and BF16 in fine-tuned: they are merged in F32 and stored as F32" in said
    assert "config.json has num_attention_heads 4 in the aligned and 8 in the fine-tuned model" in said
    raise_errors(findings)


def test_one_tied_head_is_a_warning_and_a_lost_head_an_error(tmp_path: Path, check, aligned: Path) -> None:
    findings = check(tiny.folder(tmp_path / "b", tied=True))
    assert "the fine-tuned model ties its output head to the embedding, the aligned one does not" in sentences(
        findings, "warning"
    )
    assert sentences(findings) == ""
    lost = edit_tensors(tiny.folder(tmp_path / "c"), lambda tensors: tensors.pop("lm_head.weight"))
    assert "config.json says tie_word_embeddings false but no file holds `lm_head.weight`" in sentences(check(lost))


def test_integers_must_be_equal(tmp_path: Path, check) -> None:
    def add(number: int) -> Callable[[dict[str, torch.Tensor]], object]:
        return lambda tensors: tensors.update({"model.steps": torch.tensor([number])})

    ours = edit_tensors(tiny.folder(tmp_path / "a"), add(1))
    assert check(edit_tensors(tiny.folder(tmp_path / "b", near=ours), add(1)), ours) == ()
    said = sentences(check(edit_tensors(tiny.folder(tmp_path / "c"), add(2)), ours))
    assert said.startswith("`model.steps` holds integers (I64 in aligned, I64 in fine-tuned) that differ")


def test_a_quantised_model(tmp_path: Path, check) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tuned = edit_tensors(
        tiny.folder(tmp_path / "b"), lambda tensors: tensors.update({name: tensors[name].to(torch.uint8)})
    )
    said = sentences(check(tuned))
    assert f"`{name}` is stored as U8, so the model is quantised; allowed are F32, F16 and BF16: dequantise" in said


def test_an_adapter_on_a_quantised_model(tmp_path: Path, check, aligned: Path) -> None:
    lora = tiny.adapter(tmp_path / "lora", aligned)
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(aligned, lambda tensors: tensors.update({name: tensors[name].to(torch.uint8)}))
    assert f"`{name}` is stored as U8, so the model is quantised" in sentences(check(lora))


def test_an_adapter_cannot_be_the_aligned_model(tmp_path: Path, check, aligned: Path) -> None:
    lora = tiny.adapter(tmp_path / "lora", aligned)
    findings = check(aligned, lora)
    assert "is an adapter, only the change to another model: give the model it was trained on" in sentences(findings)
    assert findings[0].field == "aligned"


def test_an_adapter_of_another_size_or_family(tmp_path: Path, check) -> None:
    bigger = tiny.adapter(tmp_path / "x", tiny.folder(tmp_path / "big", hidden=48))
    assert (
        "the adapter makes `model.layers.0.mlp.down_proj.weight` 48 × 96, in the aligned model it is 32 × 64. "
        "Pick the model that the adapter was trained on." in sentences(check(bigger))
    )
    deeper = tiny.adapter(tmp_path / "y", tiny.folder(tmp_path / "deep", layers=3))
    assert "which the aligned model does not have. Pick the model it was trained on." in sentences(check(deeper))


def test_an_adapter_that_names_another_model_is_a_warning_and_the_name_is_not_followed(
    tmp_path: Path, check, aligned: Path
) -> None:
    lora = tiny.adapter(tmp_path / "lora", aligned)
    edit_json(lora / "adapter_config.json", base_model_name_or_path="evil/other")
    findings = check(lora)
    assert 'the adapter names "other" as its model, the aligned one is "aligned"' in sentences(findings, "warning")
    raise_errors(findings)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("peft_type", "ADALORA", "the adapter has peft_type 'ADALORA'; allowed is LORA."),
        (
            "use_dora",
            True,
            "the adapter uses use_dora, which is not plain LoRA. Merge it into its model with PEFT first",
        ),
        ("layer_replication", [[0, 2]], "the adapter uses layer_replication"),
        (
            "init_lora_weights",
            "pissa",
            "the adapter was started with init_lora_weights 'pissa', which changes the model",
        ),
        ("lora_alpha", "much", "an alpha of 'much'; allowed is a number"),
    ],
)
def test_an_adapter_that_is_not_plain_lora(
    tmp_path: Path, check, aligned: Path, key: str, value: object, sentence: str
) -> None:
    lora = tiny.adapter(tmp_path / "lora", aligned)
    edit_json(lora / "adapter_config.json", **{key: value})
    assert sentence in sentences(check(lora))


def test_factors_without_a_partner_or_of_unlike_rank(tmp_path: Path, check, aligned: Path) -> None:
    lora = tiny.adapter(tmp_path / "lora", aligned)
    path = lora / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, first: tensors[first][:, :2].contiguous()}, path)
    assert "which cannot be multiplied. Save the adapter again." in sentences(check(lora))
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, path)
    assert "but no lora_B" in sentences(check(lora))
    save_file({**tensors, first.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(3)}, path)
    assert "which is no part of plain LoRA" in sentences(check(lora))


def test_space_is_asked_for_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out: this needs 2\.0 GB of disk and 67\.1 MB in reserve, 1\.0 MB are free"):
        check_space(tmp_path / "not" / "there", 2_000_000_000, free=1_000_000)
    with pytest.raises(UserError, match=r"memory: this needs 2\.0 GB of memory, 1\.0 GB are free\. Close other"):
        check_memory(2_000_000_000, free=1_000_000_000)
    check_space(tmp_path, 1)
    assert free_memory() > 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has /proc")
def test_a_place_that_takes_no_files_is_said_and_not_called_full() -> None:
    with pytest.raises(
        UserError, match=r"out: nothing can be written to /proc\. Choose a folder that you may write to"
    ):
        check_space(Path("/proc/x/y"), 1)


def test_the_estimate_grows_with_the_model(settings, tmp_path: Path, aligned: Path) -> None:
    def at(path: Path) -> Checkpoint:
        return resolve(str(path), settings)

    small, large = at(aligned), at(tiny.folder(tmp_path / "b", hidden=64))
    assert estimate_merge(small, small).disk == small.bytes
    assert estimate_merge(large, large).seconds > estimate_merge(small, small).seconds
    assert estimate_merge(large, large).memory > estimate_merge(small, small).memory
    assert estimate_resident(large, large) > estimate_resident(small, small)
