"""Every exception Leveret raises, in one tree.

::

    LeveretError
    ├── ConfigurationError          a setting, a URL, an app or a pool that cannot be used as given
    │   └── AppError                --app names no usable App
    ├── AMQPError
    │   ├── LocalProtocolError      our own caller broke a rule of the protocol
    │   ├── RemoteProtocolError     the peer broke a rule of the protocol
    │   └── ReplyError              a reply code of AMQP 0-9-1, sent or received
    │       ├── ChannelReplyError   soft: closes the channel (311 312 313 403 404 405 406)
    │       └── ConnectionReplyError  hard: closes the connection (320 402 501-506 530 540 541)
    ├── BrokerUnavailable           no broker answered, or the connection was lost
    ├── PublishError                the broker did not take responsibility for a message
    │   ├── Unroutable              no queue is bound for it
    │   ├── PublishNacked           the broker refused it
    │   ├── PublishBlocked          the broker takes no messages at the moment
    │   └── PublishUnconfirmed      no answer in time: it may or may not have been taken
    ├── StorageError                the broker's or the results' files cannot be used
    │   ├── DataFolderInUse         another broker is running on that folder
    │   └── StorageCorrupt          what is on disk is not what was written
    ├── WorkerFailed                a worker that cannot go on
    ├── TaskError
    │   ├── ArgumentsError          the arguments do not fit the task's signature (also a TypeError)
    │   ├── EncodingError           a value that has no JSON form
    │   ├── MessageError            a message that is not a task message
    │   ├── NotRegistered           no task of that name in this app
    │   ├── DuplicateTask           two tasks of one name
    │   ├── RetriesExhausted        the task asked for more retries than its policy allows
    │   ├── TaskRevoked             the task will not be run: it expired, or was revoked
    │   ├── TaskFailed              a task's exception whose class is not known here
    │   ├── WorkerLost              the process that ran the task died
    │   ├── TimeLimitExceeded       the hard time limit
    │   └── SoftTimeLimitExceeded   the soft time limit
    └── ResultTimeout               no result in time (also a TimeoutError)

    TaskSignal(BaseException)       a task's own control flow; see ``leveret.tasks.signals``
"""

from __future__ import annotations

from typing import ClassVar, Final

__all__ = [
    "AMQPError",
    "AccessRefused",
    "AppError",
    "ArgumentsError",
    "BrokerUnavailable",
    "ChannelError",
    "ChannelReplyError",
    "CommandInvalid",
    "ConfigurationError",
    "ConnectionForced",
    "ConnectionReplyError",
    "ContentTooLarge",
    "DataFolderInUse",
    "DuplicateTask",
    "EncodingError",
    "FrameError",
    "InternalError",
    "InvalidPath",
    "LeveretError",
    "LocalProtocolError",
    "MessageError",
    "MethodSyntaxError",
    "NoConsumers",
    "NoRoute",
    "NotAllowed",
    "NotFound",
    "NotImplementedByBroker",
    "NotRegistered",
    "PreconditionFailed",
    "PublishBlocked",
    "PublishError",
    "PublishNacked",
    "PublishUnconfirmed",
    "RemoteProtocolError",
    "ReplyError",
    "ResourceError",
    "ResourceLocked",
    "ResultTimeout",
    "RetriesExhausted",
    "SoftTimeLimitExceeded",
    "StorageCorrupt",
    "StorageError",
    "TaskError",
    "TaskFailed",
    "TaskRevoked",
    "TaskSignal",
    "TimeLimitExceeded",
    "UnexpectedFrame",
    "Unroutable",
    "WorkerFailed",
    "WorkerLost",
    "reply_error",
]


class LeveretError(Exception):
    """The root of every error of this package."""


class ConfigurationError(LeveretError):
    """A setting, URL or option that cannot be used as given; the message says what would be."""


class AppError(ConfigurationError):
    """The value of ``--app`` names no usable App: no such module, no App in it, or it failed to import.

    ``traceback`` is that of the user's own code as it was imported, else empty.
    """

    def __init__(self, message: str, *, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)


# ---------------------------------------------------------------------------------------------- AMQP


class AMQPError(LeveretError):
    """Something about the AMQP 0-9-1 conversation itself."""


class LocalProtocolError(AMQPError):
    """Our own caller asked for something the protocol forbids at this moment."""


class RemoteProtocolError(AMQPError):
    """The peer sent something the protocol forbids, and no reply code of its own describes it."""


class ReplyError(AMQPError):
    """A reply code of AMQP 0-9-1 (1.5.2), raised by the broker's rooms and by the client alike.

    ``reply_text`` is the whole text on the wire: ``"<CODE_NAME> - <explanation>"``, at most 255 bytes.
    ``class_id`` and ``method_id`` name the failing method; 0 and 0 below method level.
    """

    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""

    def __init__(self, explanation: str, *, class_id: int = 0, method_id: int = 0, reply_text: str | None = None) -> None:
        text = reply_text if reply_text is not None else f"{self.NAME} - {explanation}"
        # A short string holds 255 bytes; RabbitMQ cuts there too (rabbit_binary_generator).
        self.reply_text = text.encode()[:255].decode(errors="ignore")
        self.reply_code = self.CODE
        self.class_id = class_id
        self.method_id = method_id
        super().__init__(f"{self.CODE} {self.reply_text}")


class ChannelReplyError(ReplyError):
    """A soft error: the channel is closed, its connection lives on."""


class ConnectionReplyError(ReplyError):
    """A hard error: the connection is closed."""


class ContentTooLarge(ChannelReplyError):
    """311: the content is larger than the peer takes."""

    CODE = 311
    NAME = "CONTENT_TOO_LARGE"


class NoRoute(ChannelReplyError):
    """312: no queue for a mandatory message."""

    CODE = 312
    NAME = "NO_ROUTE"


class NoConsumers(ChannelReplyError):
    """313: no consumer for an immediate message."""

    CODE = 313
    NAME = "NO_CONSUMERS"


class AccessRefused(ChannelReplyError):
    """403: not allowed for this user, or a reserved name."""

    CODE = 403
    NAME = "ACCESS_REFUSED"


class NotFound(ChannelReplyError):
    """404: no such exchange or queue."""

    CODE = 404
    NAME = "NOT_FOUND"


class ResourceLocked(ChannelReplyError):
    """405: another connection holds it exclusively."""

    CODE = 405
    NAME = "RESOURCE_LOCKED"


class PreconditionFailed(ChannelReplyError):
    """406: it exists with other properties, or a precondition does not hold."""

    CODE = 406
    NAME = "PRECONDITION_FAILED"


class ConnectionForced(ConnectionReplyError):
    """320: an operator closed the connection."""

    CODE = 320
    NAME = "CONNECTION_FORCED"


class InvalidPath(ConnectionReplyError):
    """402: an unknown virtual host path."""

    CODE = 402
    NAME = "INVALID_PATH"


class FrameError(ConnectionReplyError):
    """501: a frame that cannot be decoded."""

    CODE = 501
    NAME = "FRAME_ERROR"


class MethodSyntaxError(ConnectionReplyError):
    """502: a field with an illegal value."""

    CODE = 502
    NAME = "SYNTAX_ERROR"


class CommandInvalid(ConnectionReplyError):
    """503: a method that makes no sense here."""

    CODE = 503
    NAME = "COMMAND_INVALID"


class ChannelError(ConnectionReplyError):
    """504: work on a channel that is not open, or opened twice."""

    CODE = 504
    NAME = "CHANNEL_ERROR"


class UnexpectedFrame(ConnectionReplyError):
    """505: a frame that is not expected now."""

    CODE = 505
    NAME = "UNEXPECTED_FRAME"


class ResourceError(ConnectionReplyError):
    """506: not enough resources."""

    CODE = 506
    NAME = "RESOURCE_ERROR"


class NotAllowed(ConnectionReplyError):
    """530: forbidden by the broker's rules."""

    CODE = 530
    NAME = "NOT_ALLOWED"


class NotImplementedByBroker(ConnectionReplyError):
    """540: a part of the protocol that the broker does not have."""

    CODE = 540
    NAME = "NOT_IMPLEMENTED"


class InternalError(ConnectionReplyError):
    """541: the broker itself failed."""

    CODE = 541
    NAME = "INTERNAL_ERROR"


_BY_CODE: Final[dict[int, type[ReplyError]]] = {
    error.CODE: error
    for error in (
        ContentTooLarge,
        NoRoute,
        NoConsumers,
        AccessRefused,
        NotFound,
        ResourceLocked,
        PreconditionFailed,
        ConnectionForced,
        InvalidPath,
        FrameError,
        MethodSyntaxError,
        CommandInvalid,
        ChannelError,
        UnexpectedFrame,
        ResourceError,
        NotAllowed,
        NotImplementedByBroker,
        InternalError,
    )
}


def reply_error(reply_code: int, reply_text: str, *, class_id: int = 0, method_id: int = 0, soft: bool = False) -> ReplyError:
    """Build the error of a received reply code; an unknown code becomes its soft or hard parent class."""
    parent = ChannelReplyError if soft else ConnectionReplyError
    error = _BY_CODE.get(reply_code, parent)(reply_text, class_id=class_id, method_id=method_id, reply_text=reply_text)
    error.reply_code = reply_code
    error.args = (f"{reply_code} {reply_text}",)
    return error


# ------------------------------------------------------------------------------- reaching and using a broker


class BrokerUnavailable(LeveretError):
    """No broker answered, or the connection to it was lost; the message names its URL without the password."""


class PublishError(LeveretError):
    """The broker has not taken responsibility for a message."""

    confirmed: int = 0
    """How many messages of the same batch it has taken."""


class Unroutable(PublishError):
    """No queue is bound for the message: it was returned (basic.return, 312)."""


class PublishNacked(PublishError):
    """The broker refused the message (basic.nack)."""


class PublishBlocked(PublishError):
    """The broker takes no messages at the moment (connection.blocked: memory or disk)."""


class PublishUnconfirmed(PublishError):
    """No confirm came in time or before the connection was lost: the message may or may not have been taken."""


class StorageError(LeveretError):
    """Files that cannot be read or written; the message names them."""


class DataFolderInUse(StorageError):
    """Another broker is running on that data folder."""


class StorageCorrupt(StorageError):
    """What is on disk is not what was written."""


class WorkerFailed(LeveretError):
    """A worker cannot go on: no child process of it can start, or something in it went wrong that nobody foresaw."""


# --------------------------------------------------------------------------------------------- tasks


class TaskError(LeveretError):
    """Something about a task, its message or its result."""


class ArgumentsError(TaskError, TypeError):
    """The arguments do not fit the task's signature."""


class EncodingError(TaskError):
    """A value that has no JSON form."""


class MessageError(TaskError):
    """A message that is not a task message of Celery's protocol 2."""


class NotRegistered(TaskError):
    """No task of that name in this app."""


class DuplicateTask(TaskError):
    """Two tasks of one name in one app."""


class RetriesExhausted(TaskError):
    """The task asked to be run again more often than its retry policy allows."""


class TaskRevoked(TaskError):
    """The task was not started and never will be: it came after its expiry, or was revoked."""


class TaskFailed(TaskError):
    """A task raised an exception whose class is not known here; carries its name, message and traceback."""

    def __init__(self, exc_type: str, exc_message: str, traceback: str | None = None) -> None:
        self.exc_type = exc_type
        self.exc_message = exc_message
        self.traceback = traceback
        super().__init__(f"{exc_type}: {exc_message}" if exc_message else exc_type)


class WorkerLost(TaskError):
    """The process that ran the task died; the message says by which signal or exit code."""


class TimeLimitExceeded(TaskError):
    """The task ran longer than its hard time limit and was killed."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task that has run longer than its soft time limit."""


class ResultTimeout(LeveretError, TimeoutError):
    """No result within the time the caller gave."""


class TaskSignal(BaseException):
    """A task's own control flow (retry, reject, ignore): its ``except Exception`` must not swallow it."""
