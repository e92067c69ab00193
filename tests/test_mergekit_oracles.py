"""Whole mergekit files, merged by mergekit 0.1.5 and here; `make oracles` runs this, it is skipped without mergekit.

Known differences, which these files do not touch:

- `tokenizer_source` and `tokenizer` make mergekit cut the embedding down to the tokenizer's tokens; a merge here keeps
  the rows of padding that the donor has, and counts them where a method sums or ranks over the whole tensor.
- with `dtype: bfloat16` mergekit also computes in it; a merge here computes in float32 and rounds once.
- among changes of equal magnitude at the threshold, mergekit keeps others: see test_merging_oracles.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from backend.checkpoints.folder import read_folder
from backend.checkpoints.tokenizer import chat_template, vocabulary
from backend.merging.engine import merge_to_folder
from backend.merging.mergekit import from_mergekit, to_mergekit
from backend.merging.request import check_request
from backend.registry import methods
from backend.types import Checkpoint
from tests import tiny

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mergekit") is None, reason="mergekit is not installed"),
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),  # mergekit's loader imports it
]

BASE = "base_model: {root}/aligned, models: [{{model: {root}/tuned"
TWO = "{{model: {root}/tuned, parameters: {{weight: 0.3}}}}, {{model: {root}/second, parameters: {{weight: 0.9}}}}"
CURVES = "[{{filter: self_attn, value: [0, 0.5, 1]}}, {{filter: mlp, value: [1, 0.3]}}, {{value: [0.2, 0.7]}}]"
FILES = {
    "weights above the knob": "merge_method: linear, models: [{{model: {root}/aligned, parameters: {{weight: 4}}}}, "
    "{{model: {root}/tuned, parameters: {{weight: 5}}}}, {{model: {root}/second, parameters: {{weight: 3}}}}]",
    "linear counts a base that is not listed": "merge_method: linear, " + BASE + "}}], parameters: {{weight: 1}}",
    "karcher counts a base that is not listed": "merge_method: karcher, " + BASE + "}}]",
    "karcher of what is listed": "merge_method: karcher, models: [{{model: {root}/aligned}}, {{model: {root}/tuned}}]",
    "nuslerp between changes": "merge_method: nuslerp, base_model: {root}/aligned, models: [" + TWO + "]",
    "multislerp between changes": "merge_method: multislerp, base_model: {root}/aligned, models: [" + TWO + "]",
    "ties by weights": "merge_method: ties, base_model: {root}/aligned, models: [" + TWO + "], "
    "parameters: {{density: 0.4, lambda: 0.8}}",
    "one weight divided by itself": "merge_method: ties, " + BASE + ", parameters: {{weight: 0.2}}}}]",
    "one weight of zero": "merge_method: task_arithmetic, " + BASE + "}}], parameters: {{weight: 0, normalize: true}}",
    "normalize in words": "merge_method: task_arithmetic, " + BASE + "}}], parameters: {{weight: 3, normalize: 'yes'}}",
    "weights by kind": "merge_method: task_arithmetic, "
    + BASE
    + ", parameters: {{weight: [{{filter: mlp, value: 0.5}}, {{value: 0.25}}]}}}}]",
    "densities and weights over the depth and by filter": "merge_method: ties, base_model: {root}/aligned, models: ["
    "{{model: {root}/tuned, parameters: {{density: [1, 0.7, 0.1], weight: 1.0}}}}, "
    "{{model: {root}/second, parameters: {{density: 0.5, weight: [0, 0.3, 0.7, 1]}}}}, "
    "{{model: {root}/third, parameters: {{density: 0.33, weight: [{{filter: mlp, value: 0.5}}, {{value: 0}}]}}}}], "
    "parameters: {{normalize: true, int8_mask: true}}",
    "a density for each model": "merge_method: breadcrumbs_ties, base_model: {root}/aligned, models: ["
    "{{model: {root}/tuned, parameters: {{density: 0.9, weight: 0.5}}}}, "
    "{{model: {root}/second, parameters: {{density: 0.6, weight: 3}}}}], parameters: {{gamma: 0.02, normalize: true}}",
    "what no filter finds is the whole file's": "merge_method: task_arithmetic, base_model: {root}/aligned, models: ["
    "{{model: {root}/tuned, parameters: {{weight: [{{filter: mlp, value: 0.5}}]}}}}, {{model: {root}/second}}], "
    "parameters: {{weight: [{{filter: self_attn, value: [1, 0]}}, {{filter: '*', value: 0.1}}]}}",
    "one model whose density falls over the depth": "merge_method: ties, "
    + BASE
    + ", parameters: {{density: [1, 0.2], weight: [{{filter: norm, value: 0}}, {{value: 1}}]}}}}]",
    "one model whose weight falls over the depth": "merge_method: breadcrumbs, "
    + BASE
    + ", parameters: {{density: 0.8, weight: [1, 0.2]}}}}]",
    "slerp along curves": "merge_method: slerp, " + BASE + "}}], parameters: {{t: " + CURVES + "}}",
    "slerp over the depth": "merge_method: slerp, " + BASE + "}}], parameters: {{t: [0, 1, 0.4]}}",
}
WRITTEN: dict[str, dict[str, Any]] = {
    "linear": {"lam": 0.3},
    "slerp": {"lam": 0.3},
    "slerp_curves": {"lam": 0.7, "attention": [0, 1], "mlp": [0.3], "other": [0.5, 1]},
    "task_arithmetic": {"lam": 0.6},
    "karcher": {},
    "arcee_fusion": {},
    "passthrough": {"scale": 0.5},
}


def merged_by_mergekit(text: str, out: Path) -> dict[str, Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(out), MergeOptions(quiet=True))
    return loaded(out)


def found_at(folder: str) -> Checkpoint:
    return read_folder(folder, Path(folder))


def loaded(folder: Path) -> dict[str, Tensor]:
    return {name: one for path in folder.glob("*.safetensors") for name, one in load_file(path).items()}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An aligned model and two fine-tuned ones of every kind, which mergekit is asked for by their paths."""
    root = tmp_path_factory.mktemp("families")
    for kind, dtype in (("llama", torch.float32), ("qwen3", torch.float32), ("mistral", torch.bfloat16)):
        aligned = tiny.folder(root / kind / "aligned", kind, dtype=dtype, layers=3)
        for seed, name in enumerate(("tuned", "second", "third"), 1):
            tiny.folder(root / kind / name, kind, dtype=dtype, seed=seed, near=aligned, layers=3)
    return root


def merged_here(text: str, aligned: str, out: Path) -> dict[str, Tensor]:
    request = from_mergekit(text, aligned, find=found_at)
    tuned = [found_at(one) for one in request["tuned"]]
    method = methods.get(request["method"])
    knobs = check_request(method, request["parameters"], tuned=len(tuned))
    donor = request.get("donor", "aligned")
    merge_to_folder(found_at(request["aligned"]), tuned, method, knobs, out, donor=donor)
    return loaded(out)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])  # qwen3 has norms inside attention
def test_a_file_is_the_same_merge_in_both(name: str, kind: str, families: Path, tmp_path: Path) -> None:
    text = "{" + FILES[name].format(root=families / kind) + ", dtype: float32}"
    found = merged_here(text, str(families / kind / "aligned"), tmp_path / "ours")
    expected = merged_by_mergekit(text, tmp_path / "theirs")
    assert found.keys() == expected.keys()
    for tensor, one in expected.items():
        close(found[tensor], one)


@pytest.mark.parametrize(
    "said",
    ["tokenizer_source: union", "tokenizer: {{source: base}}, chat_template: auto", "tokenizer_source: {root}/tuned"],
)
def test_a_tokenizer_of_one_model_comes_with_the_rows_of_its_tokens(said: str, families: Path, tmp_path: Path) -> None:
    text = "{" + (FILES["normalize in words"] + ", " + said).format(root=families / "llama") + "}"
    found, expected = merged_here(text, "", tmp_path / "ours"), merged_by_mergekit(text, tmp_path / "theirs")
    words, theirs = (vocabulary(found_at(str(tmp_path / one))) for one in ("ours", "theirs"))
    assert words == theirs
    assert chat_template(found_at(str(tmp_path / "ours"))) == chat_template(found_at(str(tmp_path / "theirs")))
    rows = len(words or ())
    for tensor, one in expected.items():
        whole = one.shape == found[tensor].shape
        assert whole or (one.shape[0], found[tensor].shape[0]) == (rows, tiny.VOCABULARY)  # mergekit cuts the padding
        close(found[tensor][: len(one)], one)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_for_mergekit_is_the_same_merge_and_as_large(name: str, families: Path, tmp_path: Path) -> None:
    aligned, tuned = (found_at(str(families / "mistral" / one)) for one in ("aligned", "tuned"))
    method = methods.get(name)
    knobs = check_request(method, WRITTEN[name])
    merge_to_folder(aligned, tuned, method, knobs, tmp_path / "ours")
    spec = {"method": name, "aligned": aligned.name, "tuned": tuned.name, "parameters": knobs}
    expected = merged_by_mergekit(to_mergekit(spec, aligned=aligned), tmp_path / "theirs")
    found = loaded(tmp_path / "ours")
    assert {key: one.dtype for key, one in expected.items()} == {key: one.dtype for key, one in found.items()}
    for key, one in expected.items():  # one rounding to bfloat16 of numbers that differ in the last bits of float32
        assert torch.allclose(found[key].float(), one.float(), rtol=2**-7, atol=1e-6)
        assert float((found[key] != one).float().mean()) < 0.01
