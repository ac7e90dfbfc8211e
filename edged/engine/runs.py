"""Run a session so that another thread can break off the run in hand."""

import onnxruntime


class InterruptedRunError(RuntimeError):
    """The run was broken off on request; what it wrote into the cache is not to be used."""


class Runs:
    """The runs of one session, one at a time.

    Args:
        session: the loaded model.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._options = onnxruntime.RunOptions()

    def run(self, binding: onnxruntime.IOBinding) -> None:
        """Compute the outputs of a binding; blocks.

        Raises:
            InterruptedRunError: ``interrupt`` was called meanwhile.
            RuntimeError: the run failed.
        """
        # New for each run: an interruption that comes late hits the options of a run that is over.
        options = self._options = onnxruntime.RunOptions()
        # Nothing is captured on a CPU; but onnxruntime looks, and not to find it costs it 60 us.
        options.add_run_config_entry("gpu_graph_id", "-1")
        try:
            self._session.run_with_iobinding(binding, options)
        except RuntimeError as error:
            if options.terminate:
                raise InterruptedRunError from error
            raise

    def interrupt(self) -> None:
        """Have the run in hand end at its next operator; from any thread, returns at once."""
        self._options.terminate = True
