"""A Hub of one data set on loopback, enough for its real clients to resolve, list and read it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "team/rows"


@dataclass
class Hub:
    """The commits of the data set and what was asked of it."""

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    main: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def push(self, files: Mapping[str, bytes]) -> str:
        """Make the files the head of `main`; return their commit."""
        self.main = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[self.main] = files
        return self.main


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve the Hub until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, hub)

        do_HEAD = do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield hub
        finally:
            http.shutdown()


def _answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = unquote(urlsplit(request.path).path)
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    hub.asked.append(f"{request.command} {path}")
    api = re.fullmatch(rf"/api/datasets/{NAME}(?:/(\w[\w-]*)/([^/]+)(?:/(.*))?)?", path)
    file = re.fullmatch(rf"/datasets/{NAME}/resolve/([^/]+)/(.+)", path)
    revision = (api and api[2]) or (file and file[1]) or "main"
    commit = hub.main if revision == "main" else revision
    files = hub.commits.get(commit)
    if files is None or not (api or file) or (file and file[2] not in files):
        code = "RevisionNotFound" if files is None and (api or file) else "RepoNotFound"
        _send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound" if files and file else code})
    elif file:
        _send_file(request, files[file[2]], commit)
    else:
        kind, below = (api[1] or "revision", api[3] or "") if api else ("", "")
        if kind == "revision":
            value: object = {
                "id": NAME, "sha": commit, "private": False, "gated": False, "disabled": False,
                "downloads": 0, "likes": 0, "tags": [],
                "siblings": [{"rfilename": name} for name in files],
            }  # fmt: skip
        elif kind == "tree":
            value = _entries({n: d for n, d in files.items() if n.startswith(below)})
        else:
            text = body.decode()
            asked = json.loads(text)["paths"] if text[:1] == "{" else parse_qs(text)["paths"]
            value = _entries({n: d for n, d in files.items() if n in asked})
        _send(request, 200, json.dumps(value).encode(), {"X-Repo-Commit": commit})


def _entries(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    folders = sorted({name.rpartition("/")[0] for name in files} - {""})
    return [
        *({"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders),
        *(
            {"type": "file", "path": name, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
            for name, d in files.items()
        ),
    ]


def _send_file(request: BaseHTTPRequestHandler, data: bytes, commit: str) -> None:
    known = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    if wanted is None:
        _send(request, 200, data, {**known, "Accept-Ranges": "bytes"})
        return
    first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
    part = data[first : last + 1]
    known["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
    _send(request, 206, part, known)


def _send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]
) -> None:
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
