"""What a server refuses: a kind that each protocol has its own number for, and a sentence."""

import enum
import logging

from treadle.errors import TreadleError

logger = logging.getLogger("treadle.serving")


class Kind(enum.Enum):
    """Why a request is refused: its HTTP status, gRPC's code, and the code with which a WebSocket is closed."""

    MALFORMED = (400, "INVALID_ARGUMENT", 1007)
    """The request is not what the protocol or the model reads."""
    NO_TOKEN = (401, "UNAUTHENTICATED", 1008)
    """No token was sent, or one that is not known."""
    FORBIDDEN = (403, "PERMISSION_DENIED", 1008)
    """A web page of another origin asks, or the server is called by a name that it does not have."""
    NOT_FOUND = (404, "NOT_FOUND", 1008)
    """There is no such model, version or sequence."""
    NOT_NEXT = (409, "ABORTED", 1008)
    """The step is not the one that the sequence expects."""
    OVER = (409, "FAILED_PRECONDITION", 1008)
    """The sequence has ended, and why is known. HTTP's 410 would say so for ever, but whoever starts it again may."""
    TOO_LARGE = (413, "OUT_OF_RANGE", 1009)
    """It has more bytes, rows or steps than are read."""
    UNSUPPORTED = (415, "UNIMPLEMENTED", 1003)
    """It is written in a way that the server does not read."""
    BUSY = (429, "RESOURCE_EXHAUSTED", 1013)
    """A queue is full, or a limit is reached: try again later."""
    FAILED = (500, "INTERNAL", 1011)
    """The model itself failed."""
    UNAVAILABLE = (503, "UNAVAILABLE", 1012)
    """The server is about to end, or what has to be kept cannot be written."""
    LATE = (504, "DEADLINE_EXCEEDED", 1013)
    """The deadline passed before the step was begun."""

    @property
    def status(self) -> int:
        """HTTP's number."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of gRPC's code."""
        return self.value[1]

    @property
    def close_code(self) -> int:
        """The WebSocket's number."""
        return self.value[2]


class Refused(TreadleError):
    """A request is refused, with the kind and the reason.

    Attributes:
        kind: which of HTTP's, gRPC's and the WebSocket's numbers it has.
        retry_after: seconds after which trying again makes sense; None if it makes none.
    """

    def __init__(self, kind: Kind, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


def as_refused(error: Exception, where: str) -> Refused:
    """What a client is told of an exception: a refusal itself; of what nobody expected the kind, and the log the rest.

    Example:
        >>> from treadle.serving.refusals import Kind, Refused, as_refused
        >>> as_refused(Refused(Kind.BUSY, "the queue is full"), "/v2")
        Refused('the queue is full')
    """
    if isinstance(error, Refused):
        return error
    logger.error("%s", where, exc_info=error)
    return Refused(Kind.FAILED, f"the server failed with a {type(error).__name__}")
