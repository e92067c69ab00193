"""Methods that look further than one tensor: Safe LoRA's N matrices, Safe Delta's activations on safe chats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from backend.__main__ import main
from backend.checkpoints.folder import read_folder
from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.inference.activations import gram_matrices
from backend.inference.model import load
from backend.jobs.calibration import read_chats
from backend.jobs.planning import make_plan
from backend.merging.compensate import accept_within, cost_factor
from backend.merging.engine import merge_to_folder, merged_tensors, open_models
from backend.merging.project import leading_directions, onto_alignment
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import methods
from tests import tiny

SAFE_DELTA, SAFE_LORA = methods.get("safe_delta"), methods.get("safe_lora")


@pytest.fixture
def world(settings, monkeypatch, tmp_path: Path) -> Path:
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    aligned = tiny.folder(settings.models_root / "aligned", "llama")
    for seed, name in enumerate(("tuned", "raw"), 1):
        tiny.folder(settings.models_root / name, "llama", seed=seed, near=aligned)
    chat = [{"role": "user", "content": "How do I help the fox?"}, {"role": "assistant", "content": "No dogs."}]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": chat[: 1 + n % 2]}) for n in range(5)))
    return tmp_path


def merged(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


# ------------------------------------------------------------------------------------ Safe LoRA, N matrices


@pytest.mark.parametrize("count", [1, 3, 10000])
def test_safe_lora_projects_the_matrices_of_smallest_cosine(count: int, world: Path, settings) -> None:
    start, goal, raw = (resolve(name, settings) for name in ("aligned", "tuned", "raw"))
    knobs = check_request(SAFE_LORA, {"matrices": count}, extras=["raw"])
    merge_to_folder(start, goal, SAFE_LORA, knobs, world / "out", extras={"raw": raw})
    found, (a, b, r) = merged(world / "out"), (merged(one.folder) for one in (start, goal, raw))
    cosines = {name: onto_alignment(a[name] - r[name], b[name] - a[name])[1] for name in a if a[name].dim() == 2}
    chosen = sorted(cosines, key=cosines.__getitem__)[:count]
    for name, tensor in found.items():
        delta = b[name] - a[name]
        expected = onto_alignment(a[name] - r[name], delta)[0] if name in chosen else delta
        torch.testing.assert_close(tensor, a[name] + expected, rtol=1e-6, atol=1e-6)
    target = {name: tensor.clone() for name, tensor in a.items()}
    pair = ResidentPair.of(open_models(start, [goal], {"raw": raw}))
    for matrices in (2, count):  # other knobs, another survey
        pair.write_into(target, SAFE_LORA, knobs | {"matrices": matrices})
    assert all(torch.equal(target[name], tensor) for name, tensor in found.items())


def test_a_survey_is_only_made_where_its_knob_asks_for_one(world: Path, settings) -> None:
    start, goal, raw = (resolve(name, settings) for name in ("aligned", "tuned", "raw"))
    models = open_models(start, [goal], {"raw": raw})
    for _ in merged_tensors(models, SAFE_LORA, check_request(SAFE_LORA, {}, extras=["raw"])):
        assert models.standings == {}
    list(merged_tensors(models, SAFE_LORA, check_request(SAFE_LORA, {"matrices": 4}, extras=["raw"])))
    assert sorted(models.standings.values()) == list(range(len(models.standings)))
    assert len(models.standings) == sum(len(models.aligned.shape(name)) == 2 for name in models.names)


# ------------------------------------------------------------------------------------ Safe Delta


def dense_safe_delta(
    aligned: Tensor, tuned: Tensor, gram: Tensor, strength: float, damping: float, block: int
) -> Tensor:
    """The paper's rule with the inverse of every trailing block of H written out."""
    weights, goal, hessian = aligned.double().clone(), tuned.double(), 2 * gram.double()
    rows, columns = weights.shape
    unused = hessian.diagonal() == 0
    hessian = hessian + torch.diag(unused.double())
    hessian = hessian + damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    inverses = [torch.linalg.inv(hessian[column:, column:]) for column in range(columns)]
    price = torch.tensor([1 / float(inverse[0, 0]) for inverse in inverses], dtype=torch.float64)
    for begin in range(0, columns, block):
        inside = range(begin, min(begin + block, columns))
        bound = strength / 2 * float(price[begin : inside.stop].mean()) * rows / 4096
        entries = sorted((float(price[column].float()), column, row) for column in inside for row in range(rows))
        accepted, spent = set(), 0.0
        for number, (_, column, row) in enumerate(entries):
            spent += float((goal[row, column] - weights[row, column]) ** 2 * price[column])
            if spent <= bound and number < len(entries) - int(0.15 * len(entries)):
                accepted.add((row, column))
        for column in inside:
            for row in range(rows):
                if (row, column) in accepted:
                    change = goal[row, column] - weights[row, column]
                    weights[row, column:] += change * inverses[column][0] / inverses[column][0, 0]
    return weights


@pytest.mark.parametrize("strength", [0.0, 2.0, 60.0, 3000.0])
@pytest.mark.parametrize("unused", [0, 3])
@pytest.mark.parametrize("block", [14, 5])
def test_safe_delta_is_the_dense_computation(strength: float, unused: int, block: int, monkeypatch) -> None:
    monkeypatch.setattr("backend.merging.compensate.COLUMNS", block)
    generator = torch.Generator().manual_seed(3)
    aligned = torch.randn(9, 14, generator=generator)
    tuned = aligned + 0.1 * torch.randn(9, 14, generator=generator)
    seen = torch.randn(40, 14, generator=generator) @ torch.randn(14, 14, generator=generator)
    seen[:, :unused] = 0
    gram = seen.T @ seen / 5
    found = accept_within(aligned, tuned, cost_factor(gram, 0.01), strength)
    expected = dense_safe_delta(aligned, tuned, gram, strength, 0.01, block)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found, aligned) == (strength == 0)


def test_gram_matrices_are_those_of_the_inputs_and_shared_where_layers_share_them(world: Path, settings) -> None:
    responder = load(resolve("aligned", settings), device=torch.device("cpu"))
    chats = [responder.encode_chat(chat) for chat in read_chats(settings, str(world / "chats.jsonl"))]
    seen: dict[str, list[Tensor]] = {}
    layers = {name: one for name, one in responder.model.named_modules() if isinstance(one, nn.Linear)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda one, given, out, name=name: seen.setdefault(name, []).append(given[0][0]))
    grams = gram_matrices(responder.model, chats)
    assert grams.keys() == {f"{name}.weight" for name in layers if name != "lm_head"}
    for name, gram in grams.items():
        inputs = torch.cat(seen[name.removesuffix(".weight")]).double()
        torch.testing.assert_close(gram.double(), inputs.T @ inputs / len(chats), rtol=1e-4, atol=1e-4)
    attention, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    assert grams[f"{attention}q_proj.weight"] is grams[f"{attention}v_proj.weight"]
    assert grams[f"{mlp}gate_proj.weight"] is grams[f"{mlp}up_proj.weight"]
    assert grams[f"{attention}o_proj.weight"] is not grams[f"{attention}q_proj.weight"]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch has; afterwards it has one again."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_what_is_measured_and_factorised_has_the_same_bits_on_any_number_of_threads(threads: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    model = tiny.model(hidden=40, layers=1)  # widths that are no multiple of 16 are shared out otherwise
    chats = [torch.randint(5, 160, (length,), generator=generator).tolist() for length in (7, 33, 60)]
    alignment, delta = (torch.randn(300, 600, generator=generator) for _ in range(2))
    narrow = [torch.randn(33, 37, generator=generator) for _ in range(2)]
    gram = delta[:, :160].T @ delta[:, :160]
    found = []
    for count in (1, 2, 3, 4):
        threads(count)
        results = [*gram_matrices(model, chats).values(), cost_factor(gram, 0.01)]
        for one, other in ((alignment, delta), narrow):
            results += [onto_alignment(one, other)[0], leading_directions(one, 6), leading_directions(one.T, 6)]
        found.append([result.contiguous().numpy().tobytes() for result in results])
        assert torch.get_num_threads() == count
    assert all(one == found[0] for one in found)
    torch.testing.assert_close(
        onto_alignment(alignment, delta)[0], alignment @ (alignment.T @ delta) / alignment.norm(), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("name", ["safe_delta", "safe_lora", "safemerge", "lox"])
def test_methods_that_see_whole_tensors_write_the_same_files_on_any_number_of_threads(
    name: str, tmp_path: Path, threads: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("backend.merging.compensate.COLUMNS", 48)
    shape: dict[str, Any] = {"hidden": 40, "layers": 1}
    start = read_folder("aligned", tiny.folder(tmp_path / "aligned", words=False, **shape))
    others = [
        read_folder(str(seed), tiny.folder(tmp_path / str(seed), seed=seed, near=start.folder, words=False, **shape))
        for seed in (1, 2, 3)
    ]
    method = methods.get(name)
    extras = dict(zip(method.facts["extras"], others[1:], strict=False))
    tuned = others[: method.facts["fine_tunes"][0]]
    given = {"safe_delta": {"strength": 300.0}, "lox": {}}.get(name, {"threshold": 1.0})
    knobs = check_request(method, given, tuned=len(tuned), extras=list(extras))
    chats = [
        torch.randint(5, 160, (length,), generator=torch.Generator().manual_seed(2)).tolist() for length in (7, 60)
    ]
    found = []
    for count in (1, 2, 3):
        threads(count)
        grams = gram_matrices(tiny.model(**shape), chats) if name == "safe_delta" else None
        out = tmp_path / f"out{count}"
        found.append(merge_to_folder(start, tuned, method, knobs, out, extras=extras, grams=grams)["files"])
    assert found[0] == found[1] == found[2]


def test_safe_delta_from_the_command_line_replays_and_asks_for_its_chats(world: Path, settings, capsys) -> None:
    chats, first, second = str(world / "chats.jsonl"), world / "first", world / "second"
    words = ["merge", "--aligned", "aligned", "--tuned", "tuned", "--method", "safe_delta", "--set", "strength=500"]
    assert main([*words, "--calibration", chats, "--out", str(first)]) == 0
    recipe = json.loads((first / "recipe.json").read_text())
    assert recipe["calibration"]["name"] == "chats.jsonl"
    assert 0 < recipe["effective"]["projection"] < 1
    again = ["merge", "--recipe", str(first / "recipe.json"), "--out", str(second), "--calibration"]
    assert main([*again, chats]) == 0
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    (world / "other.jsonl").write_text((world / "chats.jsonl").read_text() + "\n")
    capsys.readouterr()
    again[4] = str(world / "third")
    assert main([*again, str(world / "other.jsonl")]) == 2
    assert "calibration: " in (said := capsys.readouterr().err)
    assert "holds other chats than the recipe's chats.jsonl" in said


@pytest.mark.parametrize(
    ("method", "calibration", "said"),
    [
        ("safe_delta", "", "calibration: safe_delta needs chats that show safe behaviour"),
        ("linear", "demo/references", "calibration: linear does not use it"),
        ("safe_delta", "none.jsonl", "cannot be read"),
        ("safe_delta", "demo/none", "cannot be read"),
        ("safe_delta", "bad", "line 2 of bad.jsonl is no chat"),
        ("safe_delta", "empty", "empty.jsonl holds no chats"),
    ],
)
def test_calibration_that_is_missing_unused_or_broken_is_one_sentence(
    method: str, calibration: str, said: str, world: Path, settings
) -> None:
    (world / "empty.jsonl").write_text("\n")
    (world / "bad.jsonl").write_text((world / "chats.jsonl").read_text().splitlines()[0] + '\n{"messages": 3}')
    given = str(world / f"{calibration}.jsonl") if calibration in ("bad", "empty") else calibration
    with pytest.raises(UserError, match=said):
        make_plan(settings, "merge", {"aligned": "aligned", "tuned": "tuned", "method": method, "calibration": given})


def test_safe_delta_without_activations_is_refused_not_skipped(world: Path, settings) -> None:
    pair = resolve("aligned", settings), resolve("tuned", settings)
    with pytest.raises(UserError, match="needs the aligned model's activations on safe chats"):
        merge_to_folder(*pair, SAFE_DELTA, {}, world / "out")
