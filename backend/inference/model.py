"""A model in memory with its tokenizer: chat in, answer out.

The only place that builds a transformers model. It is always the aligned checkpoint's architecture, tokenizer and
template, so that every point of a path is asked in the same words; other weights are written into it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from backend.checkpoints.config import check_model_type
from backend.checkpoints.tying import HEADS
from backend.errors import UserError
from backend.inference import decode
from backend.inference.decode import Answer, Decoding, Statistics
from backend.lazy import transformers
from backend.types import Checkpoint, Message

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def pick_device(wanted: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "STUDIO_DEVICE", got="cuda", problem="this machine has no CUDA device", remedy="Use auto or cpu."
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The checkpoint's own dtype on a GPU; fp32 on a CPU, where half precision is slow and exactness is a promise."""
    if device.type == "cpu":
        return torch.float32
    widest = max((tensor.elements, tensor.dtype) for tensor in checkpoint.tensors.values())[1]
    return TORCH_DTYPES.get(widest, torch.float32)


class Responder:
    """A chat model that answers greedily."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end = _end_tokens(model, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else min(self.end, default=0)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def parameters(self) -> dict[str, torch.Tensor]:
        """Name -> tensor, as in the checkpoint's files; writing into one changes the model."""
        return dict(self.model.state_dict(keep_vars=False))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a chat, up to where the answer begins."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        tokens = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        return [int(token) for token in tokens]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a whole chat, its answers included."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        tokens = self.tokenizer.apply_chat_template(turns, return_dict=False)
        return [int(token) for token in tokens]

    def text(self, tokens: Sequence[int]) -> str:
        """The words of an answer, special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def decoding(self, new_tokens: int, batch: int = 32) -> Decoding:
        return Decoding(new_tokens, self.end, self.pad, batch)

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        drafts: Sequence[Sequence[int]] | None = None,
        check: Callable[[int], None] = lambda finished: None,
        statistics: Statistics | None = None,
    ) -> list[Answer]:
        """Greedy answers, see `backend.inference.decode.greedy`."""
        return decode.greedy(self.model, prompts, decoding, drafts=drafts, check=check, statistics=statistics)

    def stream(self, messages: Sequence[Message], new_tokens: int) -> Iterator[str]:
        """The answer as it grows, whole at every step."""
        for tokens in decode.stream(self.model, self.encode(messages), self.decoding(new_tokens)):
            yield self.text(tokens)


def load(checkpoint: Checkpoint, *, device: torch.device, untied: bool = False, words: Path | None = None) -> Responder:
    """Load a full checkpoint that was resolved and checked before.

    Args:
        untied: give it an output head of its own, a copy of the embedding where its files hold none, so that other
            weights can be written into both.
        words: the folder of another tokenizer and chat template.

    Raises:
        UserError: a family that is not run here, no chat template, or weights that do not fill the architecture.
    """
    check_model_type(checkpoint.config, field=checkpoint.name)
    settings = {key: value for key, value in checkpoint.config.items() if key not in ("model_type", "dtype")}
    config = transformers.AutoConfig.for_model(checkpoint.config["model_type"], **settings)
    if untied:
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.folder,
        config=config,
        dtype=compute_dtype(checkpoint, device),
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(loading["missing_keys"])
    if untied and len(missing) == 1 and missing[0].endswith(HEADS):
        with torch.no_grad():
            model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
        missing = []
    if missing:
        raise UserError(
            checkpoint.name,
            problem=f"the files hold no {missing[0]}, which {checkpoint.config['model_type']} needs",
            remedy="Pick a complete checkpoint.",
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        words or checkpoint.folder, trust_remote_code=False, local_files_only=True
    )
    if not tokenizer.chat_template:
        raise UserError(
            checkpoint.name,
            problem="its tokenizer has no chat template, so prompts cannot be asked as in training",
            remedy="Use an instruction-tuned checkpoint, or add a chat_template to tokenizer_config.json.",
        )
    return Responder(model.to(device).eval(), tokenizer)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    # A model that also sees has it in the language model's own table, or in both.
    tables = (model.generation_config, model.config, model.config.get_text_config())
    for source in (*(getattr(table, "eos_token_id", None) for table in tables), tokenizer.eos_token_id):
        if source is not None:
            found |= set(source) if isinstance(source, list | tuple) else {int(source)}
    return frozenset(found)
