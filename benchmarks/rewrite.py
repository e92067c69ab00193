"""How fast θ(λ) is written into a loaded model, as a share of the machine's copy bandwidth, measured in the same run.

    python benchmarks/rewrite.py --parameters 0.5 --rounds 5 --into bf16

Copy bandwidth is that of `torch.Tensor.copy_` between tensors of the model's shapes: bytes read plus bytes written over
seconds. A rewrite is charged only what no implementation can leave out: reading what θ(λ) is formed from (both ends, or
θ0 and the fp32 step) and writing θ(λ). The aim is 0.7. A bf16 pair is written into a bf16 model, as a GPU holds one, or
into fp32, as the studio loads it on a CPU. Needs no network and no checkpoint.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.settings import calm_threads

calm_threads()

import torch

from backend.merging.request import check_request
from backend.merging.resident import ResidentPair
from backend.registry import methods
from benchmarks.clock import timed

WIDTH, HIDDEN, VOCABULARY = 1024, 4096, 32000
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "breadcrumbs", "layerwise", "resta")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Memory:
    """A model that is only tensors: what `checkpoints.reader` calls a source."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self.tensors[name].clone() if dtype is None else self.tensors[name].to(dtype, copy=True)

    def read_block(self, name: str, begin: int, end: int, scratch: bytearray | None = None) -> torch.Tensor:
        return self.tensors[name].reshape(-1)[begin:end].clone()

    def prefetch(self, name: str) -> None:
        pass

    def changed_names(self) -> frozenset[str]:
        return frozenset(self.tensors)


def make_tensors(billions: float, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The matrices of a Llama-type model of about that size."""
    per_layer = 4 * WIDTH**2 + 3 * WIDTH * HIDDEN
    layers = max(1, round((billions * 1e9 - 2 * VOCABULARY * WIDTH) / per_layer))
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        shapes |= {f"model.layers.{layer}.mlp.{part}_proj.weight": (HIDDEN, WIDTH) for part in ("up", "gate", "down")}
    return {name: (0.02 * torch.randn(shape, device=device)).to(dtype) for name, shape in shapes.items()}


def seconds_of(work: Callable[[], object], rounds: int, device: str) -> list[float]:
    """Seconds of each round, after one that is not counted."""
    return [timed(work, device) for _ in range(rounds + 1)][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=float, default=0.25, help="10⁹ parameters of the pair")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--into", default="bf16", choices=DTYPES, help="the number format of the loaded model")
    parser.add_argument("--without-numba", action="store_true", help="as on a machine that lacks it")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    if options.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]  # importing it is then an ImportError
    table = measure(options.parameters, options.rounds, options.methods.split(","), options.device, options.into)
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=1))


def measure(billions: float, rounds: int, names: list[str], device: str, into: str = "bf16") -> dict[str, object]:
    """Print a line for each method and return all numbers."""
    torch.manual_seed(0)
    start = make_tensors(billions, device, torch.bfloat16)
    goal = {name: one + 0.001 * torch.randn_like(one) for name, one in start.items()}
    other = {name: one - 0.001 * torch.randn_like(one) for name, one in start.items()}
    copies = {name: torch.empty_like(one) for name, one in start.items()}
    targets = {name: torch.empty_like(one, dtype=DTYPES[into]) for name, one in start.items()}
    count = sum(one.numel() for one in start.values())
    table: dict[str, object] = {"parameters": count, "device": device, "into": into, "threads": torch.get_num_threads()}

    def copy() -> None:
        for name, one in start.items():
            copies[name].copy_(one)

    print(
        f"{count / 1e9:.2f} · 10⁹ parameters in bf16, into {into}, on {device}, {torch.get_num_threads()} threads",
        flush=True,
    )
    print(f"{'method':18}{'s per λ':>9}{'GB/s':>8}{'copy GB/s':>11}   share of copy, median [min, max]")
    for name in names:
        method = methods.get(name)
        extras = {name: Memory(other) for name in method.facts["extras"]}
        pair = ResidentPair(Memory(start), Memory(goal), device, extras=extras)
        knobs = check_request(method, {}, extras=list(extras))
        pair.write_into(targets, method, knobs)  # a sweep computes its step once
        moved = count * (2 + DTYPES[into].itemsize + (4 if method.facts["gives"] == "step" else 2))
        shares, spent, speeds = [], [], []
        for turn in range(rounds):
            knobs[method.facts["knob"]] = 0.3 + 0.1 * (turn % 5)
            (copied,) = seconds_of(copy, 1, device)
            (written,) = seconds_of(
                lambda pair=pair, method=method, knobs=knobs: pair.write_into(targets, method, knobs), 1, device
            )
            speeds.append(4 * count / copied / 1e9)
            spent.append(written)
            shares.append(moved / written / 1e9 / speeds[-1])
        middle = [statistics.median(part) for part in (spent, speeds, shares)]
        table[name] = {"seconds": spent, "copy_gb_per_s": speeds, "share_of_copy": shares}
        print(
            f"{name:18}{middle[0]:9.3f}{moved / middle[0] / 1e9:8.1f}{middle[1]:11.1f}   "
            f"{middle[2]:.2f} [{min(shares):.2f}, {max(shares):.2f}]",
            flush=True,
        )
    return table


if __name__ == "__main__":
    main()
