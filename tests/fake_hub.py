"""A Hub on loopback that keeps what is pushed to it, and fails where it is told to."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """What a Hub of one user holds.

    Attributes:
        endpoint: Its address.
        private: Repository -> whether it is private.
        files: Repository and branch -> name -> content.
        refused: Part of a path -> the status that answers it, or "drop" for a connection that is cut.
        calls: Method and path of every request.
        sent: Hashes of the large files whose content has arrived, in order.
        blobs: Hash -> that content.
        cards: Repository -> the metadata of its card.
    """

    endpoint: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    refused: dict[str, int | str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    cards: dict[str, dict[str, str]] = field(default_factory=dict)

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, object]:
        """Status and JSON."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if path.endswith("whoami-v2"):
            return 401, {}
        if parts[0] == "blobs":  # a signed address, as of S3
            self.blobs[parts[1]] = body
            self.sent.append(parts[1])
            return 200, {}
        if token != "Bearer hf_good":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "me":
                return 403, {"error": "You don't have the rights to create a model under the namespace"}
            if repo in self.private:
                return 409, {"error": "You already created this model repo", "url": f"{self.endpoint}/{repo}"}
            self.private[repo], self.files[repo, "main"] = asked.get("visibility") == "private", {}
            return 200, {"url": f"{self.endpoint}/{repo}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._to_send(one) for one in json.loads(body)["objects"]]}
        repo, rest = "/".join(parts[2:4]), parts[4:]
        return self._of_repo(repo, rest, body)

    def _to_send(self, one: dict[str, object]) -> dict[str, object]:
        there = one["oid"] in self.blobs
        return one if there else {**one, "actions": {"upload": {"href": f"{self.endpoint}/blobs/{one['oid']}"}}}

    def _of_repo(self, repo: str, rest: list[str], body: bytes) -> tuple[int, object]:
        branch = rest[1] if len(rest) > 1 else "main"
        if rest[:1] == ["branch"]:
            self.files.setdefault((repo, branch), dict(self.files[repo, "main"]))
            return 200, {}
        if (repo, branch) not in self.files:
            return 404, {"error": "not found"}
        there = self.files[repo, branch]
        if rest[:1] == ["tree"]:
            return 200, [{"type": "file", "path": name, "size": len(v), "oid": "0" * 40} for name, v in there.items()]
        if rest[:1] == ["preupload"]:
            large = [one["path"].endswith(".safetensors") for one in json.loads(body)["files"]]
            modes = ["lfs" if one else "regular" for one in large]
            names = [one["path"] for one in json.loads(body)["files"]]
            return 200, {
                "files": [
                    {"path": name, "uploadMode": mode, "shouldIgnore": False}
                    for name, mode in zip(names, modes, strict=True)
                ]
            }
        if rest[:1] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    there[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    there[value["path"]] = self.blobs[value["oid"]]
                elif line["key"] == "deletedFile":
                    del there[value["path"]]
            return 200, {"commitUrl": f"{self.endpoint}/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40}
        card = {"cardData": self.cards[repo]} if repo in self.cards else {}
        siblings = [{"rfilename": name} for name in there]
        return 200, {
            "id": repo,
            "sha": "a" * 40,
            "private": self.private[repo],
            "siblings": siblings,
            "tags": [],
            **card,
        }


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """One that answers while the block runs."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            hub.calls.append(f"{self.command} {path}")
            fault = next((fault for part, fault in hub.refused.items() if part in path), None)
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            status, told = (
                (fault, {"error": "told to"})
                if isinstance(fault, int)
                else hub.answer(path, body, self.headers.get("authorization", ""))
            )
            answer = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _handle  # noqa: N815 (the library's names)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
