"""A merged folder's card carries what a sweep measured for the same weights, and nothing measured for others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.__main__ import main
from backend.api import Studio
from tests import tiny
from tests.worlds import tiny_world


@pytest.fixture
def world(settings, monkeypatch) -> dict:
    for name, value in (("STUDIO_HOME", settings.home), ("STUDIO_THREADS", "1"), ("STUDIO_DEVICE", "cpu")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MODELS_ROOT", raising=False)
    return tiny_world(settings)


def sweep(world: dict, capsys, *more: str) -> dict:
    capsys.readouterr()
    command = ["sweep", "--aligned", "aligned", "--tuned", "tuned", "--suites", ",".join(world["suites"]), *more]
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def card(out: Path, *words: str) -> str:
    assert main(["merge", "--aligned", "aligned", "--tuned", "tuned", *words, "--out", str(out)]) == 0
    return (out / "README.md").read_text()


def test_a_merge_that_a_sweep_measured_says_its_scores_and_whence_they_are(world, capsys, tmp_path: Path) -> None:
    swept = sweep(world, capsys, "--grid", "0,0.3,1", "--seed", "4")
    text = card(tmp_path / "out", "--lambda", "0.3")
    for axis, score in swept["points"][1]["scores"].items():
        assert f"| {axis} | {score['value']:.1f} | {score['low']:.1f} – {score['high']:.1f} | {score['n']} |" in text
    assert f"linear λ = 0.3 of run {swept['run']} of this studio: suites a, b; preset quick, seed 4;" in text
    assert "judged by rules; on cpu in float32." in text
    assert "Not evaluated" not in text


def test_a_replay_has_the_same_weights_and_recipe_whatever_was_measured_between(world, capsys, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    assert "Not evaluated" in card(before, "--lambda", "0.3")
    sweep(world, capsys, "--grid", "0.3,1")
    assert main(["merge", "--recipe", str(before), "--out", str(after)]) == 0
    assert "Not evaluated" not in (after / "README.md").read_text()
    for name in ("model.safetensors", "recipe.json"):
        assert (before / name).read_bytes() == (after / name).read_bytes()


def test_scores_of_other_weights_are_not_taken(world, settings, capsys, tmp_path: Path) -> None:
    sweep(world, capsys, "--grid", "0.3,1", "--method", "dare_ties", "--seed", "4")
    merge = ("--method", "dare_ties", "--lambda", "0.3")
    assert "Not evaluated" not in card(tmp_path / "same", *merge, "--seed", "4")
    assert "Not evaluated" in card(tmp_path / "seed", *merge, "--seed", "5")
    assert "Not evaluated" in card(tmp_path / "knob", *merge, "--seed", "4", "--set", "density=0.4")
    assert "Not evaluated" in card(tmp_path / "method", "--lambda", "0.3", "--seed", "4")
    tiny.folder(settings.models_root / "tuned", "llama", tied=True, seed=2, near=settings.models_root / "aligned")
    assert "Not evaluated" in card(tmp_path / "weights", *merge, "--seed", "4")


def test_of_several_sweeps_the_one_with_most_prompts_is_taken_and_none_that_was_imported(
    world, settings, capsys, tmp_path: Path
) -> None:
    large, small = sweep(world, capsys, "--grid", "0.3,1"), dict(world, suites=world["suites"][:1])
    sweep(small, capsys, "--grid", "0.3,1")
    assert f"of run {large['run']} of this studio" in card(tmp_path / "most", "--lambda", "0.3")
    studio = Studio(settings)
    bundle = studio.export_runs([large["run"]])
    bundle["runs"][0]["points"][0] |= {"coefficients": {"lambda": 0.7}}
    bundle["runs"][0]["created"] += 1
    assert studio.import_runs(bundle)[0].id != large["run"]
    studio.close()
    assert "Not evaluated" in card(tmp_path / "imported", "--lambda", "0.7")
