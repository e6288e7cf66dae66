"""A small Hugging Face Hub on this machine: it takes one upload at a time and serves what it has."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """A server with the endpoints that creating, uploading, asking and downloading use.

    Attributes:
        files: Repository -> path -> contents; names of dataset repositories begin with "datasets/".
        created: Bodies of the requests that created repositories.
        messages: Messages of the commits.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.messages: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[LocalHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            request = json.loads(body)
            self.hub.created.append(request)
            name = f"{request['organization']}/{request['name']}" if request.get("organization") else request["name"]
            name = f"datasets/{name}" if request.get("type") == "dataset" else name
            self.hub.files.setdefault(name, {})
            self._json({"url": f"{self.hub.address}/{name}", "id": name, "name": name.removeprefix("datasets/")})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": file["path"], **mode} for file in files]})
        elif "/commit/" in path:
            name = _repository(path).partition("/commit/")[0]
            for line in filter(None, body.split(b"\n")):
                entry = json.loads(line)
                if entry["key"] == "header":
                    self.hub.messages.append(entry["value"]["summary"])
                elif entry["key"] == "file":
                    self.hub.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._json(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}"}
            )
        else:
            self._error(404, "EntryNotFound")

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/api/models/", "/api/datasets/")):
            name = _repository(path).partition("/revision/")[0].partition("/tree/")[0]
            if name not in self.hub.files:
                self._error(404, "RepoNotFound")
            elif "/tree/" in path:
                files = self.hub.files[name].items()
                self._json([{"type": "file", "path": file, "size": len(data), "oid": COMMIT} for file, data in files])
            else:
                siblings = [{"rfilename": file} for file in self.hub.files[name]]
                self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            return
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        data = self.hub.files.get(name, {}).get(rest.partition("/")[2])
        if name not in self.hub.files:
            self._error(404, "RepoNotFound")
        elif data is None:
            self._error(404, "EntryNotFound")
        else:
            etag = hashlib.sha256(data).hexdigest()
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _repository(path: str) -> str:
    return path.removeprefix("/api/").removeprefix("models/")
