"""What ends a run before its verdict, each with the exit status of the command."""

from edged.errors import EdgedError, ExitCode


class CaseError(EdgedError):
    """A case file is wrong; the message names the file and the key."""

    exit_code = ExitCode.DATA_ERROR


class NodeUnavailableError(EdgedError):
    """There is no broker, or no such node at it."""

    exit_code = ExitCode.UNAVAILABLE


class NotApplicableError(Exception):
    """A case asks for something that this node does not offer; the text says what."""
