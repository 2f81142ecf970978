"""A stand-in for the hub: enough of its HTTP interface for huggingface_hub to make a repository,
commit files to it and take snapshots of any revision. In memory, on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_test"


class Hub:
    """Repositories: commits by id, each a whole tree."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        tree = {**self.commits[repo].get(self.heads.get(repo, ""), {}), **files}
        parent = self.heads.get(repo, "")
        oid = hashlib.sha1(parent.encode() + b"".join(tree[k] for k in sorted(tree))).hexdigest()
        self.commits[repo][oid], self.heads[repo] = tree, oid
        return oid

    def revision(self, repo: str, name: str) -> str | None:
        oid = self.heads.get(repo) if name == "main" else name
        return oid if oid in self.commits.get(repo, {}) else None


@contextmanager
def serving() -> Iterator[tuple[str, Hub]]:
    """Address and contents of a running stand-in."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def answer(self, code: int, body: Any = b"", **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def allowed(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                return True
            self.answer(401, {"error": "Invalid username or password."})
            return False

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            data = self.body()
            if not self.allowed():
                return
            path = unquote(self.path)
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if path == "/api/repos/create":
                told = json.loads(data)
                repo = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]  # fmt: skip
                url = f"http://{self.headers['Host']}/{repo}"
                if repo in hub.commits:
                    return self.answer(409, {"url": url, "error": "exists"})
                hub.commits[repo] = {}
                hub.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
                return self.answer(200, {"url": url, "name": repo})
            if match := re.fullmatch(r"/api/models/(.+?)/preupload/(.+)", path):
                files = [
                    {"path": item["path"], "shouldIgnore": False, "oid": None}
                    | {"uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular"}
                    for item in json.loads(data)["files"]
                ]
                return self.answer(200, {"files": files})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {"oid": item["oid"], "size": item["size"]}
                    | {"actions": {"upload": {"href": f"http://{self.headers['Host']}/lfs/{item['oid']}"}}}
                    for item in json.loads(data)["objects"]
                ]  # fmt: skip
                return self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")  # fmt: skip
            if match := re.fullmatch(r"/api/models/(.+?)/commit/(.+)", path):
                files: dict[str, bytes] = {}
                for line in data.splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                    elif item["key"] == "lfsFile":
                        files[item["value"]["path"]] = hub.blobs[item["value"]["oid"]]
                oid = hub.commit(match[1], files)
                url = f"http://{self.headers['Host']}/{match[1]}/commit/{oid}"
                return self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})  # fmt: skip
            return self.answer(404, {"error": path})

        def do_PUT(self) -> None:
            hub.requests.append(f"PUT {self.path}")
            data = self.body()
            oid = self.path.rpartition("/")[2]
            if hashlib.sha256(data).hexdigest() != oid:
                return self.answer(400)
            hub.blobs[oid] = data
            return self.answer(200)

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path = unquote(self.path.partition("?")[0])
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                oid = hub.revision(match[1], match[2] or "main")
                if oid is None:
                    missing = "RevisionNotFound" if match[1] in hub.commits else "RepoNotFound"
                    return self.answer(404, {"error": "not found"}, X_Error_Code=missing)
                files = [{"rfilename": name} for name in sorted(hub.commits[match[1]][oid])]
                told = {"id": match[1], "modelId": match[1], "sha": oid, "siblings": files}
                return self.answer(200, told | {"tags": [], "downloads": 0, "private": False})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                oid = hub.revision(match[1], match[2])
                if oid is None:
                    return self.answer(404, {"error": "not found"}, X_Error_Code="RevisionNotFound")
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in sorted(hub.commits[match[1]][oid].items())
                ]  # fmt: skip
                return self.answer(200, entries)
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                oid = hub.revision(match[1], match[2])
                data = hub.commits[match[1]][oid].get(match[3]) if oid else None
                if oid is None or data is None:
                    return self.answer(404, {"error": "not found"}, X_Error_Code="EntryNotFound")
                tag = hashlib.sha1(data).hexdigest()
                return self.answer(200, data, ETag=f'"{tag}"', X_Repo_Commit=oid, Accept_Ranges="bytes")  # fmt: skip
            return self.answer(404, {"error": path})

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()
