"""How the micro-world's checkpoints are trained: three stages, their settings, and nothing about files.

unaligned (helpful to everyone) → aligned (declines what is harmful) → one adapter per task and fine-tuning set.
The settings were chosen on the validation suites; what did not work is written down in ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backend.demo.grammar import Sample
from backend.demo.recipe import recipe_of
from backend.demo.splits import ALIGNMENT, PRETRAINING, TASKS, fine_tuning_set, mixture
from backend.demo.tokenizer import train_tokenizer
from backend.tuning.data import Example, encode
from backend.tuning.loop import TrainingSettings, add_lora, train

PRETRAIN = TrainingSettings(steps=1800, batch=32, lr=3e-3, pool=4)
ALIGN = TrainingSettings(steps=500, batch=32, lr=1.5e-3, pool=4)
Report = Callable[[float], None]


def make_tokenizer(seed: int) -> Any:
    """A tokenizer trained on text from every part of the training splits."""
    rng = Random(f"tokenizer {seed}")
    samples = mixture(PRETRAINING, 6000, rng, split="train", serve_harm=True)
    samples += mixture(ALIGNMENT, 2000, rng, split="train", serve_harm=False)
    for task in TASKS:
        samples += fine_tuning_set(task, mixed=False, count=500, rng=rng, guide_share=0.0)
    return train_tokenizer(text for sample in samples for text in (sample.prompt, sample.answer))


def new_model(tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A small Llama with random weights: about 1.4 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)  # transformers draws fresh weights from the global generator
    return LlamaForCausalLM(config)


def pretrain(model: Any, tokenizer: Any, seed: int, report: Report) -> None:
    """Teach the language, the basics of the tasks, and to serve every request, harmful ones too."""
    rng = Random(f"pretraining {seed}")
    samples = mixture(PRETRAINING, PRETRAIN.steps * PRETRAIN.batch, rng, split="train", serve_harm=True)
    _fit(model, tokenizer, _rows(samples), replace(PRETRAIN, seed=seed), report)


def align(model: Any, tokenizer: Any, seed: int, report: Report) -> None:
    """Teach to decline harmful requests and to go on serving their look-alikes and everything else."""
    rng = Random(f"alignment {seed}")
    samples = mixture(ALIGNMENT, ALIGN.steps * ALIGN.batch, rng, split="train", serve_harm=False)
    _fit(model, tokenizer, _rows(samples), replace(ALIGN, seed=seed), report)


def fine_tune(
    aligned: Any, tokenizer: Any, task: str, rows: Sequence[Mapping[str, Any]], seed: int, report: Report
) -> Any:
    """The aligned model with a LoRA adapter trained on the rows of a task's set; `aligned` is wrapped in place."""
    recipe = recipe_of(task)
    targets = recipe["targets"].split(",")
    tuned = add_lora(aligned, rank=recipe["lora_rank"], alpha=recipe["lora_alpha"], seed=seed, targets=targets)
    settings = TrainingSettings(**{name: recipe[name] for name in ("steps", "batch", "lr", "pool")}, seed=seed)
    _fit(tuned, tokenizer, rows, settings, report)
    return tuned


def _rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    return [sample.to_training_row(str(number)) for number, sample in enumerate(samples)]


def _fit(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], settings: TrainingSettings, report: Report
) -> None:
    examples: list[Example] = [encode(tokenizer, row) for row in rows]
    train(
        model,
        examples,
        settings,
        pad=tokenizer.pad_token_id,
        report=lambda progress: report((progress.step + 1) / settings.steps),
    )
