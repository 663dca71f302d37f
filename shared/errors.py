"""The tree of all errors.

Each class has a stable `code`, which crosses the wire and is part of responses, and says whether the same request may
succeed when it is sent again (`retryable`). The HTTP status of a code is the gateway's business
(gateway/core/problems.py). Texts are safe to show to a client: they have no internals and no secrets.
"""

from __future__ import annotations

from typing import ClassVar

# The code in a response for an exception outside this tree, which is a bug.
INTERNAL = "internal_error"


class SmartBatchError(Exception):
    """Base of all errors that are raised on purpose."""

    code: str = "error"
    retryable: ClassVar[bool] = False
    request_id: str = ""  # set by smartbatch.client

    @property
    def detail(self) -> str:
        return str(self)


# --- errors of the client


class ClientError(SmartBatchError):
    """The request is invalid; sending it again unchanged does not help."""

    code = "bad_request"


class MalformedBody(ClientError):
    """The body cannot be parsed as its Content-Type says."""

    code = "malformed_body"


class MalformedRequest(ClientError):
    """Not a valid HTTP/1.1 request. The connection is closed, as the start of the next request is unknown."""

    code = "malformed_request"


class HeadTooLarge(ClientError):
    """The request line and headers, or the trailers of a chunked body, are too large."""

    code = "head_too_large"


class UrlTooLong(ClientError):
    """The URL is too long."""

    code = "url_too_long"


class HeadTimeout(ClientError):
    """The request line and headers did not arrive in time."""

    code = "head_timeout"


class InvalidInput(ClientError):
    """A well-formed body that does not match the model: wrong shape or dtype, or an image that cannot be decoded."""

    code = "invalid_input"


class UnsupportedMedia(ClientError):
    """The model does not accept this Content-Type, or the Content-Encoding is not supported."""

    code = "unsupported_media"


class NotAcceptable(ClientError):
    """The response is not available in a format that Accept names."""

    code = "not_acceptable"


class BodyTooLarge(ClientError):
    """The body is larger than MAX_BODY_BYTES or than the limits of its format."""

    code = "body_too_large"


class BodyTimeout(ClientError):
    """The body did not arrive within REQUEST_TIMEOUT, or arrived too slowly."""

    code = "body_timeout"


class TooManyRows(ClientError):
    """The request has more rows than MAX_REQUEST_ROWS, or `decode` made more than MAX_BATCH_SIZE rows of one part."""

    code = "too_many_rows"


class UnknownModel(ClientError):
    """No worker has announced a model of this name."""

    code = "unknown_model"


class ModelCommandFailed(ClientError):
    """A command to load or unload a model failed, or no launcher (`smartbatch up`) can carry it out."""

    code = "model_command_failed"


class Unauthenticated(ClientError):
    """The API key is missing or invalid."""

    code = "unauthenticated"


class Forbidden(ClientError):
    """The API key is valid but does not permit this request."""

    code = "forbidden"


class LimitReached(ClientError):
    """A limit of the API key is reached; the same request may be sent again after `retry_after_s`."""

    code = "limit_reached"
    retryable = True

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(LimitReached):
    """The API key's request rate is exceeded."""

    code = "rate_limited"


class QuotaExceeded(LimitReached):
    """The API key's daily quota is used up."""

    code = "quota_exceeded"


class ClientGone(ClientError):
    """The client disconnected before its response. This error is only counted."""

    code = "client_gone"


# --- requests that the server cannot accept at the moment


class Unavailable(SmartBatchError):
    """Rejected for now; the same request may be sent again after `retry_after_s`."""

    code = "unavailable"
    retryable = True

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManyConnections(Unavailable):
    """MAX_CONNECTIONS are open and none of them is idle."""

    code = "too_many_connections"


class ReceivingFull(Unavailable):
    """The request bodies being received use all of MAX_RECEIVING_BYTES."""

    code = "receiving_full"


class QueueFull(Unavailable):
    """The queue holds MAX_QUEUE requests or MAX_QUEUE_BYTES."""

    code = "queue_full"


class DeadlineUnattainable(Unavailable):
    """At the measured throughput of the workers, the request would not be answered within its timeout."""

    code = "deadline_unattainable"


class BrokerUnavailable(Unavailable):
    """Redis does not respond. The text may contain its address or a file name, so it is only logged."""

    code = "broker_unavailable"


class BrokerFull(BrokerUnavailable):
    """Redis has reached its maxmemory and accepts no new requests; nothing was written."""

    code = "broker_full"


class Draining(Unavailable):
    """The gateway is shutting down."""

    code = "draining"


class DeadlineExceeded(SmartBatchError):
    """The request was not answered within its timeout."""

    code = "deadline_exceeded"
    retryable = True


# --- failures while a request runs


class ModelFailed(SmartBatchError):
    """The model raised an exception for this row, also without other rows."""

    code = "model_failed"


class DeadLettered(SmartBatchError):
    """The request ended MAX_DELIVERIES workers and is kept as a dead letter."""

    code = "dead_lettered"


class WireError(SmartBatchError):
    """A value on the broker does not have the expected format: another version, or written by another program."""

    code = "wire_error"


class CancelledByOperator(SmartBatchError):
    """An operator cancelled the request (`smartbatch queue cancel`)."""

    code = "cancelled_by_operator"


# --- errors of operators' tools


class RouteChanged(SmartBatchError):
    """Somebody else changed the model's routing table since it was read. Nothing was written."""

    code = "route_changed"


# --- errors that keep a process from starting


class StartupError(SmartBatchError):
    """The command line prints it as one line and exits with 2."""

    code = "startup_error"


class SettingsError(StartupError):
    """A setting is invalid."""

    code = "settings_error"


class ModelLoadError(StartupError):
    """The model cannot be loaded."""

    code = "model_load_error"


def by_code() -> dict[str, type[SmartBatchError]]:
    """Return every class of the tree by its code. A test checks that codes are unique."""
    found: dict[str, type[SmartBatchError]] = {}
    pending: list[type[SmartBatchError]] = [SmartBatchError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found


def codes_of(cls: type[SmartBatchError]) -> set[str]:
    """Return the codes of a branch of the tree that a request may end with.

    Codes of connections that never sent a request, of operators' tools and of startup are left out.
    """
    never = (UrlTooLong, HeadTimeout, TooManyConnections, ModelCommandFailed, RouteChanged, StartupError)
    return {code for code, each in by_code().items() if issubclass(each, cls) and not issubclass(each, never)}


_BY_CODE = by_code()


def from_wire(code: str, detail: str) -> SmartBatchError:
    """Rebuild the error that a worker wrote into a reply."""
    return _BY_CODE.get(code, SmartBatchError)(detail)
