"""The data of a fine-tuning by name: a demo set, a file, or one file of a Hub data set at a pinned commit. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import UserError, unknown_name
from backend.settings import Settings

DEMO = "demo/"
TRAINING = "training.json"
ENDINGS = (".jsonl", ".csv")
HUB = re.compile(
    r"(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w.-]*))?(:(?P<file>[\w][\w./-]*))?", re.ASCII
)
ALLOWED = "a demo set, a .jsonl or .csv file, or owner/name@revision:file of the Hub"


@dataclass(frozen=True)
class DataFile:
    """A data file on this disk; `name` means the same file later."""

    name: str
    path: Path

    @property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


def demo_sets(settings: Settings) -> list[str]:
    """The data sets that came with the studio."""
    return sorted(DEMO + path.stem for path in (settings.demo / "data").glob("*.jsonl"))


def data_sets(settings: Settings) -> list[dict[str, Any]]:
    """The same for a drop-down: name, role (task or references), rows and a sentence."""
    found = []
    for name in demo_sets(settings):
        path = settings.demo / "data" / f"{name.removeprefix(DEMO)}.jsonl"
        rows = map(json.loads, filter(str.strip, path.read_text(encoding="utf-8").split("\n")))
        kinds = Counter(row.get("kind") or "unlabelled" for row in rows)
        summary = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        role = "references" if "references" in name else "task"
        found.append({"name": name, "role": role, "rows": kinds.total(), "summary": f"{summary} rows."})
    return found


def recommended(settings: Settings, name: str) -> dict[str, Any]:
    """The training settings that a demo set was made for, as its folder says; none for any other data."""
    path = settings.demo / "data" / TRAINING
    if not name.startswith(DEMO) or not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8")).get(name.removeprefix(DEMO), {}))


def find_data(settings: Settings, name: str, field: str) -> DataFile:
    """The file called `name`; a Hub file is downloaded into huggingface_hub's cache.

    Raises:
        UserError: nothing of that name, or a format that is not read.
    """
    if name.startswith(DEMO):
        if name not in demo_sets(settings):
            raise unknown_name(field, name, demo_sets(settings))
        return DataFile(name, settings.demo / "data" / f"{name.removeprefix(DEMO)}.jsonl")
    path = Path(name).expanduser()
    if path.suffix.lower() in ENDINGS and ":" not in name:
        if not path.is_file():
            raise UserError(field, problem=f"there is no file {path}", allowed=ALLOWED, remedy="Check the path.")
        return DataFile(str(path.absolute()), path.absolute())
    hub = HUB.fullmatch(name)
    if hub is None or path.exists():
        raise UserError(
            field, got=name, allowed=ALLOWED, remedy=f"A demo set is {demo_sets(settings)[-1:] or ['none']}."
        )
    return _from_hub(hub["repository"], hub["revision"], hub["file"], field)


def _from_hub(repository: str, revision: str | None, file: str | None, field: str) -> DataFile:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        if not (file and revision and re.fullmatch(r"[0-9a-f]{40}", revision)):
            found = HfApi().dataset_info(repository, revision=revision)
            revision = str(found.sha)
            file = file or _only_file([one.rfilename for one in found.siblings or ()], repository, field)
        path = hf_hub_download(repository, file, repo_type="dataset", revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        problem = f"{repository} cannot be read from the Hub ({type(error).__name__})"
        remedy = "Check the name and the network, or download it and give the file."
        raise UserError(field, problem=problem, remedy=remedy) from None
    return DataFile(f"{repository}@{revision}:{file}", Path(path))


def _only_file(names: list[str], repository: str, field: str) -> str:
    fitting = [name for name in names if name.lower().endswith(ENDINGS)]
    training = [name for name in fitting if "train" in name.lower()] or fitting
    if len(training) == 1:
        return training[0]
    listed = ", ".join(training[:8]) or "none with an ending that is read"
    problem = f"{repository} has no single .jsonl or .csv file to train on: {listed}"
    raise UserError(field, problem=problem, remedy=f"Name one: {repository}@revision:file.")
