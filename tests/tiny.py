"""Small random checkpoints as transformers and PEFT write them, for tests: a folder in well under a second."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
VOCABULARY = 160
FAMILIES = ("llama", "qwen3", "gemma3_text", "mistral")

_CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForConditionalGeneration),
}
# Three layers, one more than the language model beside it has.
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
_IMAGE_TOKENS = {"boi_token_index": 156, "eoi_token_index": 157, "image_token_index": 158}


@cache
def _words() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False)
    text = ["the quick brown fox jumps over the lazy dog 0123456789", "How do I help you?"]
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer.to_str()


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    words = Tokenizer.from_str(_words())
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = template
    return fast


def model(
    family: str = "llama",
    *,
    seed: int = 0,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    hidden: int = 32,
    layers: int = 2,
    vocabulary: int = VOCABULARY,
    **more: Any,
) -> Any:
    """A random model of `family`; the same seed gives the same numbers, whatever torch drew before.

    "gemma3" also sees: its config holds the language model's in `text_config`.
    """
    config_class, model_class = _CLASSES[family]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **more,
    )
    if family == "gemma3":
        sizes = {**_VISION, "image_size": 28, "patch_size": 14}
        config = Gemma3Config(
            text_config=config, vision_config=sizes, mm_tokens_per_image=4, tie_word_embeddings=tied, **_IMAGE_TOKENS
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = model_class(config).to(dtype).eval()
        for parameter in built.parameters():
            parameter.data.normal_(0, 0.2)
    return built


def folder(
    path: Path,
    family: str = "llama",
    *,
    shard: str | None = None,
    template: str | None = TEMPLATE,
    words: bool = True,
    near: Path | None = None,
    **options: Any,
) -> Path:
    """Save a random model as a Hugging Face folder.

    Args:
        shard: the largest shard, as "20KB"; None writes one file.
        near: a folder whose weights this one is a small step away from, as a fine-tune is.
    """
    built = model(family, **options)
    if near is not None:
        parent = type(built).from_pretrained(near, dtype=built.dtype)
        for parameter, start in zip(built.parameters(), parent.parameters(), strict=True):
            parameter.data.mul_(0.1).add_(start.data)
    built.save_pretrained(path, max_shard_size=shard or "5GB")
    if words:
        tokenizer(template).save_pretrained(path)
    return path


def adapter(path: Path, base: Path, *, seed: int = 7, **options: Any) -> Path:
    """Save a random LoRA adapter on the model in `base`, its B factors not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns about transformers, and about choices that are ours
        torch.manual_seed(seed)
        loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = get_peft_model(loaded, LoraConfig(**{**settings, **options}))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.1)
        adapted.save_pretrained(path)
    return path
