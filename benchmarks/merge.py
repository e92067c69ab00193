"""A merge to disk against the floor and against mergekit: wall time and peak memory, as ratios of one run.

    python benchmarks/merge.py --parameters 0.1 --rounds 3 --mergekit /path/to/venv/bin/python

The floor is what nobody can leave out: per shard read both tensors, `torch.lerp` in bf16, `save_file`. Every side runs
as a fresh process on the same files, imports counted, one warm-up and then in turn; the output is deleted in between
and `sync` is part of the time. Reported are medians, with the smallest and largest ratio of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# method -> (our knobs, mergekit's configuration beside models and base)
METHODS = {
    "linear": ({"lam": 0.6}, {"weights": (0.4, 0.6)}),
    "slerp": ({"lam": 0.6}, {"parameters": {"t": 0.6}}),
    "dare_linear": ({"density": 0.5, "rescale": "l1"}, {"model": {"weight": 0.6, "density": 0.5}}),
    "ties": ({"density": 0.5}, {"model": {"weight": 1.0, "density": 0.5}, "parameters": {"lambda": 0.6}}),
    "breadcrumbs": ({}, {"model": {"weight": 0.6, "density": 0.9}}),
}

FLOOR = """
import sys, torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import save_file
start, goal, out = map(Path, sys.argv[1:])
out.mkdir()
for shard in sorted(start.glob("*.safetensors")):
    with safe_open(shard, "pt") as ours, safe_open(goal / shard.name, "pt") as theirs:
        merged = {name: torch.lerp(ours.get_tensor(name), theirs.get_tensor(name), 0.6) for name in ours.keys()}
    save_file(merged, out / shard.name, metadata={"format": "pt"})
"""

OURS = """
import json, sys
from pathlib import Path
from backend.settings import calm_threads, from_environment
calm_threads()
from backend.checkpoints.resolve import resolve
from backend.merging.engine import merge_to_folder
from backend.registry import methods
settings = from_environment()
start, goal, out, method, knobs = sys.argv[1:]
pair = resolve(start, settings), resolve(goal, settings)
merge_to_folder(*pair, methods.get(method), json.loads(knobs), Path(out))
"""


def make_pair(folder: Path, billions: float) -> tuple[Path, Path]:
    """A Llama-type pair of about `billions` · 10⁹ parameters in bf16, in four shards, the second near the first."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 1024 if billions >= 0.2 else 512
    per_layer = 4 * width**2 + 3 * width * 4 * width
    layers = max(1, round((billions * 1e9 - 2 * 32000 * width) / per_layer))
    config = LlamaConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=32000, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("meta"):
        empty = LlamaForCausalLM(config).to(torch.bfloat16)
    model = empty.to_empty(device="cpu")
    size = f"{sum(p.numel() for p in model.parameters()) * 2 // 4_000_000 + 40}MB"
    for name in ("aligned", "tuned"):
        for parameter in model.parameters():
            if name == "aligned":
                parameter.data.normal_(0, 0.02)
            else:
                parameter.data.add_(torch.randn(parameter.shape, dtype=torch.bfloat16), alpha=0.001)
        model.save_pretrained(folder / name, max_shard_size=size)
    return folder / "aligned", folder / "tuned"


def mergekit_config(method: str, start: Path, goal: Path) -> str:
    """The same merge for mergekit; JSON is YAML."""
    said = METHODS[method][1]
    models = [{"model": str(goal)} | ({"parameters": said["model"]} if "model" in said else {})]
    config = {"merge_method": method, "base_model": str(start), "models": models, "dtype": "bfloat16"}
    if method == "linear":
        del config["base_model"]
        pairs = zip((start, goal), said["weights"], strict=True)
        config["models"] = [{"model": str(one), "parameters": {"weight": weight}} for one, weight in pairs]
    elif method == "slerp":
        models.insert(0, {"model": str(start)})
    return json.dumps(config | {"parameters": said.get("parameters", {})})


def measured(command: list[str], out: Path) -> tuple[float, int]:
    """Seconds with `sync`, and the peak resident memory in bytes, of one fresh process; `out` is deleted after."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STUDIO_HOME": str(out.parent / "home")}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    complaint = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{complaint.decode(errors='replace')[-2000:]}")
    shutil.rmtree(out)
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=float, default=0.5, help="10⁹ parameters of the pair")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--mergekit", help="a Python that has mergekit 0.1.5; without it only the floor is compared")
    parser.add_argument("--folder", help="where the pair is made; default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start, goal = make_pair(folder, options.parameters)
        size = sum(path.stat().st_size for path in start.glob("*.safetensors"))
        print(f"2 × {size / 1e9:.2f} GB in {len(list(start.glob('*.safetensors')))} shards, {os.cpu_count()} cores")
        print(f"{'method':14}{'ours':>8}{'MB':>7}   {'peer':10}{'s':>7}{'MB':>7}   peer / ours, median [min, max]")
        for method in options.methods.split(","):
            compare(method, folder, start, goal, options)


def compare(method: str, folder: Path, start: Path, goal: Path, options: argparse.Namespace) -> None:
    """Run one method against its peers in turn and print a line for each."""
    out, config = folder / "out", folder / "config.yml"
    config.write_text(mergekit_config(method, start, goal))
    pair = [str(start), str(goal), str(out)]
    sides = {"ours": [sys.executable, "-c", OURS, *pair, method, json.dumps(METHODS[method][0])]}
    if method == "linear":
        sides["floor"] = [sys.executable, "-c", FLOOR, *pair]
    if options.mergekit:
        tool = Path(options.mergekit).with_name("mergekit-yaml")
        sides["mergekit"] = [options.mergekit, str(tool), str(config), str(out), "--no-copy-tokenizer"]
    runs: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
    for turn in range(options.rounds + 1):
        for side, command in sides.items():
            found = measured(command, out)
            if turn:
                runs[side].append(found)
    middle = {side: [statistics.median(part) for part in zip(*found, strict=True)] for side, found in runs.items()}
    for side in sides:
        if side != "ours":
            ratios = [theirs[0] / ours[0] for theirs, ours in zip(runs[side], runs["ours"], strict=True)]
            own, peer = (f"{middle[name][0]:7.2f}{middle[name][1] / 1e6:7.0f}" for name in ("ours", side))
            spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            print(f"{method:14} {own}   {side:10}{peer}   {spread}", flush=True)


if __name__ == "__main__":
    main()
