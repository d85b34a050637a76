"""A Hugging Face Hub on this machine, a filled Hub cache, and interpreters that know neither the
package nor a network.
"""

import base64
import json
import os
import subprocess
import sys
import threading
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


COMMIT = "0123456789abcdef0123456789abcdef01234567"

# `None` in `sys.modules` makes the import fail, whatever is installed.
WITHOUT_PACKAGE = """
import sys
sys.modules["nullface_pipeline"] = None
"""


def run_clean(code: str, home: Path, **environment: str) -> str:
    """Run code in a new interpreter, in and with `home` as home folder, without
    `nullface_pipeline`.
    """
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_PACKAGE + code],
        cwd=home,
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def fill_cache(home: Path, kind: str, repository: str, folder: Path, commit: str = COMMIT) -> None:
    """Lay a repository out as the Hub's client would after it had downloaded it; `kind` is "models"
    or "datasets".
    """
    cached = home / "hf" / "hub" / f"{kind}--{repository.replace('/', '--')}"
    for part in ("refs", "snapshots"):
        (cached / part).mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots" / commit).symlink_to(folder, target_is_directory=True)


class LocalHub(ThreadingHTTPServer):
    """As much of the Hub's HTTP interface as it takes to download model repositories, and to upload
    one.

    Args:
        repositories: folders by name, "org/name". Uploaded files are put in `uploads`, by path;
            `ranges` are the parts of files that were asked for, `created` owner, name, type and SDK
            of new repositories.
    """

    def __init__(self, repositories: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories = repositories
        self.uploads: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.ranges: list[str] = []
        self.created: list[tuple[str | None, ...]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        super().__exit__(*error)


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, folder in self.server.repositories.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                self.send_json([entry(folder, file) for file in files_of(folder)])
                return
            if path == f"/api/models/{name}" or path.startswith(f"/api/models/{name}/revision/"):
                siblings = [{"rfilename": file} for file in files_of(folder)]
                self.send_json({"id": name, "sha": COMMIT, "siblings": siblings})
                return
            if path.startswith(f"/{name}/resolve/"):
                file = path.split("/", 5)[5]
                if file in files_of(folder):
                    self.send_file(folder, file)
                    return
        self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self.read_chunks()
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            repository = json.loads(body)
            self.server.created.append(tuple(map(repository.get, ("organization", "name", "type", "sdk"))))
            self.send_json({"url": f"{self.server.url}/{repository['organization']}/{repository['name']}"})
        elif self.path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.send_json({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.uploads[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.send_json({"commitUrl": f"{self.server.url}/org/name/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.send(404, b"")

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send_json(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send_file(self, folder: Path, file: str) -> None:
        content = (folder / file).read_bytes()
        etag = {"ETag": f'"{entry(folder, file)["oid"]}"'}
        if "Range" not in self.headers:
            self.send(200, content, etag)
            return
        self.server.ranges.append(self.headers["Range"])
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send(206, content[start:], {**etag, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fixed = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{sha1(content).hexdigest()}"',
            "Content-Length": str(len(content)),
        }
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def entry(folder: Path, file: str) -> dict[str, object]:
    """What the Hub knows of a file: git's hash of it, and of weights, which are Git LFS files,
    their own.
    """
    content = (folder / file).read_bytes()
    known = {"type": "file", "path": file, "size": len(content)}
    known["oid"] = sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if file.endswith((".bin", ".safetensors")):
        known["lfs"] = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return known
