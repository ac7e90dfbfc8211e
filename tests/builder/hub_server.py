"""A Hugging Face hub on loopback, with enough of its API for the real client to download."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "org/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(
    files: dict[str, bytes], *, sent: dict[str, bytes] | None = None, cut: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve files as branch main of a repository; yield its address and the requested paths.

    Args:
        files: By name, as they are announced.
        sent: By name, what is sent instead.
        cut: The name of a file in which the connection breaks.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, has_body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            status, body = _find(self.path.partition("?")[0], files, sent or {})
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status != 200:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if has_body and cut is not None and self.path.endswith(cut):
                self.wfile.write(body[:-1])
                self.close_connection = True
            elif has_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _find(path: str, files: dict[str, bytes], sent: dict[str, bytes]) -> tuple[int, bytes]:
    if path == f"/api/models/{REPOSITORY}/revision/main":
        siblings = [_sibling(name, body) for name, body in files.items()]
        document = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
        return 200, json.dumps(document).encode()
    name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
    return (200, sent.get(name, files[name])) if name in files else (404, b"{}")


def _sibling(name: str, body: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": name, "size": len(body)}
    if name.endswith(".safetensors"):
        sha256 = hashlib.sha256(body).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 1}
    return sibling
