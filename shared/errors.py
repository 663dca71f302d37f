"""The one tree of errors.

Each class has a stable `code`, which crosses the wire and stands in responses, and says whether the same
request may succeed when sent again (`retryable`). Which HTTP status a code becomes is the gateway's business
(gateway/core/problems.py). Texts are safe to show to a client: they hold no internals and no secrets.
"""

from __future__ import annotations

from typing import ClassVar

# What stands in a response for an exception that is none of these: a bug.
INTERNAL = "internal_error"


class SmartBatchError(Exception):
    """Anything that goes wrong on purpose."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    @property
    def detail(self) -> str:
        return str(self)


# --- what a client sent


class ClientError(SmartBatchError):
    """The request is at fault; sending it again unchanged can't help."""

    code = "bad_request"


class MalformedBody(ClientError):
    code = "malformed_body"


class MalformedRequest(ClientError):
    """Not a valid HTTP/1.1 request. Its connection is closed, as nobody knows where the next request would begin."""

    code = "malformed_request"


class HeadTooLarge(ClientError):
    """Request line and headers, or what follows a chunked body."""

    code = "head_too_large"


class UrlTooLong(ClientError):
    code = "url_too_long"


class HeadTimeout(ClientError):
    code = "head_timeout"


class InvalidInput(ClientError):
    """Well-formed, but not what the model takes: shape, dtype, an image that can't be decoded."""

    code = "invalid_input"


class UnsupportedMedia(ClientError):
    code = "unsupported_media"


class NotAcceptable(ClientError):
    code = "not_acceptable"


class BodyTooLarge(ClientError):
    code = "body_too_large"


class BodyTimeout(ClientError):
    """The body wasn't there within REQUEST_TIMEOUT, or came too slowly."""

    code = "body_timeout"


class TooManyRows(ClientError):
    """More rows in one request than MAX_BATCH_SIZE."""

    code = "too_many_rows"


class UnknownModel(ClientError):
    code = "unknown_model"


class Unauthenticated(ClientError):
    """No API key, or one that doesn't hold (any more)."""

    code = "unauthenticated"


class Forbidden(ClientError):
    """The API key holds, but not for this."""

    code = "forbidden"


class LimitReached(ClientError):
    """The API key's share is used up; the same request may be sent again after `retry_after_s`."""

    code = "limit_reached"
    retryable = True

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(LimitReached):
    code = "rate_limited"


class QuotaExceeded(LimitReached):
    code = "quota_exceeded"


class ClientGone(ClientError):
    """The client hung up before its response; never sent, only counted."""

    code = "client_gone"


# --- what the server can't do now


class Unavailable(SmartBatchError):
    """Refused now; the same request may be sent again after `retry_after_s`."""

    code = "unavailable"
    retryable = True

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManyConnections(Unavailable):
    code = "too_many_connections"


class ReceivingFull(Unavailable):
    """The bodies that are being received take all the memory they may."""

    code = "receiving_full"


class QueueFull(Unavailable):
    code = "queue_full"


class DeadlineUnattainable(Unavailable):
    """By the measured rate of the workers it would not be answered within its timeout, so it isn't taken at all."""

    code = "too_late"


class BrokerUnavailable(Unavailable):
    """Its text is for the log alone: it may name the broker's address, or a file."""

    code = "broker_unavailable"


class BrokerFull(BrokerUnavailable):
    """Redis reached its maxmemory and takes no new work: the command was refused, nothing was written."""

    code = "broker_full"


class Draining(Unavailable):
    code = "draining"


class DeadlineExceeded(SmartBatchError):
    code = "deadline_exceeded"
    retryable = True


# --- what failed while running


class ModelFailed(SmartBatchError):
    """The model raised for this row alone."""

    code = "model_failed"


class DeadLettered(SmartBatchError):
    """The entry ended MAX_DELIVERIES workers and was put aside."""

    code = "dead_lettered"


class WireError(SmartBatchError):
    """A value on the broker isn't of the agreed form: another version, or not ours."""

    code = "wire_error"


class CancelledByOperator(SmartBatchError):
    """An operator took the request from the stream."""

    code = "taken_back"


# --- what keeps a process from starting


class StartupError(SmartBatchError):
    """Shown as one line by the command line, which then exits with 2."""

    code = "startup_error"


class SettingsError(StartupError):
    code = "settings_error"


class ModelLoadError(StartupError):
    code = "model_load_error"


def by_code() -> dict[str, type[SmartBatchError]]:
    """Every class of the tree by its code; codes are unique (a test holds that)."""
    found: dict[str, type[SmartBatchError]] = {}
    pending: list[type[SmartBatchError]] = [SmartBatchError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found


def codes_of(cls: type[SmartBatchError]) -> set[str]:
    """The codes that a request may end with of a branch of the tree: not those of connections that never sent one, nor
    of starting."""
    never = (UrlTooLong, HeadTimeout, TooManyConnections, StartupError)
    return {code for code, each in by_code().items() if issubclass(each, cls) and not issubclass(each, never)}


_BY_CODE = by_code()


def from_wire(code: str, detail: str) -> SmartBatchError:
    """Rebuild the error that a worker wrote into a reply."""
    return _BY_CODE.get(code, SmartBatchError)(detail)
