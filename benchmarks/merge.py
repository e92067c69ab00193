"""A merge to disk against the floor and against mergekit: wall time and peak memory, as ratios of one run.

    python benchmarks/merge.py --rounds 5 --mergekit /path/to/venv/bin/python --json merge.json --markdown

Ours is timed twice: the engine alone in a process, as the floor is, and the command `python -m backend merge`, as
mergekit's `mergekit-yaml` is, with its planning, its database and its child process. The floor is what nobody can
leave out: per shard read both tensors, `torch.lerp` in bf16, `save_file`. Every side runs as a fresh process on the
same files, imports counted, one warm-up and then in turn; the output is deleted in between and `sync` is part of the
time. Reported are medians, with the smallest and largest ratio of a round.
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
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# method -> (our knobs, mergekit's configuration beside models and base)
METHODS = {
    "linear": ({"lam": 0.6}, {"weights": (0.4, 0.6)}),
    "slerp": ({"lam": 0.6}, {"parameters": {"t": 0.6}}),
    "dare_linear": ({"density": 0.5, "rescale": "l1"}, {"model": {"weight": 0.6, "density": 0.5}}),
    "dare_ties": ({"density": 0.5, "rescale": "l1"}, {"model": {"weight": 0.6, "density": 0.5}}),
    "ties": ({"density": 0.5}, {"model": {"weight": 1.0, "density": 0.5}, "parameters": {"lambda": 0.6}}),
    "breadcrumbs": ({}, {"model": {"weight": 0.6, "density": 0.9}}),
}

OURS_TWICE = ("engine", "command")

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

MAKE = """
import sys
from pathlib import Path
from benchmarks.merge import make_pair
make_pair(Path(sys.argv[1]), float(sys.argv[2]))
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
merge_to_folder(*pair, methods.get(method), json.loads(knobs), Path(out), hashes_in=settings.hashes)
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


class Spent(NamedTuple):
    """What one fresh process took: seconds with `sync`, seconds of CPU with its helpers', bytes of peak memory."""

    wall: float
    cpu: float
    memory: float


def measured(command: list[str], out: Path) -> Spent:
    """Run one fresh process; `out` is deleted after."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STUDIO_HOME": str(out.parent / "home")}
    os.sync()
    started = time.monotonic()
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=complaint)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        os.sync()
        seconds = time.monotonic() - started
        if status:
            complaint.seek(0)
            sys.exit(f"{' '.join(command)[:200]} failed:\n{complaint.read().decode(errors='replace')[-2000:]}")
    shutil.rmtree(out)
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=float, default=0.5, help="10⁹ parameters of the pair")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that is not")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas; default: all of them")
    parser.add_argument("--mergekit", help="a Python that has mergekit 0.1.5; without it only the floor is compared")
    parser.add_argument("--folder", help="where the pair is made; default: the system's temporary folder")
    parser.add_argument("--pair", help="a folder with aligned/ and tuned/, made where it is not there, and kept")
    parser.add_argument("--markdown", action="store_true", help="print README's table at the end")
    parser.add_argument("--json", metavar="FILE", help="write every run and every ratio there, after each method")
    options = parser.parse_args()
    table: dict[str, Any] = {"cores": os.cpu_count(), "rounds": options.rounds, "methods": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        pair = Path(options.pair).absolute() if options.pair else folder
        start, goal = pair / "aligned", pair / "tuned"
        if not goal.exists():
            # In a process of its own: the peak memory of this one would count as that of every process it starts.
            subprocess.run([sys.executable, "-c", MAKE, str(pair), str(options.parameters)], cwd=ROOT, check=True)
        files = list(start.glob("*.safetensors"))
        table |= {"bytes_per_model": sum(path.stat().st_size for path in files), "shards": len(files)}
        print(f"2 × {table['bytes_per_model'] / 1e9:.2f} GB in {len(files)} shards, {os.cpu_count()} cores")
        print(f"{'method':13}{'ours':8}{'s':>7}{'MB':>6}   {'peer':15}{'s':>7}{'MB':>6}", end="   ")
        print("peer / ours, median [min, max]: wall, CPU, memory", flush=True)
        for method in options.methods.split(","):
            table["methods"][method] = compare(method, folder, start, goal, options)
            if options.json:
                Path(options.json).write_text(json.dumps(table, indent=1))
    if options.markdown:
        print(markdown(table))


def compare(method: str, folder: Path, start: Path, goal: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one method and its peers in turn, print a line for each pair of sides and return all of it."""
    out, config = folder / "out", folder / "config.yml"
    config.write_text(mergekit_config(method, start, goal))
    pair, knobs = [str(start), str(goal), str(out)], METHODS[method][0]
    words = [part for name, value in knobs.items() for part in ("--set", f"{name}={value}")]
    command = ["--aligned", str(start), "--tuned", str(goal), "--method", method, *words, "--out", str(out)]
    sides = {
        "engine": [sys.executable, "-c", OURS, *pair, method, json.dumps(knobs)],
        "command": [sys.executable, "-m", "backend", "merge", *command],
    }
    if method in ("linear", "slerp"):
        sides["floor"] = [sys.executable, "-c", FLOOR, *pair]
    if options.mergekit:
        tool = Path(options.mergekit).with_name("mergekit-yaml")
        sides["mergekit"] = [options.mergekit, str(tool), str(config), str(out), "--no-copy-tokenizer"]
        if method == "linear":
            sides["mergekit async"] = [*sides["mergekit"], "--async-write"]
    runs: dict[str, list[Spent]] = {side: [] for side in sides}
    for turn in range(options.rounds + 1):
        order = list(sides.items())
        for side, command in order[turn % len(order) :] + order[: turn % len(order)]:
            found = measured(command, out)
            if turn or not options.rounds:
                runs[side].append(found)
    middle = {side: Spent(*map(statistics.median, zip(*found, strict=True))) for side, found in runs.items()}
    report: dict[str, Any] = {"runs": runs, "median": {side: one._asdict() for side, one in middle.items()}}
    against = [(own, peer) for peer in list(sides)[2:] for own in (["engine"] if peer == "floor" else OURS_TWICE)]
    for own, peer in against:
        ratios = {}
        for part in Spent._fields:
            pairs = zip(runs[peer], runs[own], strict=True)
            found = [getattr(theirs, part) / getattr(ours, part) for theirs, ours in pairs]
            ratios[part] = {"median": statistics.median(found), "min": min(found), "max": max(found)}
        report[f"{peer}/{own}"] = ratios
        ours, theirs = (f"{middle[name].wall:7.2f}{middle[name].memory / 1e6:6.0f}" for name in (own, peer))
        spread = ", ".join(f"{one['median']:.2f} [{one['min']:.2f}, {one['max']:.2f}]" for one in ratios.values())
        print(f"{method:13}{own:8}{ours}   {peer:15}{theirs}   {spread}", flush=True)
    return report


def markdown(table: dict[str, Any]) -> str:
    """README's table: for each method and peer the times and memory, and peer / ours for the engine and the command."""
    lines = [
        "| method | engine | command | peer | peer's time | peer / engine | peer / command | memory, peer / command |"
    ]
    lines.append("|---" * 8 + "|")
    for method, report in table["methods"].items():
        middle = report["median"]
        for peer in list(middle)[2:]:
            ratios = [report.get(f"{peer}/{own}") for own in OURS_TWICE]
            walls = ["–" if one is None else _spread(one["wall"]) for one in ratios]
            memory = "–" if ratios[1] is None else _spread(ratios[1]["memory"])
            own = [f"{middle[name]['wall']:.1f} s, {middle[name]['memory'] / 1e6:.0f} MB" for name in OURS_TWICE]
            cells = [method, *own, peer, f"{middle[peer]['wall']:.1f} s", *walls, memory]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.1f} [{ratio['min']:.1f}, {ratio['max']:.1f}]"


if __name__ == "__main__":
    main()
