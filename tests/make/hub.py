"""A tiny model hub on the loopback address: what huggingface_hub asks of one, and a count of what it gave."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """What the server gives, and what it gave.

    Attributes:
        models: folder of each model's one commit by name.
        sent: bytes of its files given so far, by name and file.
        short: how many bytes less than it says the server gives of a file, by file name.
        cut: how often the connection still breaks in the middle of a file, by file name.
        url: where it listens.
    """

    models: dict[str, Path] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    short: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def commit(self, name: str) -> str:
        """Returns the commit of a model: another one when its files are others."""
        digest = hashlib.sha1()
        for file in self.files(name):
            digest.update(file.encode() + (self.models[name] / file).read_bytes())
        return digest.hexdigest()

    def files(self, name: str) -> list[str]:
        """Returns the paths of a model's files."""
        root = self.models[name]
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def given(self, suffix: str = "") -> int:
        """Returns how many bytes were given of the files whose names end so."""
        return sum(size for name, size in self.sent.items() if name.endswith(suffix))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked = _API.fullmatch(path)
        if asked:
            self._describe(asked[1], asked[2], asked[3])
            return
        file = _FILE.fullmatch(path)
        if file:
            self._give(file[1], file[2], file[3])
        else:
            self._refuse("EntryNotFound")

    def _found(self, name: str, revision: str | None) -> bool:
        if name not in self.hub.models:
            self._refuse("RepoNotFound")
        elif revision not in (None, "main", self.hub.commit(name)):
            self._refuse("RevisionNotFound")
        else:
            return True
        return False

    def _describe(self, name: str, what: str | None, revision: str | None) -> None:
        if not self._found(name, revision):
            return
        files = [(file, *self._blob(name, file)) for file in self.hub.files(name)]
        if what == "tree":
            answer: Any = [{"type": "file", "path": file, "size": size, "oid": tag} for file, size, tag in files]
        else:
            siblings = [{"rfilename": file, "size": size, "blobId": tag} for file, size, tag in files]
            answer = {"id": name, "sha": self.hub.commit(name), "siblings": siblings}
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _blob(self, name: str, file: str) -> tuple[int, str]:
        data = (self.hub.models[name] / file).read_bytes()
        return len(data), hashlib.sha1(data).hexdigest()

    def _give(self, name: str, revision: str, file: str) -> None:
        if not self._found(name, revision):
            return
        if file not in self.hub.files(name):
            self._refuse("EntryNotFound")
            return
        size, tag = self._blob(name, file)
        data = (self.hub.models[name] / file).read_bytes()
        headers = {"X-Repo-Commit": self.hub.commit(name), "ETag": f'"{tag}"', "X-Linked-Size": str(size)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            data = data[first : last + 1]
        data = data[: max(0, len(data) - self.hub.short.get(file, 0))]
        breaks = self.command == "GET" and self.hub.cut.get(file, 0) > 0
        if self.command == "GET":
            self.hub.sent[f"{name}/{file}"] = self.hub.sent.get(f"{name}/{file}", 0) + len(data)
        if breaks:
            self.hub.cut[file] -= 1
        self._answer(206 if wanted else 200, data, headers, len(data) // 2 if breaks else None)

    def _refuse(self, code: str) -> None:
        self._answer(404, b"", {"X-Error-Code": code})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], stop: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:stop])
        self.close_connection = stop is not None


@contextmanager
def serving() -> Iterator[Hub]:
    """Yields a hub that listens on a free port of this machine, and stops it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def online(url: str, cache: Path) -> Iterator[None]:
    """Lets huggingface_hub, in this process, ask that hub and no other, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        try:
            yield
        finally:
            close_session()
