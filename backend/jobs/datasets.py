"""The data of a fine-tuning by name: a demo set, a file, one file of a Hub data set at a commit, or a mix. No torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from backend.errors import UserError, unknown_name
from backend.jobs.datafile import DataFile
from backend.jobs.mixes import MIX, MIX_ENDINGS, build_mix, find_mix, read_mix
from backend.settings import Settings, refuse_in_public
from backend.tuning.tables import ENDINGS, READ

DEMO = "demo/"
TRAINING = "training.json"
MOST_NAMED = 8
HUB = re.compile(
    r"(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w.-]*))?(:(?P<file>[\w][\w./-]*))?", re.ASCII
)
ALLOWED = f"a demo set, {READ}, a .mix.yaml or .mix.json file, or owner/name@revision:file of the Hub"


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
        found.append(
            {
                "name": name,
                "role": role,
                "rows": kinds.total(),
                "summary": f"{summary} rows.",
                "training": recommended(settings, name),
            }
        )
    return found


def recommended(settings: Settings, name: str) -> dict[str, Any]:
    """The training settings that a demo set was made for, as its folder says; none for any other data."""
    return dict(_made_for(settings, name).get("training", {}))


def recommended_suites(settings: Settings, name: str) -> list[str]:
    """What shows best what a demo set does to a model, as its folder says; none for any other data."""
    return list(_made_for(settings, name).get("suites", ()))


def _made_for(settings: Settings, name: str) -> dict[str, Any]:
    path = settings.demo / "data" / TRAINING
    if not name.startswith(DEMO) or not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8")).get(name.removeprefix(DEMO), {}))


def find_data(
    settings: Settings, name: str, field: str, *, endpoint: str | None = None, cache: Path | None = None
) -> DataFile:
    """The file called `name`. A Hub file is downloaded into huggingface_hub's cache; a mix is built under the home.

    Args:
        field: whom an error is about.
        endpoint, cache: another Hub and another cache than huggingface_hub's own.

    Raises:
        UserError: nothing of that name, a format that is not read, or a mix that cannot be built.
    """
    if not name.startswith(DEMO):
        refuse_in_public(settings, field, name)
    if name.startswith(MIX):
        return find_mix(settings.home, name, field=field)
    if not name.lower().endswith(MIX_ENDINGS):
        return _find_file(settings, name, field, endpoint, cache)
    path = Path(name).expanduser().absolute()
    mix = read_mix(path, field=field)
    files = [_find_file(settings, _beside(path, part.data, field), field, endpoint, cache) for part in mix.parts]
    return build_mix(settings.home, path, mix, files, field=field)


def _beside(mix: Path, name: str, field: str) -> str:
    """A part's file as it is found from anywhere: relative paths start where the mix file lies."""
    lower = name.lower()
    if lower.endswith(MIX_ENDINGS) or name.startswith(MIX):
        problem = f"{name} in {mix.name} is a mix itself"
        raise UserError(field, problem=problem, remedy="Write its parts into this one.")
    is_file = lower.endswith(ENDINGS) and ":" not in name
    return str(mix.parent / Path(name).expanduser()) if is_file else name


def _find_file(settings: Settings, name: str, field: str, endpoint: str | None, cache: Path | None) -> DataFile:
    if name.startswith(DEMO):
        if name not in demo_sets(settings):
            raise unknown_name(field, name, demo_sets(settings))
        return DataFile(name, settings.demo / "data" / f"{name.removeprefix(DEMO)}.jsonl")
    path = Path(name).expanduser()
    if name.lower().endswith(ENDINGS) and ":" not in name:
        if not path.is_file():
            raise UserError(field, problem=f"there is no file {path}", allowed=ALLOWED, remedy="Check the path.")
        return DataFile(str(path.absolute()), path.absolute())
    hub = HUB.fullmatch(name)
    if hub is None or path.exists():
        raise UserError(
            field, got=name, allowed=ALLOWED, remedy=f"A demo set is {demo_sets(settings)[-1:] or ['none']}."
        )
    file = hub["file"]
    if file and not file.lower().endswith(ENDINGS):
        raise UserError(field, problem=f"{file} of {hub['repository']} is of no kind that is read", allowed=READ)
    return _from_hub(hub["repository"], hub["revision"], file, field, endpoint, cache)


def _from_hub(
    repository: str, revision: str | None, file: str | None, field: str, endpoint: str | None, cache: Path | None
) -> DataFile:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    at = f"@{revision}" if revision else ""
    try:
        if not (file and revision and re.fullmatch(r"[0-9a-f]{40}", revision)):
            found = HfApi(endpoint).dataset_info(repository, revision=revision)
            revision = str(found.sha)
            file = file or _only_file([one.rfilename for one in found.siblings or ()], repository, field)
        path = hf_hub_download(
            repository, file, repo_type="dataset", revision=revision, endpoint=endpoint, cache_dir=cache
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        problem = f"{repository}{at} cannot be read from the Hub ({type(error).__name__})"
        remedy = "Check the name and the network, or download it and give the file."
        raise UserError(field, problem=problem, remedy=remedy) from None
    return DataFile(f"{repository}@{revision}:{file}", Path(path))


def _only_file(names: list[str], repository: str, field: str) -> str:
    fitting = sorted(name for name in names if name.lower().endswith(ENDINGS))
    training = [name for name in fitting if "train" in name.lower()] or fitting
    if len(training) == 1:
        return training[0]
    more = f" and {len(training) - MOST_NAMED} more" if len(training) > MOST_NAMED else ""
    listed = ", ".join(training[:MOST_NAMED]) + more or "none with an ending that is read"
    problem = f"{repository} has no single file to train on: {listed}"
    raise UserError(field, problem=problem, remedy=f"Name one: {repository}@revision:file.")
