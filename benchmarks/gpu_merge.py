"""Merging an 8 B pair on a GPU machine: λ by λ in the GPU's memory, and once to disk.

    python benchmarks/gpu_merge.py --folder /scratch --json gpu_merge.json

The pair is made on the spot: random bf16 weights of Llama 3 8B's shapes in shards, the second model near the first.
In memory, each λ is one call of `ResidentPair.write_into`, beside a copy of the same bytes in the same run; to disk it
is `merge_to_folder`, beside a copy of one model. Needs torch and safetensors, 65 GB of disk, and 100 GB of
GPU memory for methods with a step (both ends and the model in bf16, the step in fp32).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.settings import calm_threads

calm_threads()

import torch
from safetensors.torch import save_file

from backend.checkpoints.folder import read_folder
from backend.checkpoints.reader import open_source
from backend.merging.engine import merge_to_folder
from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import methods
from backend.types import Checkpoint
from benchmarks.clock import timed

SHARDS = 4
GRID = (0.2, 0.4, 0.6, 0.8)


def shapes(layers: int, width: int, hidden: int, small: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Llama with grouped-query attention."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        found |= {f"{start}self_attn.{part}_proj.weight": (width, width) for part in "qo"}
        found |= {f"{start}self_attn.{part}_proj.weight": (small, width) for part in "kv"}
        found |= {f"{start}mlp.{part}_proj.weight": (hidden, width) for part in ("gate", "up")}
        found |= {f"{start}mlp.down_proj.weight": (width, hidden)}
        found |= {f"{start}{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
    return found | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def make_pair(folder: Path, wanted: dict[str, tuple[int, ...]], config: dict[str, Any], device: str) -> None:
    """Both models, shard by shard, so that no more than two shards are held."""
    names = list(wanted)
    size = -(-len(names) // SHARDS)
    groups = [names[begin : begin + size] for begin in range(0, len(names), size)]
    places = {}
    for which in ("aligned", "tuned"):
        (folder / which).mkdir()
    for number, group in enumerate(groups):
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        ours = {name: (0.02 * torch.randn(wanted[name], device=device)).bfloat16() for name in group}
        save_file({name: one.cpu() for name, one in ours.items()}, folder / "aligned" / file, {"format": "pt"})
        theirs = {name: (one + 0.001 * torch.randn_like(one)).cpu() for name, one in ours.items()}
        save_file(theirs, folder / "tuned" / file, {"format": "pt"})
        places |= dict.fromkeys(group, file)
    for which in ("aligned", "tuned"):
        (folder / which / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        (folder / which / "config.json").write_text(json.dumps(config))


def in_memory(aligned: Checkpoint, tuned: Checkpoint, name: str, device: str) -> dict[str, Any]:
    """Seconds per λ in place, and of a plain copy of the same bytes."""
    method = methods.get(name)
    knobs = check_request(method, {})
    started = time.perf_counter()
    pair = ResidentPair(open_source(aligned), open_source(tuned), device)
    loaded = time.perf_counter() - started
    source = open_source(aligned)
    targets = {one: source.read(one).to(device) for one in source.names()}
    # One spare tensor for each shape is enough to measure a copy, and leaves room for the step.
    spare = {tensor.shape: torch.empty_like(tensor) for tensor in targets.values()}

    def copy() -> None:
        for tensor in targets.values():
            spare[tensor.shape].copy_(tensor)

    first = timed(lambda: pair.write_into(targets, method, knobs), device)
    copies = [timed(copy, device) for _ in GRID]
    seconds = []
    for lam in GRID:
        knobs[method.facts["knob"]] = lam
        seconds.append(timed(lambda: pair.write_into(targets, method, knobs), device))
    moved = 8 if method.facts["gives"] == "step" else 6
    share = statistics.median(copies) * moved / 4 / statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    print(
        f"{name:18} in memory: load {loaded:6.1f} s, first λ {first:7.3f} s, each λ {statistics.median(seconds):7.3f} s"
    )
    print(f"{'':18} {share:.2f} of copy bandwidth, peak {peak / 1e9:.1f} GB on the device", flush=True)
    return {"load": loaded, "first": first, "seconds": seconds, "copy": copies, "share_of_copy": share, "peak": peak}


def to_disk(aligned: Checkpoint, tuned: Checkpoint, name: str, folder: Path) -> dict[str, Any]:
    """Seconds of a merge to a folder, and of copying one model."""
    method, out, copied = methods.get(name), folder / "out", folder / "copy"
    copying = timed(lambda: shutil.copytree(aligned.folder, copied), "cpu")
    shutil.rmtree(copied)
    merging = timed(lambda: merge_to_folder(aligned, tuned, method, check_request(method, {}), out), "cpu")
    shutil.rmtree(out)
    speed = 3 * aligned.bytes / merging / 1e9
    print(f"{name:18} to disk: {merging:7.1f} s, {speed:.2f} GB/s read and written; copying one model {copying:.1f} s")
    return {"seconds": merging, "copy": copying, "gb_per_s": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="where the pair is made; default: the system's temporary folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=32, help="fewer for a trial")
    parser.add_argument("--width", type=int, default=4096, help="smaller for a trial, a multiple of 16")
    parser.add_argument("--methods", default="linear,slerp,task_arithmetic,ties,dare_linear")
    parser.add_argument("--disk", default="linear,ties", help="methods that are also written to disk")
    parser.add_argument("--json", metavar="FILE", help="write every number there")
    options = parser.parse_args()
    width, vocabulary = options.width, 128256 if options.width == 4096 else 32 * options.width
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width, "dtype": "bfloat16",
        "intermediate_size": width * 7 // 2, "num_hidden_layers": options.layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": vocabulary, "tie_word_embeddings": False,
    }  # fmt: skip
    table: dict[str, Any] = {"torch": torch.__version__, "device": options.device, "memory": {}, "disk": {}}
    if options.device == "cuda":
        table["gpu"] = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        wanted = shapes(options.layers, width, width * 7 // 2, width // 4, vocabulary)
        making = timed(lambda: make_pair(folder, wanted, config, options.device), options.device)
        aligned, tuned = read_folder("aligned", folder / "aligned"), read_folder("tuned", folder / "tuned")
        table["parameters"] = aligned.parameters
        print(
            f"{aligned.parameters / 1e9:.2f} · 10⁹ parameters, made in {making:.0f} s, on {options.device}", flush=True
        )
        for method in options.methods.split(","):
            if options.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            table["memory"][method] = in_memory(aligned, tuned, method, options.device)
        for method in filter(None, options.disk.split(",")):
            table["disk"][method] = to_disk(aligned, tuned, method, folder)
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
