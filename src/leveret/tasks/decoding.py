"""Reading a task message: Celery's protocol 2, and protocol 1, which old producers still send."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from leveret.amqp.properties import BasicProperties, decode_header
from leveret.amqp.tables import Table
from leveret.errors import AMQPError, MessageError
from leveret.tasks.message import CRASHES_HEADER, JSON_TYPE, Embedded, TaskMessage
from leveret.tasks.serializers import decode_json, decompress

__all__ = ["decode"]

_ENCODINGS: Final = ("utf-8", "utf8", "us-ascii", "ascii")
_OWN_HEADERS: Final = frozenset(
    {"lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id", "parent_id"}
    | {"argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps", "compression"}
    | {CRASHES_HEADER}
)


def decode(header: bytes, body: bytes) -> TaskMessage:
    """Decode a task message of protocol 2, or of protocol 1, from the payload of its content header and its body.

    Raises:
        MessageError: it is neither; the message says what is wrong with it.

    """
    try:
        _, properties = decode_header(header)
    except AMQPError as error:
        raise MessageError(f"a content header that cannot be decoded: {error}") from error
    headers = properties.headers or {}
    content = _decode_content(properties, headers, body)
    if isinstance(headers.get("task"), str):
        return _decode_2(properties, headers, content)
    if isinstance(content, dict) and "task" in content:
        return _decode_1(properties, headers, content)
    raise MessageError("a message without the header 'task', which every task message of Celery's protocol 2 has")


def _decode_content(properties: BasicProperties, headers: Table, body: bytes) -> object:
    """Return what the body says, whatever its protocol."""
    if properties.content_type != JSON_TYPE:
        raise MessageError(f"a body of type {properties.content_type!r}; this version reads {JSON_TYPE}")
    if (properties.content_encoding or "utf-8").lower() not in _ENCODINGS:
        raise MessageError(f"a body in the encoding {properties.content_encoding!r}; this version reads utf-8")
    compression = headers.get("compression")
    return decode_json(decompress(body, compression) if isinstance(compression, str) else body)


def _decode_2(properties: BasicProperties, headers: Table, content: object) -> TaskMessage:
    match content:
        case [list() as args, dict() as kwargs, (dict() | None) as embed, *_]:
            pass
        case _:
            raise MessageError("a body that is not [args, kwargs, embed], as protocol 2 has it")
    task_id = _text(headers, "id")
    if task_id is None:
        raise MessageError("a message without the header 'id', which every task message of protocol 2 has")
    stamped, stamps = headers.get("stamped_headers"), headers.get("stamps")
    return TaskMessage(
        id=task_id,
        task=str(headers["task"]),
        args=args,
        kwargs=kwargs,
        embedded=_embedded(embed or {}),
        retries=_count(headers, "retries"),
        eta=_time(headers, "eta"),
        expires=_time(headers, "expires"),
        timelimit=_limits(headers.get("timelimit")),
        root_id=_text(headers, "root_id"),
        parent_id=_text(headers, "parent_id"),
        group=_text(headers, "group"),
        group_index=_count(headers, "group_index") if headers.get("group_index") is not None else None,
        shadow=_text(headers, "shadow"),
        argsrepr=_text(headers, "argsrepr") or "",
        kwargsrepr=_text(headers, "kwargsrepr") or "",
        origin=_text(headers, "origin"),
        ignore_result=bool(headers.get("ignore_result")),
        replaced_task_nesting=_count(headers, "replaced_task_nesting"),
        stamped_headers=[str(name) for name in stamped] if isinstance(stamped, list) else None,
        stamps=stamps if isinstance(stamps, dict) else {},
        reply_to=properties.reply_to or None,
        correlation_id=properties.correlation_id,
        priority=properties.priority or 0,
        crashes=_count(headers, CRASHES_HEADER),
        headers={name: value for name, value in headers.items() if name not in _OWN_HEADERS},
    )


def _decode_1(properties: BasicProperties, headers: Table, content: Mapping[str, object]) -> TaskMessage:
    """Read protocol 1: everything stands in the body, an object (docs/internals/protocol.rst, version 1)."""
    task, task_id = content["task"], content.get("id")
    args, kwargs = content.get("args") or [], content.get("kwargs") or {}
    if not (isinstance(task, str) and isinstance(task_id, str) and isinstance(args, list) and isinstance(kwargs, dict)):
        raise MessageError("a message of protocol 1 whose task, id, args or kwargs are not what they should be")
    return TaskMessage(
        id=task_id,
        task=task,
        args=args,
        kwargs=kwargs,
        embedded=_embedded(content),
        retries=_count(content, "retries"),
        eta=_time(content, "eta"),
        expires=_time(content, "expires"),
        timelimit=_limits(content.get("timelimit")),
        group=_text(content, "taskset"),
        reply_to=properties.reply_to or None,
        correlation_id=properties.correlation_id,
        priority=properties.priority or 0,
        crashes=_count(headers, CRASHES_HEADER),
        headers={name: value for name, value in headers.items() if name not in _OWN_HEADERS},
    )


def _embedded(embed: Mapping[str, object]) -> Embedded:
    callbacks, errbacks, chain = embed.get("callbacks"), embed.get("errbacks"), embed.get("chain")
    return Embedded(
        callbacks=callbacks if isinstance(callbacks, list) else None,
        errbacks=errbacks if isinstance(errbacks, list) else None,
        chain=chain if isinstance(chain, list) else None,
        chord=embed.get("chord"),
    )


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise MessageError(f"a message whose {name!r} is {value!r}, where text is expected")


def _count(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, int) and value >= 0:
        return value
    raise MessageError(f"a message whose {name!r} is {value!r}, where a whole number is expected")


def _time(fields: Mapping[str, object], name: str) -> datetime | None:
    """Return a time; without an offset it is in UTC, as Celery's were by default."""
    text = _text(fields, name)
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise MessageError(f"a message whose {name!r} is {text!r}, where a time in ISO 8601 is expected") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _limits(value: object) -> tuple[float | None, float | None]:
    match value:
        case [(int() | float() | None) as hard, (int() | float() | None) as soft]:
            return hard, soft
        case None:
            return None, None
        case _:
            raise MessageError(f"a message whose 'timelimit' is {value!r}, where [hard, soft] is expected")
