"""The message of one task call: Celery's message protocol 2, as it is written.

Written as Celery writes it, key for key, so that its workers and ours take each other's messages::

    properties   content_type application/json · content_encoding utf-8 · delivery_mode 2 · priority · correlation_id (the
                 task id) · reply_to (may be empty) · expiration, if the call expires
    headers      lang task id shadow eta expires group group_index retries timelimit root_id parent_id argsrepr kwargsrepr
                 origin ignore_result replaced_task_nesting stamped_headers stamps · x-leveret-crashes, if there were any ·
                 whatever the caller adds
    body         [args, kwargs, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]

Source: celery/app/amqp.py of 5.7 and docs/internals/protocol.rst, compared with real Celery in the tests. How messages are
read is in ``leveret.tasks.decoding``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.tables import FieldValue, Table
from leveret.tasks.serializers import encodable, encode_json

__all__ = [
    "CRASHES_HEADER",
    "JSON_TYPE",
    "Embedded",
    "TaskMessage",
    "describe",
    "encode",
    "encode_body",
    "encode_message_header",
]

CRASHES_HEADER: Final = "x-leveret-crashes"
"""How many processes have died of this message; ours, not Celery's."""

JSON_TYPE: Final = "application/json"

_REPR_SIZE_MAX: Final = 1024
_PERSISTENT: Final = 2
_NO_WORKFLOW: Final = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'

# What a broker notes on a message's way: no business of the next message with the same content.
_TRACE_PREFIXES: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


@dataclass(slots=True)
class Embedded:
    """The workflow a call belongs to: signatures in JSON, as in Celery's protocol 2. ``chain`` is reversed: the next is last."""

    callbacks: Sequence[object] | None = None
    errbacks: Sequence[object] | None = None
    chain: Sequence[object] | None = None
    chord: object | None = None

    def __bool__(self) -> bool:
        """Tell whether anything follows from the call's end."""
        return bool(self.callbacks or self.errbacks or self.chain or self.chord)


@dataclass(slots=True)
class TaskMessage:
    """One call of a task; times are aware datetimes."""

    id: str
    task: str
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    embedded: Embedded = field(default_factory=Embedded)
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    expiration_ms: int | None = None
    """What is left until ``expires`` when the message is sent: the broker drops it after that."""
    timelimit: tuple[float | None, float | None] = (None, None)
    """Hard and soft, in seconds."""
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    argsrepr: str = ""
    kwargsrepr: str = ""
    origin: str | None = None
    ignore_result: bool = False
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, object] = field(default_factory=dict)
    reply_to: str | None = None
    correlation_id: str | None = None
    priority: int = 0
    crashes: int = 0
    headers: Table = field(default_factory=dict)
    """Headers that are not the protocol's own."""

    def retried(self, eta: datetime | None) -> TaskMessage:
        """Return the message of the next try: the same call, one retry more, no trace of the way of this one."""
        return replace(
            self,
            retries=self.retries + 1,
            eta=eta,
            crashes=0,
            headers={name: value for name, value in self.headers.items() if not name.startswith(_TRACE_PREFIXES)},
        )


def describe(value: object) -> str:
    """Return a ``repr`` of at most 1,024 characters, without making a longer one on the way if it can be helped."""
    try:
        text = encodable(_BRIEF.repr(value) if value else repr(value))
    except Exception:  # the class is the user's, and so are its __bool__ and __repr__
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= _REPR_SIZE_MAX else text[: _REPR_SIZE_MAX - 3] + "..."


def encode(message: TaskMessage) -> tuple[bytes, bytes]:
    """Encode a message into the payload of its content header and its body.

    Raises:
        EncodingError: an argument or a header without a form on the wire.
        LocalProtocolError: a name longer than 255 bytes.

    """
    body = encode_body(encode_json(message.args), encode_json(message.kwargs), message.embedded)
    return encode_message_header(message, len(body)), body


def encode_body(args: bytes, kwargs: bytes, embedded: Embedded) -> bytes:
    """Join encoded arguments and the workflow into a body."""
    if not embedded:
        workflow = _NO_WORKFLOW
    else:
        workflow = encode_json(
            {
                "callbacks": embedded.callbacks,
                "errbacks": embedded.errbacks,
                "chain": embedded.chain,
                "chord": embedded.chord,
            }
        )
    return b"[%b,%b,%b]" % (args, kwargs, workflow)


def encode_message_header(message: TaskMessage, body_size: int) -> bytes:
    """Encode the content header of a message whose body is encoded already.

    Raises:
        EncodingError: a header without a form in AMQP.
        LocalProtocolError: a name longer than 255 bytes.

    """
    headers: Table = {
        "lang": "py",
        "task": message.task,
        "id": message.id,
        "shadow": message.shadow,
        "eta": None if message.eta is None else message.eta.isoformat(),
        "expires": None if message.expires is None else message.expires.isoformat(),
        "group": message.group,
        "group_index": message.group_index,
        "retries": message.retries,
        "timelimit": list(message.timelimit),
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "argsrepr": message.argsrepr,
        "kwargsrepr": message.kwargsrepr,
        "origin": message.origin,
        "ignore_result": message.ignore_result,
        "replaced_task_nesting": message.replaced_task_nesting,
        "stamped_headers": None if message.stamped_headers is None else list(message.stamped_headers),
        "stamps": _stamps(message.stamps),
    }
    if message.crashes:
        headers[CRASHES_HEADER] = message.crashes
    if message.headers:
        headers = {**message.headers, **headers}
    return encode_header(
        body_size,
        BasicProperties(
            content_type=JSON_TYPE,
            content_encoding="utf-8",
            headers=headers,
            delivery_mode=_PERSISTENT,
            priority=message.priority,
            correlation_id=message.correlation_id or message.id,
            reply_to=message.reply_to or "",
            expiration=None if message.expiration_ms is None else str(message.expiration_ms),
        ),
    )


_BRIEF: Final = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _REPR_SIZE_MAX
_BRIEF.maxlong = 100
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = _BRIEF.maxset = 100


def _stamps(stamps: Mapping[str, object]) -> dict[str, FieldValue]:
    return {name: _field_value(value) for name, value in stamps.items()}


def _field_value(value: object) -> FieldValue:
    """Narrow a value that came out of a table, or that encoding will refuse with a good message."""
    if isinstance(value, list | tuple):
        return [_field_value(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes | datetime):
        return value
    return str(value)
