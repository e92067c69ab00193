"""Mix files: read, built into one file under the studio's home, and found there again. No torch.

A built mix is called mix/<its file's name>-<hash>; the hash is over the mix and the hashes of its parts, so the same
mix is built once. Beside its rows lies a table of what they were made of, written last: it says that all is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from backend.errors import UserError
from backend.evaluation.suites import canonical, sha256
from backend.jobs.datafile import DataFile, file_hash
from backend.storage.files import write_json, write_text
from backend.tuning.mixing import Mix, MixPart, check_mix, draw, interleave
from backend.tuning.rows import Row, Skipped, counted, listed, read_chat_file

MIX = "mix/"
MIX_ENDINGS = (".mix.yaml", ".mix.json")
MOST_BYTES = 2**20
MOST_LISTED = 20
WAY = 2  # counted up when the same mix would be built into other rows


def read_mix(path: Path, *, field: str) -> Mix:
    """The mix that a .mix.yaml or .mix.json file describes.

    Raises:
        UserError: no such file, not YAML or JSON, or a mix that cannot be built; see `check_mix`.
    """
    if not path.is_file():
        raise UserError(field, problem=f"there is no mix file {path}", remedy="Check the path.")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(field, problem=f"{path.name} is no mix file", allowed=f"at most {MOST_BYTES:,} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
        given = json.loads(text) if path.name.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problem = f"{path.name} cannot be read ({' '.join(str(error).split())[:200]})"
        raise UserError(field, problem=problem, remedy="Write it as YAML or JSON.") from None
    return check_mix(given, field=field)


def build_mix(home: Path, recipe: Path, mix: Mix, files: Sequence[DataFile], *, field: str) -> DataFile:
    """One file with the rows of `mix`, or the one that was built from the same before.

    Args:
        home: the studio's home folder.
        recipe: the mix file, whose name the mix gets.
        files: the data of each part, in the parts' order.

    Raises:
        UserError: a part cannot be read, or has too few rows.
    """
    sources = [_source(part, file) for part, file in zip(mix.parts, files, strict=True)]
    key = sha256(canonical({"way": WAY, "rows": mix.rows, "seed": mix.seed, "parts": sources}))
    name = f"{recipe.name.rsplit('.mix.', 1)[0]}-{key[:16]}"
    found = _stored(home, name)
    if found:
        return found
    drawn, parts = [], []
    for number, (source, file) in enumerate(zip(sources, files, strict=True), start=1):
        rows, skipped = read_chat_file(file.path, field=field)
        wanted = mix.counts[number - 1]
        _check_enough(mix, number, len(rows), field)
        drawn.append(draw(rows, wanted, seed=mix.seed, part=number))
        parts.append(source | _account(rows, skipped, wanted))
    target = _rows_of(home, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "".join(_line(mix, part, row) for part, row in interleave(drawn, seed=mix.seed)))
    made = {"rows": mix.rows, "seed": mix.seed, "parts": parts, "sha256": file_hash(target)}
    write_json(target.with_suffix(".json"), made)
    return DataFile(MIX + name, target, made)


def find_mix(home: Path, name: str, *, field: str) -> DataFile:
    """The mix of this name that was built in this home.

    Raises:
        UserError: none was, or its file was changed since.
    """
    found = _stored(home, name.removeprefix(MIX))
    if found is None:
        problem = f"no whole mix {name} is stored here"
        raise UserError(field, problem=problem, remedy="Give its .mix.yaml file, and it is built again.")
    return found


def mix_warnings(file: DataFile) -> list[str]:
    """What a reader should know of a mix's parts: rows that could not be used, rows that were taken again."""
    found = []
    for part in file.mix["parts"] if file.mix else ():
        if part["skipped"]:
            bad = listed([Skipped(**one) for one in part["skipped_rows"]])
            found.append(f"Not in the mix, of {part['name']}: {counted(part['skipped'])}; {bad}.")
        if part.get("unread"):
            found.append(f"Tools are not in the mix, which {counted(part['unread'])} of {part['name']} would have.")
        if part["again"]:
            found.append(f"Taken again in the mix, of {part['name']}: {counted(part['again'])}.")
    return found


def _stored(home: Path, name: str) -> DataFile | None:
    rows = _rows_of(home, name)
    table = rows.with_suffix(".json")
    if not (name == Path(name).name and table.is_file() and rows.is_file()):
        return None
    made = json.loads(table.read_text(encoding="utf-8"))
    return DataFile(MIX + name, rows, made) if made["sha256"] == file_hash(rows) else None


def _rows_of(home: Path, name: str) -> Path:
    return home / "mixes" / f"{name}.jsonl"


def _source(part: MixPart, file: DataFile) -> dict[str, Any]:
    return file.to_json() | {"share": part.share, "kind": part.kind, "repeat": part.repeat}


def _account(rows: Sequence[Row], skipped: Sequence[Skipped], taken: int) -> dict[str, Any]:
    """What became of a part's rows; `again` counts those that are there more than once, `unread` those with columns
    that the mix leaves out."""
    bad = {"skipped": len(skipped), "skipped_rows": [one._asdict() for one in skipped[:MOST_LISTED]]}
    unread = sum(bool(row.unread) for row in rows)
    found = {"rows": len(rows), "taken": taken, "again": max(0, taken - len(rows)), **bad}
    return found | ({"unread": unread} if unread else {})


def _check_enough(mix: Mix, number: int, rows: int, field: str) -> None:
    part, wanted = mix.parts[number - 1], mix.counts[number - 1]
    where = f"part {number} of the mix ({part.data})"
    if not wanted:
        problem = f"{where} gives no row: its share is {part.share:g} of {mix.rows} rows"
        raise UserError(field, problem=problem, remedy="Give it a larger share, ask for more rows, or leave it out.")
    if not rows or (rows < wanted and not part.repeat):
        problem = f"{where} has {counted(rows)} that can be used, {wanted} are wanted"
        raise UserError(field, problem=problem, remedy="Ask for fewer rows, or set repeat: true to take rows again.")


def _line(mix: Mix, part: int, row: Row) -> str:
    """A row of the built file. It has no id of its file: the same id may stand for other chats in another part."""
    written = {
        "messages": row.messages,
        "kind": mix.parts[part - 1].kind or row.kind,
        "group": row.group,
        "part": part,
    }
    return json.dumps(written, ensure_ascii=False) + "\n"
