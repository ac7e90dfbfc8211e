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
def serve(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve files as branch main of a repository; yield its address and the requested paths."""
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
            status, body = _find(self.path.partition("?")[0], files)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status != 200:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if has_body:
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


def _find(path: str, files: dict[str, bytes]) -> tuple[int, bytes]:
    if path == f"/api/models/{REPOSITORY}/revision/main":
        siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
        document = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
        return 200, json.dumps(document).encode()
    name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
    return (200, files[name]) if name in files else (404, b"{}")
