"""ollama through its HTTP API, on this machine.

ollama takes text, so token ids are decoded with the tokenizer of the bundle, and it may tokenize
them differently. It ends an answer at a stop token; the decode figure counts the tokens received.
"""

import json
import os
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.compare.process import Setup
from edged.bundle.folder import open_bundle
from edged.commands.bench.turns import OnToken
from edged.engine.tokenizer import Tokenizer

_TIMEOUT_S = 600.0


class OllamaEngine:
    """One model of a running ``ollama serve``, kept loaded.

    Raises:
        OSError: Nothing answers at ``OLLAMA_HOST``.
        ValueError: ollama refuses the model.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._tokenizer = Tokenizer.load(open_bundle(Path(setup.bundle), verify=False))
        self._address = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").split("//")[-1]
        for _ in self._ask({"model": setup.source, **self._options(1)}):
            pass  # an empty prompt loads the model

    def versions(self) -> dict[str, str]:
        """Return the server's version."""
        (answer,) = self._lines("GET", "/api/version", None)
        return {"ollama": str(answer["version"])}

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with up to ``count`` greedy tokens; their ids are not reported; blocks."""
        detokenizer = self._tokenizer.detokenizer()
        text = "".join(map(detokenizer.push, prompt)) + detokenizer.flush()
        question = {"model": self._setup.source, "prompt": text, "raw": True}
        for answer in self._ask({**question, **self._options(count)}):
            if not answer.get("done"):
                on_token(0)

    def decode_batch(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:  # noqa: ARG002 - the protocol's
        """Not measured: the batch size is a setting of the server."""
        return None

    def process_ids(self) -> list[int]:
        """Return the server and its runners, as far as they are visible."""
        comms = {path.parent: _text(path).strip() for path in Path("/proc").glob("[0-9]*/comm")}
        return sorted(int(folder.name) for folder, comm in comms.items() if comm == "ollama")

    def _options(self, count: int) -> dict[str, Any]:
        return {
            "keep_alive": "1h",
            "options": {
                "num_predict": count,
                "num_ctx": self._setup.max_model_len,
                "num_thread": self._setup.num_threads,
                "temperature": 0,
            },
        }

    def _ask(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        return self._lines("POST", "/api/generate", question)

    def _lines(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[dict[str, Any]]:
        connection = HTTPConnection(self._address, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            for line in response:
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise ValueError(f"{self._setup.source}: {answer['error']}")
                yield answer
        finally:
            connection.close()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""
