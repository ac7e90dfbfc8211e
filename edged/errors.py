"""Error codes on the wire, exit codes, and the exceptions that end a command.

Rule: a message for a user names the key, file or topic that is wrong, and what to do.
"""

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Why a request was refused: ``error.code`` on the wire."""

    BAD_REQUEST = "bad_request"
    IDENTITY_REQUIRED = "identity_required"
    TIMEOUT = "timeout"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    PROMPT_TOO_LONG = "prompt_too_long"
    QUEUE_FULL = "queue_full"
    CANCELLED = "cancelled"
    CRASHED_BEFORE = "crashed_before"
    INTERNAL = "internal"
    LOADING = "loading"
    MEMORY_PRESSURE = "memory_pressure"

    @property
    def status(self) -> int:
        """HTTP-like status number, sent as ``error.status`` and as the user property ``status``."""
        return _STATUS[self]

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self in _RETRYABLE


_STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.IDENTITY_REQUIRED: 403,
    ErrorCode.TIMEOUT: 408,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_CONTENT_TYPE: 415,
    ErrorCode.PROMPT_TOO_LONG: 422,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.CANCELLED: 499,
    ErrorCode.CRASHED_BEFORE: 500,
    ErrorCode.INTERNAL: 500,
    ErrorCode.LOADING: 503,
    ErrorCode.MEMORY_PRESSURE: 503,
}
_RETRYABLE = {
    ErrorCode.TIMEOUT,
    ErrorCode.QUEUE_FULL,
    ErrorCode.INTERNAL,
    ErrorCode.LOADING,
    ErrorCode.MEMORY_PRESSURE,
}


class ExitCode(IntEnum):
    """Exit status of the ``edged`` command, from sysexits.h where it has one."""

    OK = 0
    FAILURE = 1
    """The result is bad: a missed quality gate, a failed verification."""
    USAGE = 64
    DATA_ERROR = 65
    """The caller must change the request."""
    UNAVAILABLE = 69
    """No reply, or no broker."""
    SOFTWARE = 70
    """A bug; systemd restarts the daemon."""
    CANNOT_CREATE = 73
    TEMPORARY_FAILURE = 75
    """The same command may succeed later, without a change."""
    CONFIG = 78
    """Configuration or model is wrong; systemd does not restart the daemon."""


class EdgedError(Exception):
    """An error with a message for the user and the exit code of the command."""

    exit_code = ExitCode.SOFTWARE


class UsageError(EdgedError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class ConfigError(EdgedError):
    """A configuration key is unknown or has a wrong value; the message starts with its path."""

    exit_code = ExitCode.CONFIG


class UnavailableError(EdgedError):
    """Something is missing that may become available by itself: memory, a file, a device."""

    exit_code = ExitCode.TEMPORARY_FAILURE


class BundleError(EdgedError):
    """A model bundle is missing, damaged or untrusted; the message names the file."""

    exit_code = ExitCode.CONFIG


class BundleUnavailableError(UnavailableError, BundleError):
    """A model bundle, or one of its files, is missing or unreadable at the moment."""


class BuildError(EdgedError):
    """A build step failed; the message names the step, the source and what to do."""

    exit_code = ExitCode.FAILURE
