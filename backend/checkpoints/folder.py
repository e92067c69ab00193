"""A folder on this disk as a `Checkpoint`: which files hold the weights, and whether they may be read at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, Literal

from backend.checkpoints.config import MODEL_TYPES, sanitised
from backend.checkpoints.headers import read_header, refusal
from backend.errors import UserError
from backend.types import Checkpoint, TensorInfo

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
MOST_JSON_BYTES = 64 * 2**20
MOST_JSON_DEPTH = 32

# What a checkpoint may bring beside its weights and config; the tokenizer's files first, copied as they are. Recipes
# hash these: one more would change the hash of every recipe of a model that has it, so what is rarer stands apart.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
OLDER_TOKENIZERS = ("tekken.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    *OLDER_TOKENIZERS,
)  # without one there is no tokenizer
CONFIGS = ("tokenizer_config.json", "generation_config.json", *PROCESSOR_FILES)
SIDE_FILES = (*TOKENIZER_FILES, *OLDER_TOKENIZERS, *PROCESSOR_FILES, "generation_config.json", "README.md")

# Formats that are pickles or hold other numbers than the model's; named in the refusal, never opened.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
OTHERS = (".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz")


def read_folder(
    name: str, folder: Path, *, roots: Iterable[Path] = (), revision: str = "", field: str = "checkpoint"
) -> Checkpoint:
    """Read the headers and JSON files of `folder`.

    Args:
        roots: folders that links inside `folder` may lead to, beside `folder` itself.
    """
    inside = tuple(root.resolve() for root in (folder, *roots))
    kind = _kind(folder, field)
    for side in SIDE_FILES:
        if own_file(folder, side, inside, field=field) and side in CONFIGS:
            read_json(folder, side, inside, field=field)
    notes: list[str] = []
    config: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    if own_file(folder, "config.json", inside, field=field) is not None:
        config, dropped = sanitised(read_json(folder, "config.json", inside, field=field))
        notes += [f"config.json: dropped {key}" for key in dropped]
    if kind == "adapter":
        adapter, dropped = sanitised(read_json(folder, "adapter_config.json", inside, field=field))
        for key in ("auto_mapping", "runtime_config"):
            adapter.pop(key, None)
        notes += [f"adapter_config.json: dropped {key}" for key in dropped]
        tensors = read_header(required_file(folder, ADAPTER, inside, field=field), field=field)
    else:
        if not config:
            remedy = "A checkpoint is a Hugging Face folder: config.json beside the *.safetensors files."
            raise UserError(field, problem=f"the folder {folder.name} holds no config.json", remedy=remedy)
        if config.get("model_type") not in MODEL_TYPES:
            notes.append("its architecture is not one that the studio runs: it can be inspected and merged only")
        tensors = _full_tensors(folder, inside, field)
        if (folder / "adapter_config.json").exists():
            notes.append("adapter_config.json beside full weights is ignored")
    if not tensors:
        raise UserError(field, problem=f"the folder {folder.name} holds no tensor", remedy="Save the checkpoint again.")
    return Checkpoint(name, folder, kind, config, tensors, revision, adapter, tuple(notes))


def _kind(folder: Path, field: str) -> Literal["full", "adapter"]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(field, problem=f"the folder {folder} {what}", remedy="Give the folder of a checkpoint.")
    try:
        files = sorted(item.name for item in folder.iterdir())
    except OSError as error:
        raise UserError(field, problem=f"the folder {folder} could not be read ({error.strerror})") from None
    if WEIGHTS in files or INDEX in files:
        return "full"
    if ADAPTER in files and "adapter_config.json" in files:
        return "adapter"
    raise no_weights(files, folder.name, field)


def no_weights(files: list[str], where: str, field: str) -> UserError:
    """The refusal of a folder or repository without weights we read, in the words of what it does hold."""
    allowed = "*.safetensors"
    pickles = [name for name in files if name.endswith(PICKLES)]
    others = [name for name in files if name.endswith(OTHERS)]
    safe = [name for name in files if name.endswith(".safetensors")]
    if not files:
        return UserError(field, problem=f"{where} is empty", allowed="a folder with config.json and *.safetensors")
    if safe == [ADAPTER]:
        return UserError(
            field, problem=f"{where} holds {ADAPTER} but no adapter_config.json", remedy="Save it with PEFT."
        )
    if safe:
        problem = f"{where} holds {safe[0]} but no {WEIGHTS} and no {INDEX}"
        return UserError(field, problem=problem, remedy=f"Name one file {WEIGHTS}, or add the index of the shards.")
    if pickles:
        problem = f"{where} holds {pickles[0]}, a pickle, which can run code when opened"
        remedy = "Convert it to safetensors with save_pretrained of transformers, where you trust it."
        return UserError(field, problem=problem, allowed=allowed, remedy=remedy)
    if others:
        remedy = "Use the original checkpoint, or convert it to safetensors with save_pretrained of transformers."
        return UserError(field, problem=f"{where} holds {others[0]}", allowed=allowed, remedy=remedy)
    return UserError(field, problem=f"{where} holds no weights", allowed=allowed, remedy="Pick another folder.")


def _full_tensors(folder: Path, roots: tuple[Path, ...], field: str) -> dict[str, TensorInfo]:
    if (folder / WEIGHTS).exists():
        return read_header(required_file(folder, WEIGHTS, roots, field=field), field=field)
    index = read_json(folder, INDEX, roots, field=field)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise refusal(field, folder / INDEX, "holds no weight_map", "Save the checkpoint again.")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted({str(value) for value in weight_map.values()}):
        if PurePath(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            problem = f"names {shard[:100]!r}; allowed is a *.safetensors file in the same folder"
            raise refusal(field, folder / INDEX, problem, "Do not use this checkpoint.")
        found = read_header(required_file(folder, shard, roots, field=field), field=field)
        twins = tensors.keys() & found.keys()
        if twins:
            raise refusal(field, folder / shard, f"repeats tensor {min(twins)[:100]!r} of another shard")
        tensors |= found
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise refusal(field, folder / INDEX, f"places tensor {name[:100]!r} in {shard}, which does not hold it")
    return tensors


def own_file(folder: Path, name: str, roots: tuple[Path, ...], *, field: str = "checkpoint") -> Path | None:
    """The file `name` of `folder`, None where there is none; refused where it is a link to somewhere else."""
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    target = path.resolve()
    if not any(target.is_relative_to(root) for root in roots):
        problem = f"the file {name} is a link out of its folder"
        raise UserError(field, problem=problem, remedy="Copy the file into the folder.")
    return path if path.is_file() else None


def required_file(folder: Path, name: str, roots: tuple[Path, ...], *, field: str) -> Path:
    """The file `name` of `folder`, refused where it is missing."""
    path = own_file(folder, name, roots, field=field)
    if path is None:
        problem = f"the folder {folder.name} lacks the file {name}"
        raise UserError(field, problem=problem, remedy="Copy or download the missing file.")
    return path


def read_json(folder: Path, name: str, roots: tuple[Path, ...], *, field: str) -> dict[str, Any]:
    """The JSON table in file `name` of `folder`."""
    path = required_file(folder, name, roots, field=field)
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise refusal(field, path, f"is larger than {MOST_JSON_BYTES} bytes", "Use another checkpoint.")
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        raise refusal(field, path, "is not readable JSON") from None
    if not isinstance(table, dict):
        raise refusal(field, path, "is not a JSON table")
    if _depth_exceeds(table, MOST_JSON_DEPTH):
        raise refusal(field, path, f"is nested deeper than {MOST_JSON_DEPTH} levels", "Use another checkpoint.")
    return table


def _depth_exceeds(table: Any, most: int) -> bool:
    level = [table]
    for _ in range(most):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    return bool(level)
