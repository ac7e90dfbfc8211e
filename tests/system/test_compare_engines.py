"""The adapters of other engines, with fakes of their libraries and a real HTTP server."""

import json
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.compare.engines import ENGINES
from benchmarks.compare.process import Setup, load_adapter
from edged.commands.bench.turns import Engine
from tests.system.compare_engines import fake_llama_cpp, fake_openvino, setup
from tests.tiny_model import write_tiny_bundle


def load(monkeypatch: pytest.MonkeyPatch, name: str, wanted: Setup, **stand_ins: object) -> Engine:
    """Load an adapter whose libraries are stand-ins."""
    for library, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, library, stand_in)
    module = ENGINES[name].adapter.partition(":")[0]
    monkeypatch.delitem(sys.modules, module, raising=False)
    import_module(module)
    monkeypatch.setattr(sys.modules[module], "version", lambda _: "1.2", raising=False)
    adapter = load_adapter(wanted)
    monkeypatch.delitem(sys.modules, module)
    return adapter


def answer(adapter: Engine, prompt: list[int], count: int) -> list[int]:
    tokens: list[int] = []
    adapter.generate(prompt, count, tokens.append)
    return tokens


def test_llama_cpp_computes_a_cached_prefix_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = fake_llama_cpp()
    engine = load(monkeypatch, "llama.cpp", setup("llama.cpp", "a.gguf"), llama_cpp=library)
    assert engine.versions() == {"llama-cpp-python": "1.2"}
    assert answer(engine, [1, 2, 3], 3) == [4, 5, 6]
    assert [len(run) for run in library.runs] == [3, 1, 1]
    assert answer(engine, [1, 2, 3], 1) == [4]
    assert library.runs[-1] == [(3, 2, 0)], "only the last token, for its logits"
    assert answer(engine, [1, 2, 3, 4, 5, 9], 1) == [10]
    assert [token for token, *_ in library.runs[-1]] == [4, 5, 9]
    assert answer(engine, [7, 2], 1) == [3]
    assert [token for token, *_ in library.runs[-1]] == [7, 2]
    assert len(engine.process_ids()) == 1


def test_llama_cpp_decodes_concurrent_requests_in_one_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = fake_llama_cpp()
    engine = load(monkeypatch, "llama.cpp", setup("llama.cpp", "a.gguf"), llama_cpp=library)
    seconds = engine.decode_batch([[1, 2], [11, 12]], 2)
    assert seconds is not None
    assert seconds >= 0
    assert library.runs[-2:] == [[(3, 2, 0), (13, 2, 1)], [(4, 3, 0), (14, 3, 1)]]


@pytest.mark.parametrize(
    ("source", "words"),
    [("broken.gguf", "cannot load it"), ("other.gguf", "7 tokens, the bundle has 50")],
)
def test_llama_cpp_refuses_a_file_of_another_model(
    monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load(
            *(monkeypatch, "llama.cpp", setup("llama.cpp", source)),
            llama_cpp=fake_llama_cpp(),
        )


def test_llama_cpp_reports_a_failed_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_llama_cpp()
    engine = load(monkeypatch, "llama.cpp", setup("llama.cpp", "a.gguf"), llama_cpp=library)
    monkeypatch.setattr(library, "llama_decode", lambda *_: 1)
    with pytest.raises(ValueError, match="llama_decode failed for 1 tokens"):
        engine.generate([1], 1, lambda _: None)
    monkeypatch.setattr(library, "llama_init_from_model", lambda *_: None)
    with pytest.raises(ValueError, match="no context of 256 tokens"):
        engine.decode_batch([[1]], 1)


def test_openvino_streams_tokens_and_counts_concurrent_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    openvino, genai = fake_openvino()
    engine = load(
        *(monkeypatch, "openvino", setup("openvino", "a.gguf")),
        openvino=openvino,
        openvino_genai=genai,
    )
    assert engine.versions() == {"openvino": "1.2", "openvino-genai": "1.2"}
    assert answer(engine, [1, 2, 3], 4) == [4, 5, 6, 7]
    # Of 4 x 3 tokens after the first, all four had one after a second and 11 were left for 3 s.
    assert engine.decode_batch([[1], [2], [3], [4]], 3) == pytest.approx(3 * 12 / 11)
    assert len(engine.process_ids()) == 1


class Ollama(BaseHTTPRequestHandler):
    """Answers as ollama does, with one word a line."""

    questions: list[dict[str, object]]

    def do_GET(self) -> None:
        self.reply([{"version": "0.9"}])

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.questions.append(question)
        if question["model"] == "unknown":
            self.reply([{"error": "model 'unknown' not found"}])
            return
        count = question["options"]["num_predict"] if question.get("prompt") else 0
        words = [{"response": " word", "done": False} for _ in range(count)]
        self.reply([*words, {"response": "", "done": True}])

    def reply(self, lines: list[dict[str, object]]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Generator[list[dict[str, object]], None, None]:
    """What a running ollama was asked."""
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(Ollama, "questions", asked, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Ollama) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OLLAMA_HOST", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()
        thread.join()


def test_ollama_is_asked_in_text_with_the_same_threads_and_context(
    questions: list[dict[str, object]], tmp_path: Path
) -> None:
    bundle = str(write_tiny_bundle(tmp_path / "tiny"))
    engine = load_adapter(setup("ollama", "smollm2", bundle=bundle))
    assert engine.versions() == {"ollama": "0.9"}
    assert len(answer(engine, [40, 41, 42], 5)) == 5
    question = questions[-1]
    assert (question["model"], question["raw"]) == ("smollm2", True)
    assert question["prompt"]
    options = {"num_predict": 5, "num_ctx": 256, "num_thread": 1, "temperature": 0}
    assert question["options"] == options
    assert engine.decode_batch([[1]], 1) is None
    assert isinstance(engine.process_ids(), list)
    with pytest.raises(ValueError, match="unknown: model 'unknown' not found"):
        load_adapter(setup("ollama", "unknown", bundle=bundle))
