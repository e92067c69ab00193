"""Settings: read once from the environment, then passed down. The only module that looks at `os.environ`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.errors import UserError

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# How idle threads wait, by OpenMP's names: GNU's for microseconds, as long as the next operation takes to come, then
# asleep; other libraries sleep at once.
CALM = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}


@dataclass(frozen=True)
class Settings:
    """Where things lie and how much of the machine a run may use.

    Attributes:
        home: STUDIO_HOME; the database, runs, logs and exports.
        models_root: MODELS_ROOT; bare names are looked up here, default `<home>/models`.
        host, port: HOST, PORT; where the page listens.
        threads: STUDIO_THREADS; torch threads of a run, default the cores this process may use.
        device: STUDIO_DEVICE; auto, cpu or cuda.
        demo: STUDIO_DEMO; the micro-world's folder, default the shipped one.
        save_seconds: STUDIO_SAVE_SECONDS; the least time between two checkpoints of a training.
        login: STUDIO_LOGIN as name:password; who opens the page must give it. Children never see it.
        public: STUDIO_PUBLIC, or a Space; no paths, no Hub ids, no folders to write to.
        database: STUDIO_DATABASE; an SQLAlchemy URL, default SQLite in `home`.
    """

    home: Path
    models_root: Path
    database: str
    host: str = "127.0.0.1"
    port: int = 7860
    threads: int = 1
    device: str = "auto"
    demo: Path = ASSETS / "demo"
    save_seconds: int = 2
    login: tuple[str, str] | None = None
    public: bool = False

    @property
    def hashes(self) -> Path:
        """Where the hashes of large files are kept, so that no process reads them again."""
        return self.home / "hashes.json"

    @property
    def runs(self) -> Path:
        return self.home / "runs"


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings this process was started with.

    >>> settings = from_environment({"STUDIO_HOME": "/tmp/studio", "PORT": "8000"})
    >>> settings.port, settings.database
    (8000, 'sqlite:////tmp/studio/studio.sqlite')
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("STUDIO_HOME") or Path.home() / ".dualselect-studio").expanduser().absolute()
    device = env.get("STUDIO_DEVICE", "auto")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError("STUDIO_DEVICE", got=device, allowed="auto, cpu or cuda")
    return Settings(
        home=home,
        models_root=Path(env.get("MODELS_ROOT") or home / "models").expanduser().absolute(),
        database=env.get("STUDIO_DATABASE") or f"sqlite:///{home / 'studio.sqlite'}",
        host=env.get("HOST") or "127.0.0.1",
        port=_whole(env, "PORT", 7860, 0, 65535),
        threads=_whole(env, "STUDIO_THREADS", available_cores(), 1, 1024),
        device=device,
        login=_login(env.get("STUDIO_LOGIN") or ""),
        public=bool(env.get("SPACE_ID")) or env.get("STUDIO_PUBLIC", "0") not in ("", "0"),
        save_seconds=_whole(env, "STUDIO_SAVE_SECONDS", 2, 0, 86_400),
        demo=Path(env.get("STUDIO_DEMO") or ASSETS / "demo").absolute(),
    )


def available_cores() -> int:
    """Cores this process may use, by its affinity where the system tells it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def expected_threads() -> int:
    """The threads that torch will compute with when this process loads it."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else available_cores()


def calm_threads() -> None:
    """Let this process's idle threads soon sleep instead of spin; call it before torch is imported.

    Spinning threads of two processes on the same cores slow each other badly; see ARCHITECTURE.md.
    """
    for name, value in CALM.items():
        os.environ.setdefault(name, value)


def child_environment(settings: Settings) -> dict[str, str]:
    """A child's environment, built from scratch: no tokens, no proxies, threads as set."""
    keep = ("PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")
    caches = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "XDG_CACHE_HOME")
    threads = str(settings.threads)
    return {name: os.environ[name] for name in (*keep, *caches) if name in os.environ} | {
        "STUDIO_HOME": str(settings.home),
        "MODELS_ROOT": str(settings.models_root),
        "STUDIO_DATABASE": settings.database,
        "STUDIO_THREADS": threads,
        "STUDIO_DEVICE": settings.device,
        "STUDIO_DEMO": str(settings.demo),
        "STUDIO_SAVE_SECONDS": str(settings.save_seconds),
        "STUDIO_PUBLIC": str(int(settings.public)),
        "OMP_NUM_THREADS": threads,
        "MKL_DYNAMIC": "FALSE",  # else torch takes as many as there are cores where more are set
        **CALM,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def refuse_in_public(settings: Settings, field: str, got: object) -> None:
    """What only the machine's own user may name: paths, Hub ids, folders to write to."""
    if settings.public:
        allowed = "on a public page what came with the studio, and what was made on it"
        raise UserError(
            field, got=str(got)[:200], allowed=allowed, remedy="Run the studio yourself for your own files."
        )


def refuse_open_door(settings: Settings) -> None:
    """An address that others can reach needs a login, or the limits of a public page.

    >>> refuse_open_door(from_environment({"HOST": "0.0.0.0", "STUDIO_LOGIN": "me:secret"}))
    >>> refuse_open_door(from_environment({"HOST": "0.0.0.0"}))
    Traceback (most recent call last):
    backend.errors.UserError: HOST: 0.0.0.0 lets others on the network read folders and start runs. Set \
STUDIO_LOGIN=name:password, or STUDIO_PUBLIC=1 for a page with the demo only.
    """
    loopback = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    if not (loopback or settings.login or settings.public):
        remedy = "Set STUDIO_LOGIN=name:password, or STUDIO_PUBLIC=1 for a page with the demo only."
        problem = f"{settings.host} lets others on the network read folders and start runs"
        raise UserError("HOST", problem=problem, remedy=remedy)


def _login(text: str) -> tuple[str, str] | None:
    name, colon, password = text.partition(":")
    if text and not (name and colon and password):
        raise UserError("STUDIO_LOGIN", problem="it is not name:password", remedy="For example STUDIO_LOGIN=me:secret.")
    return (name, password) if text else None


def _whole(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or not low <= int(text) <= high:
        raise UserError(name, got=text, allowed=f"a whole number from {low} to {high}", remedy=f"Unset: {default}.")
    return int(text)
