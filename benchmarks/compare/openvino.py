"""OpenVINO GenAI with a GGUF file: its own int8, batching and prefix cache.

Rule: OpenVINO's own defaults, except threads, which all engines share.
"""

import os
from collections.abc import Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any

import numpy as np
import openvino
import openvino_genai

from benchmarks.compare.process import Setup
from edged.commands.bench.turns import OnToken


class OpenVinoEngine:
    """One loaded GGUF file, or a folder exported by OpenVINO."""

    def __init__(self, setup: Setup) -> None:
        self._pipeline = openvino_genai.LLMPipeline(
            setup.source, "CPU", INFERENCE_NUM_THREADS=setup.num_threads
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of OpenVINO and of its generation library."""
        return {name: version(name) for name in ("openvino", "openvino-genai")}

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with ``count`` greedy tokens; blocks."""
        self._answer([prompt], count, _Streamer(on_token))

    def decode_batch(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        """Decode a batch of prompts of equal length; blocks."""
        result = self._answer(prompts, steps + 1, None)
        metrics = result.perf_metrics.raw_metrics
        times_s = [float(moment_ms) / 1e3 for moment_ms in metrics.m_new_token_times]
        done = list(accumulate(int(size) for size in metrics.m_batch_sizes))
        first = next(i for i, num_tokens in enumerate(done) if num_tokens >= len(prompts))
        # Prompts prefilled earlier are ahead by some tokens: scale by the remaining ones.
        share = (done[-1] - done[first]) / (len(prompts) * steps)
        return (times_s[-1] - times_s[first]) / share

    def process_ids(self) -> list[int]:
        """Return this process."""
        return [os.getpid()]

    def _answer(
        self, prompts: Sequence[Sequence[int]], count: int, streamer: "_Streamer | None"
    ) -> Any:  # noqa: ANN401 - OpenVINO's result
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = count
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        token_ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(token_ids), openvino.Tensor(np.ones_like(token_ids))
        )
        return self._pipeline.generate(inputs, config, streamer)


class _Streamer(openvino_genai.StreamerBase):  # type: ignore[misc]
    """Pass on each token at once."""

    def __init__(self, on_token: OnToken) -> None:
        super().__init__()
        self._on_token = on_token

    def write(self, token: int | Sequence[int]) -> openvino_genai.StreamingStatus:
        """Take one token, or several from one step."""
        for token_id in [token] if isinstance(token, int) else token:
            self._on_token(token_id)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Do nothing at the end of the answer."""
