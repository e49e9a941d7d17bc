"""Servers of checkpoints that count what they are asked: of plain files, and what `huggingface_hub` asks of a hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Files:
    """Paths and what lies there. `hold`: a request for weights waits in the middle of them. `cut`: their end never comes."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content = dict(content)
        self.requests: list[str] = []  # METHOD PATH, in order
        self.url = ""
        self.cut = False
        self.half_sent, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def headers(self, path: str, body: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def answer(self, path: str) -> bytes | None:
        return self.content.get(path)

    def gets(self, path: str) -> int:
        """How often a path was asked for with GET."""
        return self.requests.count(f"GET {path}")

    def hold(self) -> None:
        self.go_on.clear()


class Hub(Files):
    """Repository ORG/NAME with the commits given, each of some files; `main` may be moved."""

    def __init__(self, repo: str, commits: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__({})
        self.repo, self.commits, self.main = repo, commits, next(iter(commits))

    def answer(self, path: str) -> bytes | None:
        if path.startswith(f"/api/models/{self.repo}"):
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            return self._facts(self.main if revision == "main" else revision)
        _, _, rest = path.partition(f"/{self.repo}/resolve/")
        commit, _, file = rest.partition("/")
        return self.commits.get(self.main if commit == "main" else commit, {}).get(file)

    def headers(self, path: str, body: bytes) -> dict[str, str]:
        if "/resolve/" not in path:
            return {"Content-Type": "application/json"}
        commit = path.partition("/resolve/")[2].partition("/")[0]
        sha256 = hashlib.sha256(body).hexdigest()
        return {"X-Repo-Commit": self.main if commit == "main" else commit, "ETag": f'"{sha256}"'}

    def _facts(self, commit: str) -> bytes | None:
        if commit not in self.commits:
            return None
        siblings: list[dict[str, Any]] = [
            {"rfilename": name, "size": len(body), "blobId": "0" * 40} for name, body in self.commits[commit].items()
        ]
        for sibling in siblings:
            body = self.commits[commit][sibling["rfilename"]]
            if sibling["rfilename"].endswith(".safetensors"):
                sibling["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return json.dumps({"id": self.repo, "modelId": self.repo, "sha": commit, "siblings": siblings}).encode()


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Serve on loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._reply(body=False)

        def do_GET(self) -> None:
            self._reply(body=True)

        def _reply(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            files.requests.append(f"{self.command} {path}")
            content = files.answer(path)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            for name, value in {} if content is None else files.headers(path, content).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content:
                self._send(content, weights=len(content) > 100_000)

        def _send(self, content: bytes, weights: bool) -> None:
            middle = len(content) // 2 if weights else len(content)
            self.wfile.write(content[:middle])
            if not weights or files.cut:
                self.close_connection = True
                return
            files.half_sent.set()
            files.go_on.wait(60)
            try:
                self.wfile.write(content[middle:])
            except OSError:  # the client was killed
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        files.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield files
        files.go_on.set()
        server.shutdown()
        thread.join()
