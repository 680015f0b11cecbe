"""A hub on this machine: the few addresses of a Hugging Face hub that pushing and pulling ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Repository:
    """States by commit, the newest last."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return list(self.commits.items())[-1]
        return (revision, self.commits[revision]) if revision in self.commits else None


class Hub(ThreadingHTTPServer):
    """Repositories by kind and name; ``refuse`` is a status with which writes are answered, after ``cut`` bytes of a
    file the client is interrupted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.refuse = 0
        self.cut = 0
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        told = re.fullmatch(
            r"/api/(?:models|datasets)/([\w.-]+/[\w.-]+)/revision/\w+\?expand=xetEnabled", self.path
        )
        if told:  # older clients ask how files are stored
            return self._json({"id": told[1], "xetEnabled": False})
        listed = re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/tree/(\w+)\?.*", self.path)
        if listed is None:
            return self._file(body=True)
        state = self.server.repositories[f"{listed[1]}/{listed[2]}"].at(listed[3])
        assert state is not None
        entries = [{"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in state[1].items()]
        return self._json(entries)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self._json({})
        if self.server.refuse:
            return self._json({"error": "no"}, self.server.refuse)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, Repository())
            page = f"http://127.0.0.1:{self.server.server_port}/{name.removeprefix('models/')}"
            return self._json({"url": page})
        _, _, kind, user, name, action, _ = path.split("/")
        if action == "preupload":
            files = json.loads(body)["files"]
            answer = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._json({"files": answer})
        return self._commit(f"{kind}/{user}/{name}", [json.loads(line) for line in body.splitlines()])

    def _commit(self, place: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[place]
        commit, files = list(repository.commits.items())[-1]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, commit):
            return self._json({"error": "conflict"}, 412)
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        oid = f"{len(repository.commits):040x}"
        repository.commits[oid] = {**files, **added}
        page = f"http://127.0.0.1:{self.server.server_port}/{place.removeprefix('models/')}"
        return self._json({"commitUrl": f"{page}/commit/{oid}", "commitOid": oid})

    def _file(self, body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        asked = re.fullmatch(r"(/datasets)?/([\w.-]+/[\w.-]+)/resolve/(\w+)/([\w.+-]+)", self.path)
        if asked is None:  # the client asks for more than is needed here
            return self._json({}, 404)
        repository = self.server.repositories.get(f"{'datasets' if asked[1] else 'models'}/{asked[2]}")
        if repository is None:
            return self._json({}, 404, "RepoNotFound")
        state = repository.at(asked[3])
        if state is None:
            return self._json({}, 404, "RevisionNotFound")
        data = state[1].get(asked[4])
        if data is None:
            return self._json({}, 404, "EntryNotFound")
        begin = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") :].split("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", state[0])
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            rest = data[begin:]
            if self.server.cut and len(rest) > self.server.cut:
                self.wfile.write(rest[: self.server.cut])
                self.wfile.flush()
                self.close_connection = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as Ctrl-C does
                return None
            self.wfile.write(rest)
        return None

    def _json(self, value: Any, status: int = 200, error: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub while the block runs."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
