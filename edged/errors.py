"""Errors as data: the wire's codes, the process's exit codes, the exceptions that carry them.

Rule: a message that reaches a user names the key, file or topic that is wrong and what to do.
"""

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Why a request was refused, as it stands on the wire in ``error.code``."""

    BAD_REQUEST = "bad_request"
    FORBIDDEN_TOPIC = "forbidden_topic"
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
        """Whether the same request may succeed later without being changed."""
        return self in _RETRYABLE


_STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.FORBIDDEN_TOPIC: 403,
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
    """The work was done and its result is bad: the quality gate missed, a verification failed."""
    USAGE = 64
    DATA_ERROR = 65
    """The caller must change the request."""
    NO_INPUT = 66
    UNAVAILABLE = 69
    """No reply, or no broker."""
    SOFTWARE = 70
    """A fault of ours; systemd restarts."""
    CANNOT_CREATE = 73
    IO_ERROR = 74
    TEMPORARY_FAILURE = 75
    """The same can be tried again: nothing is wrong that would have to be changed first."""
    CONFIG = 78
    """Configuration or model is wrong. Of ``edged run`` it is final: systemd does not restart."""


class EdgedError(Exception):
    """Carry a message for the user and the exit code that the command ends with."""

    exit_code = ExitCode.SOFTWARE


class UsageError(EdgedError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class ConfigError(EdgedError):
    """A configuration key is unknown or has a wrong value; the message starts with its path."""

    exit_code = ExitCode.CONFIG


class UnavailableError(EdgedError):
    """What is needed is not there now and may come by itself: memory, a file, a device."""

    exit_code = ExitCode.TEMPORARY_FAILURE


class BundleError(EdgedError):
    """A model bundle is missing, damaged or not to be trusted; the message names the file."""

    exit_code = ExitCode.CONFIG


class BundleUnavailableError(UnavailableError, BundleError):
    """A model bundle, or a file of it, is not there or cannot be read now."""


class BuildError(EdgedError):
    """A build step cannot go on; the message names the step, the source and what to do."""

    exit_code = ExitCode.FAILURE
