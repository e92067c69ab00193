"""The checkpoints of a request: found, checked against each other, named so that they mean the same later. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from backend.checkpoints.folder import TOKENIZER_FILES
from backend.checkpoints.guard import check_pair, raise_errors
from backend.checkpoints.hashes import file_hash
from backend.checkpoints.resolve import DEMO, resolve
from backend.errors import UserError, unknown_name
from backend.registry import EXTRA_INPUTS, Plugin
from backend.settings import Settings
from backend.types import Checkpoint, Finding

HASHED_WHOLE = 256 * 2**20
BESIDE_WEIGHTS = ("config.json", "adapter_config.json", "generation_config.json", *TOKENIZER_FILES)

Donor = Literal["aligned", "fine_tuned"]
DONORS: tuple[Donor, ...] = ("aligned", "fine_tuned")


@dataclass(frozen=True)
class Sources:
    """What a merge is made of; `extras` by the names that methods give them."""

    aligned: Checkpoint
    tuned: tuple[Checkpoint, ...]
    extras: Mapping[str, Checkpoint] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    donor: Donor = "aligned"

    @property
    def others(self) -> list[Checkpoint]:
        """Everything beside the aligned model."""
        return [*self.tuned, *self.extras.values()]

    def spec(self) -> dict[str, Any]:
        """The names to find them by again; one fine-tuned model is a name, several are a list."""
        return self._each(pinned) | ({} if self.donor == "aligned" else {"donor": self.donor})

    def fingerprints(self) -> dict[str, Any]:
        """What identifies them in a recipe."""
        return self._each(fingerprint)

    def whole_fingerprints(self) -> dict[str, Any]:
        """The same with what stands beside the weights; see `whole_fingerprint`."""
        return self._each(whole_fingerprint)

    def _each(self, words: Any) -> dict[str, Any]:
        tuned = [words(one) for one in self.tuned]
        extras = {"extras": {role: words(one) for role, one in self.extras.items()}} if self.extras else {}
        return {"aligned": words(self.aligned), "tuned": tuned[0] if len(tuned) == 1 else tuned} | extras


def find_sources(settings: Settings, request: Mapping[str, Any], method: Plugin) -> Sources:
    """Resolve what the request names and check every checkpoint against the aligned one.

    Args:
        request: `aligned`; `tuned`, a name or a list; a name for each of `unaligned`, `raw`, `safe`; and `donor`.

    Raises:
        UserError: a name that is missing or cannot be read, or a checkpoint that does not fit.
    """
    aligned = resolve(text_of(request, "aligned"), settings, field="aligned")
    names = tuned_names(request.get("tuned"))
    if not names and method.facts["fine_tunes"][0] > 0:
        text_of({}, "tuned")
    tuned = tuple(resolve(name, settings, field="tuned") for name in names)
    extras = {
        role: resolve(text_of(request, role), settings, field=role)
        for role in EXTRA_INPUTS
        if str(request.get(role) or "").strip()
    }
    if aligned.kind == "adapter":
        raise UserError("aligned", problem=f"{aligned.name} is an adapter", remedy="Name the full aligned checkpoint.")
    donor = _donor(request, tuned)
    findings = [finding for one in tuned for finding in check_pair(aligned, one, donor=donor)]
    for role, one in extras.items():
        findings += _about(role, check_pair(aligned, one))
    raise_errors(findings)
    warnings = dict.fromkeys(finding.sentence for finding in findings if finding.level == "warning")
    return Sources(aligned, tuned, extras, tuple(warnings), donor)


def _donor(request: Mapping[str, Any], tuned: tuple[Checkpoint, ...]) -> Donor:
    """Whose tokenizer, config and template the merged model gets."""
    given = text_of(request, "donor", "aligned")
    if given not in DONORS:
        raise unknown_name("donor", given, DONORS)
    if given == "fine_tuned" and not tuned:
        raise UserError("donor", problem="there is no fine-tuned model", allowed="aligned")
    return DONORS[DONORS.index(given)]


def open_spec(settings: Settings, spec: Mapping[str, Any]) -> Sources:
    """The checkpoints of a spec that was checked before."""
    aligned = resolve(spec["aligned"], settings, field="aligned")
    tuned = tuple(resolve(name, settings, field="tuned") for name in tuned_names(spec["tuned"]))
    extras = {role: resolve(name, settings, field=role) for role, name in spec.get("extras", {}).items()}
    return Sources(aligned, tuned, extras, donor=spec.get("donor", "aligned"))


def merged_folder(settings: Settings, run: int, spec: Mapping[str, Any]) -> Path:
    """Where the merge of this run is written."""
    return Path(spec["out"]) if spec["out"] else settings.models_root / f"merge-{run}"


def tuned_names(given: Any) -> list[str]:
    """The names in a request's `tuned`: a name, or a list of them.

    >>> tuned_names("a"), tuned_names(["a", "b"]), tuned_names(None)
    (['a'], ['a', 'b'], [])
    """
    names = given if isinstance(given, list | tuple) else [given]
    return [str(name).strip() for name in names if name is not None and str(name).strip()]


def text_of(request: Mapping[str, Any], field: str, default: str | None = None) -> str:
    """A field as text, or the error that nothing was given."""
    value = request.get(field)
    if value is None or not str(value).strip():
        if default is None:
            raise UserError(field, problem="nothing was given", remedy="Name a demo checkpoint, a folder or a Hub id.")
        return default
    return str(value).strip()


def table_of(request: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A field that holds settings by name; empty where it is left out.

    >>> table_of({"parameters": "rho=1"}, "parameters")
    Traceback (most recent call last):
    backend.errors.UserError: parameters: got 'rho=1'; allowed is a table of names and values.
    """
    value = request.get(field)
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        raise UserError(field, got=value, allowed="a table of names and values")
    return dict(value)


def seed_of(request: Mapping[str, Any]) -> int:
    """The request's seed; 0 if it names none."""
    value = request.get("seed", 0)
    try:
        seed = int(str(value))
    except ValueError:  # no number, or one of thousands of digits
        seed = -1
    if not 0 <= seed < 2**32:
        raise UserError("seed", got=value, allowed=f"a whole number from 0 to {2**32 - 1}", remedy="The default is 0.")
    return seed


def pinned(checkpoint: Checkpoint) -> str:
    """The name that means this very checkpoint later: a Hub id with its commit."""
    if not checkpoint.revision:
        return checkpoint.name
    return f"{checkpoint.name.split('@')[0]}@{checkpoint.revision}"


def fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies a checkpoint: name, revision and a hash per file (of size and time for files over 256 MiB).

    The demo's checkpoints are known by their weights alone: the stored runs that came with the studio have such
    recipes, and the page finds them by the hash. The demo's other files change only with its weights. Where nothing
    stored depends on it, ask `whole_fingerprint`.
    """
    known = _weights_fingerprint(checkpoint)
    return known if checkpoint.name.startswith(DEMO) else known | {"beside": side_hashes(checkpoint)}


def whole_fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fingerprint with what stands beside the weights, for every checkpoint."""
    return _weights_fingerprint(checkpoint) | {"beside": side_hashes(checkpoint)}


def side_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """File name -> SHA-256 of what says how the weights are used: configurations, tokenizer, chat template."""
    paths = [checkpoint.folder / name for name in BESIDE_WEIGHTS]
    return {path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def check_unchanged(settings: Settings, recipe: Any, field: str = "checkpoint") -> None:
    """Refuse to go on with a recipe whose checkpoints are others by now.

    Raises:
        UserError: a checkpoint is gone, or its files have changed since the run was planned.
    """
    if isinstance(recipe, list):
        for one in recipe:
            check_unchanged(settings, one, field)
    elif isinstance(recipe, dict) and recipe.keys() >= {"name", "revision", "kind", "files"}:
        _check_one(settings, recipe, field)
    elif isinstance(recipe, dict):
        for key, one in recipe.items():
            check_unchanged(settings, one, key)


def _check_one(settings: Settings, planned: Mapping[str, Any], field: str) -> None:
    name, revision = str(planned["name"]), str(planned["revision"])
    now = fingerprint(resolve(f"{name.split('@')[0]}@{revision}" if revision else name, settings, field=field))
    # A run that an older version queued says nothing of some of them.
    if any(planned[key] != now[key] for key in ("kind", "files", "beside") if key in planned and key in now):
        problem = f"the files of {name} have changed since this run was planned"
        raise UserError(field, problem=problem, remedy="Start a new run with its settings.")


def _weights_fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    files = {}
    for path in sorted({tensor.file for tensor in checkpoint.tensors.values()}):
        status = path.stat()
        if status.st_size <= HASHED_WHOLE:
            files[path.name] = "sha256:" + file_hash(path)
        else:
            files[path.name] = f"size:{status.st_size} time:{status.st_mtime_ns}"
    return {"name": checkpoint.name, "revision": checkpoint.revision, "kind": checkpoint.kind, "files": files}


def _about(role: str, findings: tuple[Finding, ...]) -> Iterator[Finding]:
    """Findings of a pair whose second model is no fine-tuned one."""
    for finding in findings:
        sentence = finding.sentence.replace("fine-tuned", role)
        yield replace(finding, field=role if finding.field == "tuned" else finding.field, sentence=sentence)
