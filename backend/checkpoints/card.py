"""What stands beside merged weights: config, tokenizer and template of a donor, and the model card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.checkpoints.config import sanitised
from backend.checkpoints.folder import CONFIGS, OLDER_TOKENIZERS, PROCESSOR_FILES, TOKENIZER_FILES, VOCABULARIES
from backend.checkpoints.inspect import front_matter, main_dtype
from backend.checkpoints.tying import EMBEDDINGS, HEADS, find_ends, is_tied
from backend.checkpoints.writer import FolderWriter
from backend.types import Checkpoint

DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def public_name(checkpoint: Checkpoint) -> str:
    """The name to print in a card: a Hub id or demo name as typed, a folder without the path to it."""
    if checkpoint.revision:
        return checkpoint.name.split("@")[0]
    return checkpoint.name if re.fullmatch(r"demo/[\w.-]+", checkpoint.name) else checkpoint.folder.name


def merged_config(
    aligned: Checkpoint, tuned: Sequence[Checkpoint], donor: Checkpoint, names: Sequence[str]
) -> dict[str, Any]:
    """The donor's config with dtype and tie flag as they are in the merged files."""
    config = json.loads(json.dumps(donor.config or aligned.config))
    dtype = DTYPE_NAMES.get(main_dtype(aligned), "float32")
    tables = [table for table in (config, config.get("text_config")) if isinstance(table, dict)]
    for table in tables:
        for key in {"dtype"} | ({"torch_dtype"} & table.keys()):
            table[key] = dtype
    ends = find_ends(names)
    if ends and ends.head not in names:
        config["tie_word_embeddings"] = True
    elif ends and not (is_tied(aligned) and all(_leaves_tied(one) for one in tuned)):
        for table in tables:
            table["tie_word_embeddings"] = False
    return dict(config)


def _leaves_tied(tuned: Checkpoint) -> bool:
    if tuned.kind == "full":
        return is_tied(tuned)
    ends = tuple(name.removesuffix(".weight") for name in (*HEADS, *EMBEDDINGS))
    return not any(f".{end}." in name for name in tuned.tensors for end in ends)


def put_side_files(writer: FolderWriter, config: dict[str, Any], donors: Sequence[Checkpoint]) -> None:
    """Config, generation config, tokenizer with its template, processors; each from the first donor that has it."""
    writer.put_json("config.json", config)
    words = _first_with(donors, TOKENIZER_FILES[:1]) or _first_with(donors, VOCABULARIES) or donors[0]
    _put_files(writer, words, (*TOKENIZER_FILES, *OLDER_TOKENIZERS))
    for names in (PROCESSOR_FILES, ("generation_config.json",)):
        _put_files(writer, _first_with(donors, names) or donors[0], names)


def _first_with(donors: Sequence[Checkpoint], names: Sequence[str]) -> Checkpoint | None:
    return next((donor for donor in donors if any((donor.folder / name).is_file() for name in names)), None)


def _put_files(writer: FolderWriter, donor: Checkpoint, names: Sequence[str]) -> None:
    for path in (donor.folder / name for name in names):
        if path.is_file() and path.name in CONFIGS:
            writer.put_json(path.name, _safe_json(path))
        elif path.is_file():
            writer.put_copy(path)


def _safe_json(path: Path) -> dict[str, Any]:
    table = json.loads(path.read_text(encoding="utf-8"))
    return sanitised(table)[0] if isinstance(table, dict) else {}


def model_card(
    title: str,
    recipe: Mapping[str, Any],
    parents: Sequence[tuple[str, Checkpoint]],
    *,
    knob: str = "",
    scores: Mapping[str, Any] | None = None,
    measured: str = "",
) -> str:
    """README.md of a merged model: front matter that the Hub reads, the recipe in words, the scores or their absence.

    Args:
        recipe: as written to recipe.json.
        parents: (role, checkpoint), the aligned one first.
        knob: what the method's own number means, in a sentence.
        scores: axis -> {"value", "low", "high", "n"} in percent, where the model was evaluated.
        measured: where, on what and by which judge these were measured, in a sentence.
    """
    licenses = [(front_matter(parent.folder).get("license") or [""])[0] for _, parent in parents]
    shared = licenses[0] if licenses[0] and len(set(licenses)) == 1 else "other" if any(licenses) else ""
    front = ["---", "base_model:"] + [f"- {_yaml(public_name(parent))}" for _, parent in parents]
    front += ["base_model_relation: merge"] + ([f"license: {_yaml(shared)}"] if shared else [])
    front += ["library_name: transformers", "tags:", "- merge", "---", ""]
    knobs = ", ".join(f"{'λ' if key == 'lam' else key} = {value}" for key, value in recipe["parameters"].items())
    body = [
        f"# {_plain(title)}",
        "",
        f"A merge by `{recipe['method']}` ({recipe['paper']}) with {knobs or 'no parameters'}.",
        *([knob] if knob else []),
        "",
        "| role | model | revision | licence |",
        "|---|---|---|---|",
    ]
    for (role, parent), license_name in zip(parents, licenses, strict=True):
        cells = [role, public_name(parent), parent.revision or "local", license_name or "not stated"]
        body.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    body += [
        "",
        f"{_effect_words(recipe['effective'])} Seed {recipe['seed']}. Hashes and versions are in `recipe.json`.",
        "",
        "## Safety and task scores",
        "",
        *_score_lines(scores),
        *(["", _plain(measured)] if measured else []),
        "",
    ]
    return "\n".join(front + body)


def tuned_card(
    title: str, recipe: Mapping[str, Any], model: Checkpoint, *, adapter: bool, scores: Mapping[str, Any] | None = None
) -> str:
    """README.md of a fine-tuned model: lineage, strategy, settings, data hashes, scores.

    Args:
        recipe: as written to tuning.json.
        model: the checkpoint that training started from.
        adapter: whether the folder holds a LoRA adapter instead of all weights.
        scores: axis -> {"value", "low", "high", "n"} in percent.
    """
    license_name = (front_matter(model.folder).get("license") or [""])[0]
    front = ["---", "base_model:", f"- {_yaml(public_name(model))}"]
    front += [f"base_model_relation: {'adapter' if adapter else 'finetune'}"]
    front += [f"license: {_yaml(license_name)}"] if license_name else []
    front += [f"library_name: {'peft' if adapter else 'transformers'}", "---", ""]
    strategy = recipe["strategy"]
    body = [
        f"# {_plain(title)}",
        "",
        f"{_plain(public_name(model))} ({model.revision or 'local'}), fine-tuned with `{strategy['name']}` "
        f"({_plain(strategy['paper'])}) for {recipe['steps']} steps, seed {recipe['seed']}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {_plain(str(value))} |" for key, value in {**recipe["parameters"], **recipe["training"]}.items()),
        "",
        "| data | rows used | SHA-256 |",
        "|---|---|---|",
        *(line for one in recipe["data"] for line in _data_lines(one)),
        "",
        "Hashes of the start weights, versions and the data report are in `tuning.json`.",
        "",
        "## Safety and task scores",
        "",
        *_score_lines(scores),
        "",
    ]
    return "\n".join(front + body)


def _data_lines(file: Mapping[str, Any]) -> list[str]:
    """A file's row of the table, and below it one for each part that it was mixed from."""
    parts = (file.get("mix") or {}).get("parts", ())
    named = [(_data_name(file["name"]), file["kept"], file["sha256"])]
    named += [(f"… of it {_data_name(part['name'])}", part["taken"], part["sha256"]) for part in parts]
    return [f"| {_plain(name)} | {rows} | {digest} |" for name, rows, digest in named]


def _data_name(name: str) -> str:
    """A Hub file with all that finds it; of a file on this disk not where it lies.

    >>> _data_name("owner/sums@1f2e:main/train.parquet"), _data_name("/home/me/rows.jsonl")
    ('owner/sums@1f2e:main/train.parquet', 'rows.jsonl')
    """
    return Path(name).name if Path(name).is_absolute() else name


def _effect_words(effective: Mapping[str, float | None]) -> str:
    """How far the merge goes, each number with what it is measured in.

    >>> _effect_words({"projection": None, "distance": None, "shift": 0.0123})
    "Distance from aligned in units of the aligned model's own length: 0.0123."
    """
    if "shift" in effective:
        return f"Distance from aligned in units of the aligned model's own length: {_number(effective['shift'])}."
    projection, distance = (_number(effective[name]) for name in ("projection", "distance"))
    return f"Effective step along the fine-tuning: {projection}; distance from aligned in units of it: {distance}."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _score_lines(scores: Mapping[str, Any] | None) -> list[str]:
    if not scores:
        return ["Not evaluated. Neither parent's scores carry over to a merge: measure before use."]
    lines = ["| axis | % | 95 % interval | n |", "|---|---|---|---|"]
    for axis, score in scores.items():
        lines.append(f"| {axis} | {score['value']:.1f} | {score['low']:.1f} – {score['high']:.1f} | {score['n']} |")
    return lines


def _yaml(text: str) -> str:
    """A string as a YAML scalar that cannot be anything else."""
    return json.dumps(text)


def _plain(text: str) -> str:
    return re.sub(r"[|<>`\[\]\r\n]", " ", text)
