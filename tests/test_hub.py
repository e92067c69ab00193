"""The Hub path, against a loopback server that answers huggingface_hub's own client as the Hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from backend.checkpoints.resolve import resolve
from backend.errors import UserError
from backend.jobs.datasets import find_data
from backend.tuning.rows import read_chat_file
from tests import tiny

MAIN, OLD = "a" * 40, "b" * 40
ERRORS = {"RepoNotFound": 404, "RevisionNotFound": 404, "GatedRepo": 403, "EntryNotFound": 404}


class FakeHub:
    """Repositories by name, each revision a folder on disk; remembers every path that was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.refs = {"main": MAIN, "v1": OLD, MAIN: MAIN, OLD: OLD}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None: ...

            def do_HEAD(self) -> None:
                hub.answer(self, unquote(self.path.split("?")[0]))

            do_GET = do_HEAD

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self.asked.append(path)
        parts = path.strip("/").removeprefix("datasets/").split("/")
        api = parts[:2] in (["api", "models"], ["api", "datasets"])
        owner_name = "/".join(parts[2:4] if api else parts[:2])
        rest = parts[4:] if api else parts[2:]
        if owner_name in self.gated:
            return self.refuse(request, "GatedRepo")
        if owner_name not in self.repositories:
            return self.refuse(request, "RepoNotFound")
        commit = self.refs.get(rest[1] if len(rest) > 1 else "main", "")
        folder = self.repositories[owner_name].get(commit)
        if folder is None:
            return self.refuse(request, "RevisionNotFound")
        if api and (not rest or rest[0] == "revision"):
            files = [{"rfilename": str(file.relative_to(folder))} for file in self.files(folder)]
            return self.send(request, {"id": owner_name, "modelId": owner_name, "sha": commit, "siblings": files})
        if api and rest[0] == "tree":
            return self.send(request, [self.entry(folder, file) for file in self.files(folder)])
        file = folder / "/".join(rest[2:])
        if not file.is_file():
            return self.refuse(request, "EntryNotFound")
        body = file.read_bytes()
        headers = {"ETag": f'"{self.digest(file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return self.send(request, body, headers=headers)

    def files(self, folder: Path) -> list[Path]:
        return sorted(file for file in folder.rglob("*") if file.is_file())

    def digest(self, file: Path) -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def entry(self, folder: Path, file: Path) -> dict[str, object]:
        size = file.stat().st_size
        table: dict[str, object] = {"type": "file", "path": str(file.relative_to(folder)), "size": size}
        table["oid"] = self.digest(file)[:40]
        if file.suffix in (".safetensors", ".bin"):
            table["lfs"] = {"oid": self.digest(file), "size": size, "pointerSize": 134}
        return table

    def refuse(self, request: BaseHTTPRequestHandler, code: str) -> None:
        self.send(request, {"error": code}, status=ERRORS[code], headers={"X-Error-Code": code})

    def send(
        self, request: BaseHTTPRequestHandler, body: object, *, status: int = 200, headers: dict | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = FakeHub()
    yield server
    server.close()


@pytest.fixture
def find(hub: FakeHub, settings, tmp_path: Path):
    return lambda name: resolve(name, settings, field="aligned", endpoint=hub.endpoint, cache=tmp_path / "cache")


def refusal(find, name: str) -> str:
    with pytest.raises(UserError) as caught:
        find(name)
    return str(caught.value)


def test_a_repository_is_downloaded_at_a_pinned_commit(hub: FakeHub, find, tmp_path: Path) -> None:
    hub.repositories["owner/tiny"] = {MAIN: tiny.folder(tmp_path / "new", shard="20KB")}
    found = find("owner/tiny")
    assert (found.name, found.revision, found.kind) == ("owner/tiny", MAIN, "full")
    assert len({tensor.file for tensor in found.tensors.values()}) > 1
    assert found.folder.is_relative_to(tmp_path / "cache")


def test_what_prepares_images_and_older_tokenizers_are_fetched_too(hub: FakeHub, find, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "new")
    names = {"preprocessor_config.json", "processor_config.json", "tekken.json", "vocab.txt"}
    for name in names:
        (folder / name).write_text("{}")
    hub.repositories["owner/tiny"] = {MAIN: folder}
    assert names <= {file.name for file in find("owner/tiny").folder.iterdir()}


def test_a_revision_picks_other_weights(hub: FakeHub, find, tmp_path: Path) -> None:
    new, old = tiny.folder(tmp_path / "new"), tiny.folder(tmp_path / "old", layers=1)
    hub.repositories["owner/tiny"] = {MAIN: new, OLD: old}
    assert find("owner/tiny@v1").revision == find(f"owner/tiny@{OLD}").revision == OLD
    assert find("owner/tiny@v1").parameters < find("owner/tiny").parameters


def test_what_is_in_the_cache_needs_no_network(hub: FakeHub, find, tmp_path: Path, monkeypatch) -> None:
    hub.repositories["owner/tiny"] = {MAIN: tiny.folder(tmp_path / "new")}
    first = find("owner/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert find(f"owner/tiny@{MAIN}").tensors == first.tensors
    assert find("owner/tiny").revision == MAIN
    assert hub.asked == []
    assert "owner/other is not in the cache and HF_HUB_OFFLINE is set. Unset it" in refusal(find, "owner/other")


def test_code_and_pickles_are_never_fetched(hub: FakeHub, find, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "new")
    (folder / "custom_generate").mkdir()
    for name in ("custom_generate/generate.py", "modeling_tiny.py", "training_args.bin", "original/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit")
    hub.repositories["owner/tiny"] = {MAIN: folder}
    found = find("owner/tiny")
    kept = {str(file.relative_to(found.folder)) for file in found.folder.rglob("*") if file.is_file()}
    assert "model.safetensors" in kept
    assert not [name for name in kept if "/" in name or name.endswith((".py", ".bin"))]
    assert not [path for path in hub.asked if "resolve" in path and path.endswith((".py", ".bin"))]


def test_a_repository_with_a_pickle_only_is_refused_before_a_byte_is_fetched(
    hub: FakeHub, find, tmp_path: Path
) -> None:
    folder = tiny.folder(tmp_path / "new")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.repositories["owner/pickle"] = {MAIN: folder}
    assert refusal(find, "owner/pickle") == (
        "aligned: owner/pickle holds pytorch_model.bin, a pickle, which can run code when opened; allowed is "
        "*.safetensors. Convert it to safetensors with save_pretrained of transformers, where you trust it."
    )
    assert not [path for path in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "owner/missing",
            "aligned: the Hub has no repository owner/missing. Check the spelling; for a private one set",
        ),
        ("owner/gated", "aligned: owner/gated is gated. Accept its terms on http://"),
        ("owner/tiny@nothing", "aligned: owner/tiny has no revision 'nothing'. Give a branch, tag or commit"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(
    hub: FakeHub, find, tmp_path: Path, name: str, sentence: str
) -> None:
    hub.repositories["owner/tiny"] = {MAIN: tmp_path}
    hub.gated.add("owner/gated")
    assert refusal(find, name).startswith(sentence)


def test_a_hub_that_cannot_be_reached_is_one_sentence(hub: FakeHub, settings, tmp_path: Path) -> None:
    hub.close()
    with pytest.raises(
        UserError, match=r"owner/x is not in the cache and http://127.0.0.1:\d+ cannot be reached\. Check"
    ):
        resolve("owner/x", settings, endpoint=hub.endpoint, cache=tmp_path)
    hub.close = lambda: None  # type: ignore[method-assign]


def test_a_cache_with_the_config_only_is_completed(hub: FakeHub, find, tmp_path: Path) -> None:
    hub.repositories["owner/tiny"] = {MAIN: tiny.folder(tmp_path / "new")}
    partial = tmp_path / "cache/models--owner--tiny/snapshots" / MAIN
    partial.mkdir(parents=True)
    (partial / "config.json").write_text((tmp_path / "new/config.json").read_text())
    assert find("owner/tiny").parameters > 0


# ------------------------------------------------------------------------------------ data sets


@pytest.fixture
def data(hub: FakeHub, settings, tmp_path: Path):
    """Looks data up on the fake Hub, where owner/sums is a set with two configs as Parquet."""
    for config in ("main", "extra"):
        folder = tmp_path / "sums" / config
        folder.mkdir(parents=True)
        rows = [{"question": f"{i} and {i} {config}?", "answer": f"#### {2 * i}"} for i in range(12)]
        for split in ("train", "test"):
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    (tmp_path / "sums" / "README.md").write_text("Sums.")
    hub.repositories["owner/sums"] = {MAIN: tmp_path / "sums"}
    return lambda name: find_data(settings, name, "task_data", endpoint=hub.endpoint, cache=tmp_path / "cache")


def test_a_parquet_file_of_a_config_is_found_by_its_path_at_a_pinned_commit(hub: FakeHub, data, monkeypatch) -> None:
    found = data("owner/sums@main:main/train-00000-of-00001.parquet")
    assert found.name == f"owner/sums@{MAIN}:main/train-00000-of-00001.parquet"
    rows, skipped = read_chat_file(found.path, field="task_data")
    assert (len(rows), skipped, rows[3].text) == (12, [], {"text": "3 and 3 main?", "answer": "#### 6"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert (data(found.name), hub.asked) == (found, [])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "owner/sums",
            "owner/sums has no single file to train on: extra/train-00000-of-00001.parquet, "
            "main/train-00000-of-00001.parquet. Name one: owner/sums@revision:file.",
        ),
        ("owner/sums:README.md", "README.md of owner/sums is of no kind that is read; allowed is a .jsonl, .csv,"),
        ("owner/sums@v9:main/gone.jsonl", "owner/sums@v9 cannot be read from the Hub"),
        ("owner/none", "owner/none cannot be read from the Hub"),
    ],
)
def test_data_that_the_hub_cannot_give_is_one_sentence(data, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match="task_data: ") as caught:
        data(name)
    assert sentence in str(caught.value)


def test_a_mix_of_hub_parts_is_built_from_commits_and_found_without_the_hub(hub: FakeHub, data, tmp_path: Path) -> None:
    parts = [{"data": f"owner/sums:{one}/train-00000-of-00001.parquet", "share": 0.5} for one in ("main", "extra")]
    mix = tmp_path / "half.mix.json"
    mix.write_text(json.dumps({"rows": 10, "parts": parts}))
    found = data(str(mix))
    assert [part["name"].split(":")[0] for part in found.to_json()["mix"]["parts"]] == [f"owner/sums@{MAIN}"] * 2
    rows, _ = read_chat_file(found.path, field="task_data")
    assert sum("main" in row.text["text"] for row in rows) == 5
    hub.asked.clear()
    assert (data(found.name), hub.asked) == (found, [])
