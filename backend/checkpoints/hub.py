"""A repository of the Hugging Face Hub as a folder in its cache: one commit, and only the files that we read.

The client is huggingface_hub's own, with its address (`HF_ENDPOINT`), cache (`HF_HOME`) and token. A commit that is
complete in the cache needs no network, so a job can resolve again what the page downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.checkpoints.folder import SIDE_FILES, no_weights, read_folder
from backend.checkpoints.space import check_space
from backend.errors import UserError
from backend.types import Checkpoint

WANTED = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
)
# Nothing from sub-folders, which hold other formats and code; no second copy of the weights in Mistral's own layout.
UNWANTED = ("*/*", "consolidated*")


def download(
    name: str,
    repository: str,
    revision: str | None,
    *,
    field: str = "checkpoint",
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Checkpoint:
    """Fetch what we read of `repository` at `revision` (a branch, tag or commit) and read its headers.

    Raises:
        UserError: the repository or revision does not exist, is closed to this user, holds no safetensors, does not fit
            the disk, or the Hub cannot be reached and nothing is cached.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    api = HfApi(endpoint=endpoint)
    place = Path(cache or constants.HF_HUB_CACHE)
    with _sentences(field, repository, revision, api.endpoint):
        resolved = api.resolve_revision(repository, revision=revision, cache_dir=place)

        def fetch(**options: Any) -> Path:
            patterns = {"allow_patterns": [*WANTED, *SIDE_FILES], "ignore_patterns": [*UNWANTED]}
            found = snapshot_download(
                repository, revision=resolved, cache_dir=place, endpoint=endpoint, **patterns, **options
            )
            return Path(found)

        def read(folder: Path) -> Checkpoint:
            return read_folder(name, folder, roots=(folder.parents[1],), revision=resolved.resolved, field=field)

        try:
            return read(fetch(local_files_only=True))
        except (LocalEntryNotFoundError, UserError):  # not there, or there in part
            if constants.is_offline_mode():
                raise
        _check_listing(api, repository, resolved, place, field)
        return read(fetch(tqdm_class=_quiet()))


def _check_listing(api: Any, repository: str, revision: Any, cache: Path, field: str) -> None:
    """Refuse by name and size, before the first byte of a file is fetched."""
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    tree = api.list_repo_tree(repository, revision=revision.resolved)
    sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    wanted = list(filter_repo_objects(sizes, allow_patterns=[*WANTED], ignore_patterns=[*UNWANTED]))
    if not any(file.endswith(".safetensors") for file in wanted):
        raise no_weights(sorted(sizes), repository, field)
    check_space(cache, sum(sizes[file] for file in wanted), field=field)


def _quiet() -> Callable[..., Any]:
    """A progress bar that draws nothing: output belongs to the command line's own lines."""
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    return Quiet


@contextmanager
def _sentences(field: str, repository: str, revision: str | None, endpoint: str) -> Iterator[None]:
    """The client's many errors as one sentence each."""
    import httpx2
    from huggingface_hub import errors

    where = f"{repository}@{revision}" if revision else repository
    try:
        yield
    except errors.GatedRepoError:
        remedy = f"Accept its terms on {endpoint}/{repository}, then set HF_TOKEN to a token of that account."
        raise UserError(field, problem=f"{repository} is gated", remedy=remedy) from None
    except errors.RepositoryNotFoundError:
        remedy = "Check the spelling; for a private one set HF_TOKEN."
        raise UserError(field, problem=f"the Hub has no repository {repository}", remedy=remedy) from None
    except errors.RevisionNotFoundError:
        problem = f"{repository} has no revision {revision!r}"
        remedy = "Give a branch, tag or commit from its page, or leave @revision away."
        raise UserError(field, problem=problem, remedy=remedy) from None
    except errors.HFValidationError:
        raise UserError(field, got=where, allowed="owner/name@revision", remedy="Check the spelling.") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        problem = f"the Hub answered {status} for {where}"
        raise UserError(field, problem=problem, remedy="Try again later, or give a local folder.") from None
    except (errors.RevisionResolutionError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise UserError(field, **_unreachable(where, endpoint, error)) from None
    except httpx2.TransportError as error:
        raise UserError(field, **_unreachable(where, endpoint, error)) from None


def _unreachable(where: str, endpoint: str, error: Exception) -> dict[str, str]:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        remedy = "Unset it to download, or give a local folder or a demo name."
        return {"problem": f"{where} is not in the cache and HF_HUB_OFFLINE is set", "remedy": remedy}
    remedy = "Check the network, or give a local folder or a demo name."
    return {"problem": f"{where} is not in the cache and {endpoint} cannot be reached", "remedy": remedy}
