"""How a job of the inference thread ended, or was interrupted.

Rule: plain data; what a person is told of it is made of it elsewhere.
"""

from dataclasses import dataclass, field

from edged.generation import Generation, Spent
from edged.request import Answer, Rejected, Timing, Usage


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one job: exactly one is emitted for each submitted job."""

    key: int
    outcome: Answer | Rejected
    usage: Usage
    started_s: float
    finished_s: float
    first_token_s: float | None
    """When the first token was there, on the worker's clock; None without one."""
    was_paused: bool = False
    """Whether the time contains an interruption."""
    spent: Spent = field(default_factory=Spent)

    @classmethod
    def of(cls, run: Generation, outcome: Answer | Rejected, finished_s: float) -> "Finished":
        """Sum up a generation that is over."""
        job = run.job
        usage = Usage(
            len(job.prompt_ids), run.cached_tokens, run.num_output_tokens, energy=run.energy
        )
        times = (run.started_s, finished_s, run.first_token_s)
        return cls(job.key, outcome, usage, *times, run.was_paused, run.spent)

    def timing(self, received_s: float) -> Timing:
        """Split the time since ``received_s``; without a token, all of the run is prefill.

        Who joined an execution after its start did not wait for it.
        """
        first_s = self.finished_s if self.first_token_s is None else self.first_token_s
        return Timing(
            queued_s=max(self.started_s - received_s, 0.0),
            prefill_s=first_s - self.started_s,
            ttft_s=max(first_s - received_s, 0.0),
            decode_s=self.finished_s - first_s,
            total_s=self.finished_s - received_s,
        )


@dataclass(frozen=True, slots=True)
class Paused:
    """A job that made room; it is over only when it is resumed and ends, or is ended."""

    run: Generation
