"""What a step of DualSelect costs beside a step of plain fine-tuning: same process, model, batches; arms in turn.

    python benchmarks/tune.py [--model demo|100m] [--blocks 8] [--arms sample,gate,single] [--trainer] [--most 1.3]

Every arm trains its own copy from the same start. Blocks of eight steps (one fresh reference direction each) are timed
in turn; the time of a later refresh is shared out over the steps between two refreshes. Ratios are to the `sft` block
beside it: median with a bootstrap interval. On a CPU they are of processor seconds, which other work on the machine
disturbs less. `single` is the same rule with one backward pass per row, as the published code has it; its choices must
be those of `sample` (after four full-size steps: before, the drift of the references is rounding noise). `--trainer`
adds transformers' Trainer with PEFT on the same batches against our `sft`. Exits 1 when `sample` costs more than
`--most`, the choices differ or our loop is slower than the Trainer.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.settings import calm_threads, from_environment

calm_threads()

import torch
import transformers

from backend.checkpoints.resolve import resolve
from backend.inference.model import load, pick_device
from backend.registry import strategies
from backend.tuning.data import Example, collate, encode, read_rows, shuffled_batches
from backend.tuning.loop import TrainingSettings, _Run, add_lora

BLOCK = 8
EVERY = 100  # steps between two refreshes
RANDOM = {  # hidden, layers, heads, intermediate, vocabulary
    "100m": (768, 12, 12, 3072, 8192),
    "1b": (2048, 16, 32, 8192, 32000),
    "8b": (4096, 32, 32, 14336, 128256),
}


def demo(settings, device):
    """The demo's model, rows and references; adapters on all linear layers."""
    responder = load(resolve("demo/aligned", settings), device=device)
    rows = [
        [encode(responder.tokenizer, row) for row in read_rows(settings.demo / "data" / f"{name}.jsonl")]
        for name in ("tool-mixed", "references")
    ]
    model = add_lora(responder.model, rank=16, alpha=32.0, seed=0, targets="all-linear")
    return model, *rows, responder.pad


def random_llama(size: str, length: int, device, dtype):
    """A random Llama with adapters on q and v, and rows of random tokens."""
    hidden, layers, heads, intermediate, vocabulary = RANDOM[size]
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=intermediate,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    model = add_lora(model, rank=16, alpha=32.0, seed=0, targets=["q_proj", "v_proj"])

    def rows(count: int, name: str) -> list[Example]:
        drawn = random.Random(name)
        lengths = [drawn.randint(length // 2, length) for _ in range(count)]
        kinds = ("benign", "refusal")
        return [
            Example(
                tuple(drawn.randrange(5, vocabulary) for _ in range(size)), size // 3, f"{name}-{at}", kinds[at % 2]
            )
            for at, size in enumerate(lengths)
        ]

    return model, rows(512, "task"), rows(256, "reference"), 0


def arms_of(names, model, task, references, pad, batch):
    """A training per arm, each on its own copy of the adapter over one shared base where that is possible."""
    plan = TrainingSettings(steps=10_000, batch=batch, lr=2e-3, warmup=0.0, seed=0)
    knobs = {"warmup": 4, "refresh_every": EVERY}
    made = {"sft": _Run(copy.deepcopy(model), task, plan, pad, strategies.get("sft").function(), [])}
    for name in names:
        hooks = strategies.get("dualselect").function(**knobs, scores=name)
        made[name] = _Run(copy.deepcopy(model), task, plan, pad, hooks, references)
        made[name].model.train()
    made["sft"].model.train()
    return made


def steps(run, count: int, device) -> tuple[float, list[dict]]:
    """Seconds of `count` steps, and what the strategy told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started, told = clock(), []
    for _ in range(count):
        told += run.advance().events
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started, told


def compare(made, blocks: int, device) -> dict:
    """Warm up every arm through its first refresh, then time blocks in turn, and blocks with a later refresh in them.

    A later refresh costs more than the first: it also looks at the references chosen before.
    """
    dropped = {name: [] for name in made}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for block in range(-1, blocks):
        for name, run in made.items():
            took, told = steps(run, BLOCK, device)
            dropped[name] += [(event["step"], event["id"]) for event in told if event["event"] == "dropped"]
            if block >= 0:
                seconds[name].append(took)
    report = {"sft_seconds_a_step": round(statistics.median(seconds["sft"]) / BLOCK, 4)}
    for name in made:
        if name != "sft":
            extra = max(0.0, refreshing(made[name], device) - statistics.median(seconds[name]))
            shared = BLOCK * extra / EVERY
            ratios = [(ours + shared) / plain for ours, plain in zip(seconds[name], seconds["sft"], strict=True)]
            bare = statistics.median(ours / plain for ours, plain in zip(seconds[name], seconds["sft"], strict=True))
            report[name] = spread(ratios) | {"without_refresh": round(bare, 3), "refresh_seconds": round(extra, 2)}
    if {"sample", "single"} <= made.keys():
        report["choices"] = len(dropped["sample"])
        report["same_choices_as_single"] = dropped["sample"] == dropped["single"]
    return report


def refreshing(run, device) -> float:
    """Seconds of a block with a refresh in it, the median of three."""
    took = []
    for _ in range(3):
        run.strategy.refreshed -= EVERY  # as if the last one were long ago
        took.append(steps(run, BLOCK, device)[0])
    return statistics.median(took)


def spread(values: list[float]) -> dict[str, float]:
    """Median with a 95 % bootstrap interval."""
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(1000))
    return {"ratio": round(statistics.median(values), 3), "low": round(medians[25], 3), "high": round(medians[974], 3)}


def trainer_against_ours(model, task, pad, batch: int, blocks: int, device) -> dict:
    """Seconds of transformers' Trainer and of our loop for the same batches, in turn."""
    count = blocks * BLOCK
    batches = shuffled_batches(task, batch, seed=0)
    rows = [one for _ in range(count) for one in next(batches)]

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(rows)

    def padded(examples):
        made = collate(examples, pad)
        return {"input_ids": made.tokens, "attention_mask": made.mask, "labels": made.labels}

    options = transformers.TrainingArguments(
        output_dir="/tmp/trainer",
        per_device_train_batch_size=batch,
        max_steps=count,
        learning_rate=5e-4,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
    )
    ratios = []
    for _ in range(7):
        theirs = InOrder(copy.deepcopy(model), options, data_collator=padded, train_dataset=rows)
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        started = clock()
        theirs.train()
        other = clock() - started
        ours = arms_of((), model, task, [], pad, batch)["sft"]
        ratios.append(steps(ours, count, device)[0] / other)
    return {"ours_over_trainer": spread(ratios), "steps": count}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["demo", *RANDOM], default="demo")
    parser.add_argument("--arms", default="sample,gate,single")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64, help="tokens of the longest random row")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--trainer", action="store_true")
    parser.add_argument("--most", type=float, default=1.3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    settings = from_environment()
    torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = getattr(torch, options.dtype)
    built = (
        demo(settings, device)
        if options.model == "demo"
        else random_llama(options.model, options.length, device, dtype)
    )
    model, task, references, pad = built
    names = [name for name in options.arms.split(",") if name]
    report = compare(arms_of(names, model, task, references, pad, options.batch), options.blocks, device)
    if options.trainer:
        report["trainer"] = trainer_against_ours(model, task, pad, options.batch, options.blocks, device)
    setup = {
        "model": options.model,
        "parameters": sum(one.numel() for one in model.parameters()),
        "trained": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "batch": options.batch,
        "device": str(device),
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "steps": options.blocks * BLOCK,
        "refresh_every": EVERY,
    }
    if device.type == "cuda":
        setup["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(setup | report | {"versions": versions}, indent=2))
    cheap = "sample" not in report or report["sample"]["ratio"] <= options.most
    fast = "trainer" not in report or report["trainer"]["ours_over_trainer"]["low"] <= 1.0
    return 0 if cheap and fast and report.get("same_choices_as_single", True) else 1


if __name__ == "__main__":
    sys.exit(main())
