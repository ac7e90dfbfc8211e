"""``edged bench --decisions``: how many decisions a second, for one client and for several.

Each client has its next prompt decided as soon as it has its last decision. What is timed is the
engine's part: the run of the prompt, and the pooling of its hidden states.
"""

import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edged.bundle.folder import open_bundle
from edged.commands.bench.device import describe_device
from edged.commands.bench.figures import Document, Samples, medians
from edged.commands.bench.measure import SETTLE_S, BenchOptions, circumstances, context_of
from edged.commands.bench.turns import CONCURRENCY, WORDS
from edged.config.keys import Config, ModelConfig, StateConfig
from edged.daemon.measurements import fitted_settings
from edged.daemon.memory import available_bytes, keep_one_heap
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.tokenizer import Tokenizer
from edged.errors import BundleError, UsageError
from edged.protocol.request import SamplingParams
from edged.specialists.features import Layout, Pooling, Template

if TYPE_CHECKING:
    from edged.engine.decoding import Decoding

# As many as a node has where they fit; the prompts of further clients wait.
_NUM_SLOTS = 4
_PROMPT_TOKENS = 40
_PER_TURN = 24
_GREEDY = SamplingParams(temperature=0.0)

# The tokens of a prompt in its template, and what pools its hidden states.
Prompt = tuple[list[int], Pooling]


class Decider:
    """One loaded bundle, as in the daemon, with the template's beginning in its cache.

    Raises:
        BundleError: The bundle is damaged, or gives no hidden states.
        UsageError: The context is too short for a prompt.
    """

    def __init__(self, options: BenchOptions, state: Path) -> None:
        keep_one_heap()
        bundle = open_bundle(options.bundle)
        tokenizer = Tokenizer.load(bundle)
        self._encode = tokenizer.encode
        self._template = Template(tokenizer.encode, tokenizer.beginning_ids)
        context, threads = context_of(bundle, options), options.num_threads
        longest = max(len(self._template.prompt(text, 0)[0]) for text in self._texts(0))
        if longest >= context:
            raise UsageError(f"--context {context}: at least {longest + 1} for a decision")
        model = ModelConfig(path=options.bundle, max_model_len=context, num_threads=threads)
        config = Config(model=model, state=StateConfig(folder=state))
        settings = fitted_settings(config, bundle, _NUM_SLOTS, available_bytes())
        self.engine = load_engine(bundle, replace(settings, num_prefixes=1))
        self._width = Layout(*self.engine.hidden_shape).width
        if not self._width:
            raise BundleError(
                f"{options.bundle}: gives no hidden states; rebuild it with `edged build`"
            )
        self.engine.make_prefix(self._template.before_ids)

    def prompts(self, seed: int) -> list[Prompt]:
        """Return prompts of 40 tokens, or few less, in the template."""
        return [self._template.prompt(text, self._width) for text in self._texts(seed)]

    def _texts(self, seed: int) -> Iterator[str]:
        choose = random.Random(seed)  # noqa: S311 - filler text
        for _ in range(_PER_TURN):
            text = longer = choose.choice(WORDS)
            while len(self._encode(longer)) <= _PROMPT_TOKENS:
                text, longer = longer, f"{longer} {choose.choice(WORDS)}"
            yield text


def decide(engine: Engine, prompts: Sequence[Prompt], num_clients: int) -> None:
    """Compute the features of all prompts, ``num_clients`` waiting at a time; blocks."""
    waiting = deque(prompts)
    running: dict[Decoding, Pooling] = {}
    while waiting or running:
        while waiting and len(running) < min(num_clients, engine.num_slots):
            ids, pooling = waiting.popleft()
            running[engine.start(ids, _GREEDY, max_tokens=1, reader=pooling)] = pooling
        engine.step()
        for decoding in [one for one in running if one.is_over]:
            engine.end(decoding)
            running.pop(decoding).features()


def measure_decisions(options: BenchOptions, note: Callable[[str], None]) -> Document:
    """Measure decisions a second for each number of clients, which alternate; blocks.

    Raises:
        BundleError: The bundle is damaged, or gives no hidden states.
        UsageError: The context is too short for a prompt.
    """
    device = describe_device()  # first: it reads the load before the measurement
    samples: Samples = {_name(count): [] for count in CONCURRENCY}
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as state:
        note("loading the model")
        decider = Decider(options, Path(state))
        decide(decider.engine, decider.prompts(0), max(CONCURRENCY))
        for run in range(options.runs):
            for count in CONCURRENCY:
                prompts = decider.prompts(run + 1)
                note(f"decisions of {count} at a time")
                time.sleep(SETTLE_S)
                started_s = time.perf_counter()
                decide(decider.engine, prompts, count)
                taken_s = time.perf_counter() - started_s
                samples[_name(count)].append(len(prompts) / taken_s)
    bundle = open_bundle(options.bundle)
    figures = {"figures": medians(samples), "samples": samples}
    return figures | circumstances(bundle, options, device, {})


def decision_rows(document: Document) -> Iterator[list[str]]:
    """Yield the rows of the table: a title, decisions a second, and their ratio to one client's."""
    figures = document["figures"]
    for count in CONCURRENCY:
        title = f"decisions of {_PROMPT_TOKENS} tokens, {count} clients, per s"
        per_s = figures[_name(count)]
        yield [title, f"{per_s:.1f}", f"{per_s / figures[_name(CONCURRENCY[0])]:.2f} x"]


def _name(num_clients: int) -> str:
    return f"decisions_{num_clients}_per_s"
