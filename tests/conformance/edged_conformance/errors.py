"""Errors that end a run, with exit statuses from sysexits.h."""

OK, FAILURE, USAGE, DATA_ERROR, UNAVAILABLE = 0, 1, 64, 65, 69


class ConformanceError(Exception):
    """The run cannot continue; the message names the reason."""

    exit_status: int


class UsageError(ConformanceError):
    """The command line is wrong."""

    exit_status = USAGE


class CaseError(ConformanceError):
    """A case file is wrong; the message names the file and the key."""

    exit_status = DATA_ERROR


class NodeUnavailableError(ConformanceError):
    """There is no broker, or no such node."""

    exit_status = UNAVAILABLE


class NotApplicableError(Exception):
    """A case needs a feature that this node does not offer; the message names it."""
