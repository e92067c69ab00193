"""What a mergekit file says of its models: which base, number format, tokenizer, template. No mergekit is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.errors import UserError
from backend.merging.mergekit import from_mergekit, to_mergekit
from backend.merging.request import check_request
from backend.registry import methods
from backend.types import Checkpoint, TensorInfo

Find = Callable[[str], Checkpoint | None]
PAIR = "models: [{model: b}, {model: c}]"
ONE = "merge_method: ties, base_model: a, models: [{model: b}]"


def model(
    folder: Path, *, dtypes: str = "BF16", words: str = "xyz", template: str | None = "T", adapter: bool = False
) -> Checkpoint:
    """A model that is known by headers and JSON only: a tensor for each of `dtypes`, a token for each of `words`."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {one: i for i, one in enumerate(words)}}}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    tensors = {f"w{i}": TensorInfo(f"w{i}", dtype, (1,), folder, 0, 2) for i, dtype in enumerate(dtypes.split())}
    return Checkpoint(folder.name, folder, "adapter" if adapter else "full", {}, tensors)


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., Find]:
    calls = count()

    def make(**differing: dict[str, Any]) -> Find:
        root = tmp_path / str(next(calls))
        return {name: model(root / name, **differing.get(name, {})) for name in "abc"}.get

    return make


def read(text: str, find: Find = lambda name: None, aligned: str = "") -> dict[str, Any]:
    return from_mergekit("{" + text + "}", aligned, find=find)


@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_a_method_between_weights_is_not_taken_for_one_between_changes(method: str) -> None:
    with pytest.raises(UserError, match=r"without base_model mergekit's .* goes between weights.*base_model, or use"):
        read(f"merge_method: {method}, {PAIR}", aligned="a")
    with pytest.raises(UserError, match="without base_model"):  # and not sent for an aligned model first
        read(f"merge_method: {method}, {PAIR}")
    assert read(f"merge_method: {method}, base_model: a, {PAIR}")["tuned"] == ["b", "c"]


@pytest.mark.parametrize("slices", ["[{sources: %s}, {sources: %s}]", "[{sources: %s}]"])
def test_a_stack_of_layers_is_refused_before_an_aligned_model_is_asked_for(slices: str) -> None:
    layered = Checkpoint("b", Path(), "full", {"num_hidden_layers": 4}, {})
    text = "merge_method: passthrough, slices: " + slices.replace("%s", "[{model: b, layer_range: [0, 2]}]")
    with pytest.raises(UserError, match=r"^from-mergekit: .*`models`, or one slice of whole models"):
        read(text, lambda name: layered)


def test_the_aligned_model_is_known_by_any_of_its_names(known: Callable[..., Find]) -> None:
    find = known()
    given = read(f"merge_method: karcher, {PAIR}", lambda name: find(name.removeprefix("models/")), "models/b")
    assert (given["aligned"], given["tuned"]) == ("b", ["c"])


def test_karcher_averages_the_models_of_the_file_and_no_other() -> None:
    with pytest.raises(UserError, match=r"averages the models that it lists.*Name one of the listed models"):
        read(f"merge_method: karcher, {PAIR}", aligned="a")
    assert read(f"merge_method: karcher, {PAIR}", aligned="b")["tuned"] == ["c"]
    assert read(f"merge_method: karcher, base_model: a, {PAIR}")["tuned"] == ["b", "c"]  # mergekit adds a base
    sources = "sources: [{model: b, layer_range: [0, 2]}, {model: c, layer_range: [0, 2]}]"
    layered = Checkpoint("a", Path(), "full", {"num_hidden_layers": 2}, {})
    with pytest.raises(UserError, match="averages the models that it lists"):  # but not to a slice
        read(f"merge_method: karcher, base_model: a, slices: [{{{sources}}}]", lambda name: layered)


def test_a_linear_merge_counts_a_base_that_is_not_listed() -> None:
    head = "merge_method: linear, base_model: a, models: [{model: b, parameters: {weight: 3}}], parameters:"
    assert read(f"{head} {{weight: 1}}")["parameters"] == {"lam": 0.75}
    assert read(f"{head} {{}}")["parameters"] == {"lam": 1.0}  # mergekit refuses it: the base has no weight


@pytest.mark.parametrize(
    ("dtypes", "said", "right"),
    [
        ("BF16", "dtype: bfloat16", True),
        ("BF16", "dtype: torch.bfloat16", True),
        ("BF16", "dtype: float32, out_dtype: bfloat16", True),
        ("F16", "out_dtype: float16", True),
        ("BF16", "dtype: auto", True),
        ("BF16", "name: x", True),
        ("F32", "name: x", True),
        ("BF16 I64", "dtype: bfloat16", True),  # integers are no weights
        ("BF16", "dtype: float32", False),
        ("F32", "dtype: bfloat16", False),
        ("BF16", "dtype: bfloat16, out_dtype: float16", False),
        ("BF16 F32", "dtype: bfloat16", False),
    ],
)
def test_a_file_is_merged_only_into_the_number_format_that_it_names(
    dtypes: str, said: str, right: bool, known: Callable[..., Find]
) -> None:
    find = known(a={"dtypes": dtypes})
    if right:
        assert read(f"{ONE}, {said}", find)["method"] == "ties"
        return
    remedy = "Take `dtype`" if " " in dtypes else "Set `out_dtype: "
    with pytest.raises(UserError, match=rf"mergekit writes `w\d` as \w+ by this file.*{remedy}"):
        read(f"{ONE}, {said}", find)


def test_without_a_format_in_the_file_the_widest_of_its_models_counts(known: Callable[..., Find]) -> None:
    for theirs in ("F32", "F16"):
        with pytest.raises(UserError, match=r"`w0` as float32 by this file.*Set `out_dtype: bfloat16`"):
            read(ONE, known(b={"dtypes": theirs}))
    find = known(a={"dtypes": "F32"}, b={"dtypes": "F32", "adapter": True})
    assert read(ONE, find)["tuned"] == ["b"]


def test_a_format_that_no_weights_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"out_dtype is 'int8'; allowed is float16, bfloat16"):
        read(f"{ONE}, out_dtype: int8")


def test_what_is_written_for_mergekit_is_computed_in_float32_and_stored_as_the_aligned_model(tmp_path: Path) -> None:
    spec = {"method": "slerp", "aligned": "a", "tuned": "b", "parameters": {"lam": 0.3}}
    for dtypes, expected in (("BF16", ["float32", "bfloat16"]), ("F32", ["float32", "float32"]), ("BF16 F32", [])):
        written = yaml.safe_load(to_mergekit(spec, aligned=model(tmp_path / dtypes, dtypes=dtypes)))
        assert [written[key] for key in ("dtype", "out_dtype") if key in written] == expected


@pytest.mark.parametrize(
    "said",
    [
        "tokenizer_source: base",
        "tokenizer_source: a",
        "tokenizer_source: union",
        "tokenizer: {source: base}",
        "tokenizer: {}",  # mergekit's default is a union
        "tokenizer_source: a+b",  # mergekit asks the model under an adapter
    ],
)
def test_these_files_take_the_aligned_models_tokenizer(said: str, known: Callable[..., Find]) -> None:
    assert "donor" not in read(f"{ONE}, {said}", known())


@pytest.mark.parametrize("said", ["tokenizer_source: b", "tokenizer_source: model:b", "tokenizer: {source: b/}"])
def test_these_files_take_the_fine_tuned_models_tokenizer(said: str, known: Callable[..., Find]) -> None:
    assert read(f"{ONE}, {said}", known())["donor"] == "fine_tuned"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("tokenizer_source: union", "union where all vocabularies are known and equal"),
        ("tokenizer_source: c", "tokenizer_source is 'c'; allowed is base or b"),
        ("tokenizer: {source: base, tokens: {}}", "`tokens` of tokenizer has no counterpart"),
        ("tokenizer: {source: base, pad_to_multiple_of: 8}", "`pad_to_multiple_of` of tokenizer"),
        ("tokenizer: base", "tokenizer is no table"),
        ("tokenizer: {source: base}, tokenizer_source: base", "tokenizer_source and tokenizer"),
    ],
)
def test_a_tokenizer_that_no_donor_has_is_refused(said: str, sentence: str, known: Callable[..., Find]) -> None:
    with pytest.raises(UserError, match=sentence):
        read(f"{ONE}, {said}", known(b={"words": "xyzw"}))


def test_a_union_counts_every_model_but_an_adapter(known: Callable[..., Find]) -> None:
    find = known(c={"words": "xzy"})
    with pytest.raises(UserError, match="union"):
        read(f"merge_method: ties, base_model: a, {PAIR}, tokenizer_source: union", find)
    adapter = "models: [{model: b}, {model: a+c}]"
    assert "donor" not in read(f"merge_method: ties, base_model: a, {adapter}, tokenizer_source: union", find)


def test_a_template_is_taken_where_it_is_the_donors(known: Callable[..., Find]) -> None:
    auto = f"merge_method: ties, base_model: a, {PAIR}, chat_template: auto"
    assert read(auto, known())["method"] == "ties"
    assert read(auto, known(c={"template": "other"}))["method"] == "ties"  # two of three
    with pytest.raises(UserError, match=r"`chat_template: auto` takes what most.*Take it out"):
        read(auto, known(a={"template": "other"}))
    with pytest.raises(UserError, match="takes what most of its models have"):  # one each
        read(f"{ONE}, chat_template: auto", known(b={"template": "other"}))
    with pytest.raises(UserError, match="takes what most of its models have"):
        read(f"{ONE}, chat_template: auto", known(a={"template": None}))
    with pytest.raises(UserError, match=r"chat_template is 'chatml'; allowed is auto"):
        read(f"{ONE}, chat_template: chatml")


@pytest.mark.parametrize("method", ["linear", "multislerp", "ties", "task_arithmetic"])
def test_weights_that_are_divided_by_their_sum_may_be_of_any_size(method: str) -> None:
    two = "[{model: b, parameters: {weight: 5}}, {model: c, parameters: {weight: 3}}]"
    request = read(f"merge_method: {method}, base_model: a, models: {two}, parameters: {{{normal(method)}}}")
    assert request["parameters"]["weights"] == pytest.approx([1.0, 0.6])
    check_request(methods.get(method), request["parameters"], tuned=2)


def normal(method: str) -> str:
    return "normalize: true" if method in ("ties", "task_arithmetic") else ""


def test_one_weight_of_zero_is_the_aligned_model_even_divided_by_itself() -> None:
    for weight, lam in ((0, 0.0), (0.2, 0.5), (-1, 0.5)):
        text = f"models: [{{model: b, parameters: {{weight: {weight}}}}}], parameters: {{lambda: 0.5}}"
        assert read(f"merge_method: ties, base_model: a, {text}")["parameters"]["lam"] == lam


@pytest.mark.parametrize(("value", "normalized"), [("'false'", "off"), ("0", "off"), ("'yes'", "weights")])
def test_what_is_on_or_off_is_read_as_mergekit_reads_it(value: str, normalized: str) -> None:
    text = f"merge_method: ties, base_model: a, {PAIR}, parameters: {{normalize: {value}}}"
    assert read(text)["parameters"]["normalize"] == normalized


@pytest.mark.parametrize("value", ["[true, false]", "[{filter: mlp, value: true}, {value: false}]", "maybe"])
def test_what_is_on_for_some_tensors_only_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"normalize is .*; allowed is true or false for all tensors"):
        read(f"merge_method: ties, base_model: a, {PAIR}, parameters: {{normalize: {value}}}")


def test_curves_are_written_as_filters_where_these_find_the_same_tensors() -> None:
    parameters = {"lam": 0.5, "attention": [0.0, 1.0], "mlp": [0.5], "other": [0.25, 0.75]}
    spec = {"method": "slerp_curves", "aligned": "a", "tuned": "b", "parameters": parameters}
    names = ["embed_tokens.weight", "layers.0.self_attn.q_norm.weight", "layers.1.mlp.up_proj.weight"]

    def named(*names: str) -> Checkpoint:
        return Checkpoint(
            "a", Path(), "full", {}, {name: TensorInfo(name, "BF16", (1,), Path(), 0, 2) for name in names}
        )

    text = to_mergekit(spec, aligned=named(*names))
    assert yaml.safe_load(text)["merge_method"] == "slerp"
    again = from_mergekit(text, find=lambda name: named(*names))
    halves = {"lam": 1.0, "attention": [0.0, 0.5], "mlp": [0.25], "other": [0.125, 0.375]}
    assert (again["method"], again["parameters"]) == ("slerp_curves", halves)
    with pytest.raises(UserError, match=r"does not tell that `h.0.attn.c_attn.weight` is attention"):
        to_mergekit(spec, aligned=named("h.0.attn.c_attn.weight"))
    with pytest.raises(UserError, match="two stacks of layers"):
        to_mergekit(spec, aligned=named(*names, "vision_tower.encoder.layers.0.mlp.fc1.weight"))


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: *x\nmerge_method: ties", "merge_method: " + "[" * 5000, f"merge_method: {'9' * 5000}"]
)
def test_a_file_that_is_made_to_break_readers_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="from-mergekit"):
        from_mergekit(text, "aligned")
