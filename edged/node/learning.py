"""What finished requests teach: latencies for the operator, costs for the next promise.

Rule: only what was computed without an interruption says what computing costs, and only the runs
that a request took part in, not the time it took by the clock.
"""

from edged.engine.generation import Finished
from edged.node.metrics import Metrics
from edged.scheduling.latency_model import CostModel, Measured


class Learning:
    """Take in what requests took.

    Args:
        costs: The price list, corrected with each request.
        metrics: Latencies, and how far predictions were off.
    """

    def __init__(self, costs: CostModel, metrics: Metrics) -> None:
        self._costs = costs
        self._metrics = metrics

    def take(self, finished: Finished, received_s: float) -> None:
        """Take in one finished request; one without a token teaches nothing but its energy."""
        if finished.usage.energy is not None:
            self._metrics.count_energy(finished.usage.energy.joules)
        if finished.first_token_s is None:
            return
        usage, timing, spent = finished.usage, finished.timing(received_s), finished.spent
        self._metrics.observe_ttft(timing.ttft_s)
        if finished.was_paused:
            return
        self._metrics.observe_decode(usage.completion_tokens - 1, timing.decode_s)
        measured = Measured(
            usage.prompt_tokens - usage.cached_tokens,
            usage.cached_tokens,
            spent.prefill_s,
            spent.decode_runs,
            spent.decode_s,
            spent.num_cobatched_tokens,
            spent.pairs_beside,
        )
        self._metrics.observe_cost_error(self._costs.observe(measured))
