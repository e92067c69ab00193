"""The studio's sweep against the loop everybody writes today, on the same pair, prompts and batch, in one run.

    python benchmarks/sweep.py [--tuned demo/tool-mixed-sft] [--task tool] [--points 11] [--prompts 100]
                               [--batch 8,32] [--pairs 3]

The loop, per λ: merge to disk, `from_pretrained`, `generate` in batches, greedy. The studio: both weights resident,
θ(λ) written in place, each answer re-used as the draft of the next λ. A third arm, resident weights with plain
`generate`, tells what the drafts save from what the disk saves. Imports and the judging of answers are in no arm.
Prints, for every batch size, medians over interleaved repetitions as ratios, and whether all greedy answers are
identical (in fp32 they must be); exits 1 when they are not, or when no batch size reaches `--least`. The ratio falls as
the batch grows: both sides then do the same multiplications, and what the drafts save is the many small steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.settings import calm_threads, from_environment

calm_threads()

import torch
import transformers
from safetensors.torch import load_file, save_file

from backend.checkpoints.reader import open_source
from backend.checkpoints.resolve import resolve
from backend.evaluation.suites import load_suite, messages_of
from backend.inference.decode import Statistics
from backend.inference.model import Responder, load, pick_device
from backend.jobs.sweep import load_pair
from backend.registry import methods, tasks

Answers = list[list[tuple[int, ...]]]


def everybodys_loop(aligned, tuned, prompts, grid, limits, device) -> Answers:
    """Merge to disk, load, generate; from files to answers, for every λ."""
    answers = []
    start = load_file(aligned.folder / "model.safetensors")
    source = open_source(tuned, aligned)
    goal = {name: source.read(name) for name in start}
    with tempfile.TemporaryDirectory() as folder:
        for lam in grid:
            out = Path(folder) / f"merge-{lam:g}"
            shutil.copytree(aligned.folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
            merged = {name: torch.lerp(start[name], goal[name], lam) for name in start}
            save_file(merged, out / "model.safetensors", metadata={"format": "pt"})
            model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).to(device).eval()
            answers.append(generate(model, prompts, *limits))
            shutil.rmtree(out)
    return answers


def resident_and_plain(responder, pair, prompts, grid, limits) -> Answers:
    """Resident weights, transformers' own `generate`."""
    answers = []
    for lam in grid:
        pair.write_into(responder.parameters(), methods.get("linear"), {"lam": lam})
        answers.append(generate(responder.model, prompts, *limits))
    return answers


def studio(responder: Responder, pair, prompts, grid, limits, counts: Statistics) -> Answers:
    """What a sweep run does, without its judging."""
    answers: Answers = []
    decoding = responder.decoding(*limits)
    for lam in grid:
        pair.write_into(responder.parameters(), methods.get("linear"), {"lam": lam})
        drafts = answers[-1] if answers else None
        found = responder.answer(prompts, decoding, drafts=drafts, statistics=counts)
        answers.append([answer.tokens for answer in found])
    return answers


@torch.inference_mode()
def generate(model, prompts, new_tokens, batch) -> list[tuple[int, ...]]:
    """Batches of equal size, sorted by length as a careful author would, padded on the left."""
    ends = model.generation_config.eos_token_id
    end = set(ends if isinstance(ends, list) else [ends])
    pad = model.generation_config.pad_token_id
    pad = pad if pad is not None else min(end)
    answers: dict[int, tuple[int, ...]] = {}
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for first in range(0, len(order), batch):
        places = order[first : first + batch]
        width = max(len(prompts[place]) for place in places)
        rows = [[pad] * (width - len(prompts[place])) + list(prompts[place]) for place in places]
        real = [[0] * (width - len(prompts[place])) + [1] * len(prompts[place]) for place in places]
        written = model.generate(
            torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(real, device=model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=pad,
        )[:, width:].tolist()
        for place, tokens in zip(places, written, strict=True):
            stop = next((k + 1 for k, token in enumerate(tokens) if token in end), len(tokens))
            answers[place] = tuple(tokens[:stop])
    return [answers[place] for place in range(len(prompts))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--aligned", default="demo/aligned")
    parser.add_argument("--tuned", default="demo/tool-mixed-sft")
    parser.add_argument("--task", default="tool")
    parser.add_argument("--points", type=int, default=11)
    parser.add_argument("--prompts", type=int, default=100, help="per suite; three safety suites and the task's")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch", default="8,32", help="batch sizes, the same for every arm")
    parser.add_argument("--pairs", type=int, default=3, help="interleaved repetitions")
    parser.add_argument("--least", type=float, default=5.0)
    options = parser.parse_args()
    settings = from_environment()
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(settings.device)
    aligned, tuned = (resolve(name, settings) for name in (options.aligned, options.tuned))
    names = ("safety", "over_refusal", "helpfulness", tasks.get(options.task).facts["suite"])
    suites = [load_suite(settings.demo / "suites" / f"{name}.jsonl").first(options.prompts, 0) for name in names]
    encoder = load(aligned, device=device)
    prompts = [encoder.encode(messages_of(row)) for suite in suites for row in suite.rows]
    grid = [step / (options.points - 1) for step in range(options.points)]
    batches = []
    for batch in map(int, options.batch.split(",")):
        limits = (options.new_tokens, batch)
        batches.append(compare(settings, aligned, tuned, prompts, grid, limits, options.pairs, device))
    result = {
        "pair": [aligned.name, tuned.name],
        "points": options.points,
        "prompts": len(prompts),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batches": batches,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    print(json.dumps(result, indent=2))
    fastest = max(one["times_faster_than_the_loop"]["median"] for one in batches)
    return 0 if all(one["identical_greedy_answers"] for one in batches) and fastest >= options.least else 1


def compare(settings, aligned, tuned, prompts, grid, limits, pairs, device) -> dict[str, object]:
    """The three arms in turn, `pairs` times, at one batch size."""
    seconds: dict[str, list[float]] = {"loop": [], "resident": [], "studio": []}
    identical, counts = True, Statistics()
    for _ in range(pairs):
        found = {}
        for arm in seconds:
            clock = time.perf_counter()
            if arm == "loop":
                found[arm] = everybodys_loop(aligned, tuned, prompts, grid, limits, device)
            else:
                responder, pair = load_pair(aligned, tuned, settings)
                if arm == "resident":
                    found[arm] = resident_and_plain(responder, pair, prompts, grid, limits)
                else:
                    counts = Statistics()
                    found[arm] = studio(responder, pair, prompts, grid, limits, counts)
            seconds[arm].append(time.perf_counter() - clock)
        identical = identical and found["loop"] == found["studio"] == found["resident"]
    return {
        "batch": limits[1],
        "seconds": {arm: [round(one, 2) for one in times] for arm, times in seconds.items()},
        "times_faster_than_the_loop": ratios(seconds["loop"], seconds["studio"]),
        "times_faster_than_resident_weights": ratios(seconds["resident"], seconds["studio"]),
        "tokens_guessed_right": counts.reused,
        "tokens_generated": counts.generated,
        "identical_greedy_answers": identical,
    }


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Median, smallest and largest ratio over the pairs."""
    found = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    return {"median": round(statistics.median(found), 2), "min": round(min(found), 2), "max": round(max(found), 2)}


if __name__ == "__main__":
    sys.exit(main())
