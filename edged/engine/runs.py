"""Run a session so that another thread can break off the run in hand."""

import onnxruntime

_FATAL = 4
"""Of ONNX Runtime's log levels, the highest."""


class InterruptedRunError(RuntimeError):
    """The run was broken off on request; what it wrote into the cache is not to be used."""


class Runs:
    """The runs of one session, one at a time.

    Args:
        session: the loaded model.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._steady = _run_options()
        self._options = _run_options()

    def run(self, binding: onnxruntime.IOBinding, *, is_interruptible: bool = True) -> None:
        """Compute the outputs of a binding; blocks.

        A run that is over soon anyway need not be interruptible, and then has less to prepare.

        Raises:
            InterruptedRunError: ``interrupt`` was called meanwhile.
            RuntimeError: the run failed.
        """
        if not is_interruptible:
            self._session.run_with_iobinding(binding, self._steady)
            return
        # New for each run: an interruption that comes late hits the options of a run that is over.
        options = self._options = _run_options()
        try:
            self._session.run_with_iobinding(binding, options)
        except RuntimeError as error:
            if options.terminate:
                raise InterruptedRunError from error
            raise

    def interrupt(self) -> None:
        """Have the run in hand end at its next operator; from any thread, returns at once."""
        self._options.terminate = True


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    # What fails is raised, with all that would be logged; an interruption is no failure at all.
    options.log_severity_level = _FATAL
    # Nothing is captured on a CPU; but onnxruntime looks, and not to find it costs it 60 us.
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options
