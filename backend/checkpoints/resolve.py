"""From what a person typed to a `Checkpoint`: a demo name, a local folder, or a Hub id. Knows nothing of torch."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from backend.checkpoints.folder import read_folder
from backend.errors import UserError, unknown_name
from backend.settings import Settings, refuse_in_public
from backend.types import Checkpoint

DEMO = "demo/"
HUB_ID = re.compile(
    r"(?P<repository>[\w][\w.-]{0,95}/[\w][\w.-]{0,95})(?:@(?P<revision>[\w][\w./-]{0,127}))?", re.ASCII
)
ALLOWED = "a demo name, a folder, or a Hub id like owner/name@revision"


def resolve(
    name: str,
    settings: Settings,
    *,
    field: str = "checkpoint",
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Checkpoint:
    """Find the checkpoint called `name` and read its headers; a Hub repository is downloaded first.

    Args:
        name: `demo/<x>`, a folder (absolute, relative, or a bare name under the models root), or `owner/name@revision`.
        field: the form field or option that a refusal names.
        endpoint: the Hub's address, default huggingface_hub's own (`HF_ENDPOINT`).
        cache: where downloads go, default huggingface_hub's own.

    Raises:
        UserError: nothing of that name, or files that we do not read; one sentence that says what to do.
    """
    name = name.strip()
    if not name or "\0" in name:
        raise UserError(field, got=name, allowed=ALLOWED, remedy="The demo pair starts with demo/aligned.")
    if name.startswith(DEMO):
        return _demo(name, settings, field)
    if name not in local_names(settings):
        refuse_in_public(settings, field, name)
    try:
        folder = _local_folder(name, settings)
    except (OSError, RuntimeError):  # a name too long for any file system, or `~` of somebody unknown
        raise UserError(field, got=name[:200], allowed=ALLOWED, remedy="Check the name.") from None
    if folder is not None:
        return read_folder(_lasting(name, folder, settings), folder, roots=(settings.models_root,), field=field)
    hub = HUB_ID.fullmatch(name)
    if hub is None:
        known = sorted(f"demo/{demo}" for demo in demo_names(settings)) + local_names(settings)
        if re.fullmatch(r"[\w.-]+", name):
            raise unknown_name(field, name, known)
        raise UserError(field, problem=f"there is no folder {name[:200]}", allowed=ALLOWED, remedy="Check the path.")
    from backend.checkpoints.hub import download

    return download(name, hub["repository"], hub["revision"], field=field, endpoint=endpoint, cache=cache)


def lasting_name(name: str, settings: Settings) -> str:
    """The name by which `resolve` finds the same checkpoint from any directory, as processes of other ones need it.

    A public page takes no paths; what it is given stays as it is, so that its refusal tells nothing of the disk.
    """
    name = name.strip()
    if not name or name.startswith(DEMO) or settings.public or not is_folder_here(name, settings):
        return name
    return _lasting(name, _local_folder(name, settings), settings)


def short_name(path: str, settings: Settings) -> str:
    """The studio's own name of a folder given by its path; `path` where it has none, or is none."""
    folder = Path(path)
    if folder.parent == settings.demo / "models" and folder.name in demo_names(settings):
        return DEMO + folder.name
    is_known = folder.parent == settings.models_root and _local_folder(folder.name, settings) == folder
    return folder.name if is_known else path


def is_folder_here(name: str, settings: Settings) -> bool:
    """Whether `resolve` takes `name` for a folder of this disk; nothing is read of it."""
    try:
        return _local_folder(name, settings) is not None
    except (OSError, RuntimeError):
        return False


def _lasting(name: str, folder: Path | None, settings: Settings) -> str:
    """A folder under the models root keeps its short name."""
    return name if folder in (None, settings.models_root / name) else str(folder)


def demo_names(settings: Settings) -> list[str]:
    """The demo checkpoints that came with the studio, without their `demo/`."""
    return _folders(settings.demo / "models")


def local_names(settings: Settings) -> list[str]:
    """The folders under the models root."""
    return _folders(settings.models_root)


def _folders(root: Path) -> list[str]:
    try:
        return sorted(item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))
    except OSError:
        return []


def _demo(name: str, settings: Settings, field: str) -> Checkpoint:
    short = name.removeprefix(DEMO)
    known = demo_names(settings)
    if short not in known:
        raise unknown_name(field, name[:200], [DEMO + demo for demo in known])
    return read_folder(name, settings.demo / "models" / short, roots=(settings.demo,), field=field)


def _local_folder(name: str, settings: Settings) -> Path | None:
    """The folder that `name` points to; also one that is not there, when `name` can be nothing but a path."""
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()  # whether it can be asked for at all; `exists` hides some of these errors
    if path.is_absolute() or name.startswith((".", "~")) or path.exists():
        return path.absolute()
    under_root = settings.models_root / path
    if ".." not in path.parts and under_root.is_dir():
        return under_root
    return None
