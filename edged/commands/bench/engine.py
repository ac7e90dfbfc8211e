"""edged's own engine, loaded as in the daemon: verified bundle, tokenizer, tuned settings."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from edged.bundle.folder import open_bundle
from edged.commands.bench.turns import CONCURRENCY, OnToken
from edged.config.keys import Config, ModelConfig, StateConfig
from edged.daemon.measurements import fitted_settings
from edged.daemon.memory import available_bytes, keep_one_heap, return_freed
from edged.engine.loading import load_engine
from edged.engine.steps import Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import SamplingParams

_GREEDY = SamplingParams(temperature=0.0)


class EdgedEngine:
    """One loaded bundle.

    Args:
        folder: The bundle.
        num_threads: Threads of the engine.
        max_model_len: Tokens of context.
        state: Folder with the tuning results and the prepared model of the daemon.

    Raises:
        BundleError: The bundle is damaged or cannot be loaded.
    """

    def __init__(self, folder: Path, num_threads: int, max_model_len: int, state: Path) -> None:
        keep_one_heap()
        bundle = open_bundle(folder)
        # Kept, because its memory counts: the daemon has it loaded, too.
        self.tokenizer = Tokenizer.load(bundle)
        # A measured answer has a fixed length.
        endless = replace(bundle, manifest=replace(bundle.manifest, stop_token_ids=()))
        model = ModelConfig(path=folder, max_model_len=max_model_len, num_threads=num_threads)
        config = Config(model=model, state=StateConfig(folder=state))
        settings = fitted_settings(config, bundle, max(CONCURRENCY), available_bytes())
        # No drafted tokens, as in other engines: one token per forward pass.
        self._engine = load_engine(endless, replace(settings, is_guessing=False))
        return_freed()

    def versions(self) -> dict[str, str]:
        """Return edged's version and ONNX Runtime's."""
        return {name: version(name) for name in ("edged", "onnxruntime")}

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with ``count`` greedy tokens; blocks."""
        for step in self._engine.generate(prompt, _GREEDY, max_tokens=count):
            if isinstance(step, Token):
                on_token(step.token_id)

    def decode_batch(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        """Decode a batch; return the time of ``steps`` tokens of each prompt; blocks."""
        engine = self._engine
        if len(prompts) > engine.num_slots:
            return None
        # While a prompt is prefilled, those before it decode already: allow a few more tokens.
        max_tokens = steps + 4 * len(prompts)
        answers = [engine.start(prompt, _GREEDY, max_tokens=max_tokens) for prompt in prompts]
        while not all(answer.is_prefilled for answer in answers):
            engine.step()
        started_s = perf_counter()
        for _ in range(steps):
            engine.step()
        taken_s = perf_counter() - started_s
        for answer in answers:
            engine.end(answer)
        return taken_s

    def process_ids(self) -> list[int]:
        """Return this process."""
        return [os.getpid()]
