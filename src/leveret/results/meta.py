"""What a task came to, as Celery's result backends write it: one JSON object, read by its producers and ours.

::

    {"status": "SUCCESS", "result": <value>, "traceback": null, "children": [], "date_done": "2026-...", "task_id": "..."}
    {"status": "FAILURE", "result": {"exc_type", "exc_message": [args...], "exc_module"}, "traceback": "Traceback ...", ...}

and ``group_id`` and ``parent_id``, where the task has them. RETRY, REVOKED and REJECTED look like FAILURE.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from leveret.errors import EncodingError, MessageError, TaskFailed
from leveret.tasks.message import describe
from leveret.tasks.serializers import decode_json, encodable, encode_json
from leveret.tasks.states import FINAL_STATES, State

__all__ = [
    "ResultMeta",
    "decode_meta",
    "encode_failure",
    "encode_success",
    "rebuild_exception",
    "storable_traceback",
    "task_id_and_state",
]

_EXC_ARGS_MAX: Final = 100
_EXC_ARG_SIZE_MAX_BYTES: Final = 1 << 20
_TRACEBACK_CHARS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class ResultMeta:
    """One result, as far as it has been read."""

    task_id: str
    state: State
    result: object = None
    """The value of a success, the description of an exception otherwise."""
    traceback: str | None = None
    date_done: str | None = None

    @property
    def is_final(self) -> bool:
        """Tell whether nothing more comes of the task."""
        return self.state in FINAL_STATES


def encode_success(
    task_id: str, value: object, *, now_s: float, group_id: str | None = None, parent_id: str | None = None
) -> bytes:
    """Encode the result of a task that returned.

    Raises:
        EncodingError: the value has no JSON form.

    """
    return _encode(task_id, State.SUCCESS, encode_json(value), None, now_s, group_id, parent_id)


def encode_failure(
    task_id: str,
    state: State,
    error: BaseException,
    *,
    now_s: float,
    traceback: str | None = None,
    group_id: str | None = None,
    parent_id: str | None = None,
) -> bytes:
    """Encode what is not a success: an exception and its traceback as text.

    Arguments without a JSON form, or with one of more than 1 MiB, become their repr, at most 1,024 characters of it.
    """
    kind = type(error)
    description = {
        "exc_type": kind.__qualname__,
        "exc_message": [_sendable(argument) for argument in _arguments(error)[:_EXC_ARGS_MAX]],
        "exc_module": kind.__module__,
    }
    if traceback is not None:
        traceback = storable_traceback(traceback)
    return _encode(task_id, state, encode_json(description), traceback, now_s, group_id, parent_id)


def storable_traceback(traceback: str) -> str:
    """Return a traceback that can be encoded, the middle of a very long one left out."""
    traceback = encodable(traceback)
    if len(traceback) <= _TRACEBACK_CHARS_MAX:
        return traceback
    half = _TRACEBACK_CHARS_MAX // 2
    left_out = f"... {len(traceback) - 2 * half} characters left out ..."
    return f"{traceback[:half]}\n{left_out}\n{traceback[-half:]}"


def decode_meta(data: bytes) -> ResultMeta:
    """Decode a result, ours or Celery's.

    Raises:
        MessageError: it is none.

    """
    match decode_json(data):
        case {"task_id": str(task_id), "status": str(status), **rest} if status in State.__members__:
            traceback, date_done = rest.get("traceback"), rest.get("date_done")
            return ResultMeta(
                task_id,
                State(status),
                rest.get("result"),
                traceback if isinstance(traceback, str) else None,
                date_done if isinstance(date_done, str) else None,
            )
        case _:
            raise MessageError(f"not a task's result: {data[:200]!r}")


def rebuild_exception(meta: ResultMeta) -> Exception:
    """Return the exception of a task that did not succeed, ready to be raised, the worker's traceback among its notes.

    Its class is looked for among the modules already loaded: nothing is imported because a message says so. A class that is
    not there, not an ``Exception``, or does not take the arguments makes it a ``TaskFailed``.
    """
    exc_module, exc_type, args = _description(meta.result)
    error = _rebuild(exc_module, exc_type, args) or TaskFailed(exc_type, _message(args), meta.traceback)
    error.add_note(f"task {meta.task_id}: {meta.state}" + (f"; in the worker:\n{meta.traceback}" if meta.traceback else ""))
    return error


def task_id_and_state(meta: bytes) -> tuple[str, str]:
    """Return what a store must know of an encoded result, without decoding the value in it.

    Raises:
        MessageError: it is none.

    """
    try:
        keys = _KEYS.decode(meta)
    except msgspec.MsgspecError:  # perhaps only because of a NaN in it
        decoded = decode_meta(meta)
        return decoded.task_id, decoded.state
    return keys.task_id, keys.status


class _Keys(msgspec.Struct):
    task_id: str
    status: str


class _Meta(msgspec.Struct, omit_defaults=True):
    """The object on the wire; keys without a default are always there."""

    status: str
    result: msgspec.Raw
    traceback: str | None
    children: list[str]
    date_done: str | None
    task_id: str
    group_id: str | None = None
    parent_id: str | None = None


_KEYS: Final = msgspec.json.Decoder(_Keys)


def _encode(
    task_id: str,
    state: State,
    result: bytes,
    traceback: str | None,
    now_s: float,
    group_id: str | None,
    parent_id: str | None,
) -> bytes:
    date_done = datetime.fromtimestamp(now_s, UTC).isoformat() if state in FINAL_STATES else None
    return msgspec.json.encode(_Meta(state, msgspec.Raw(result), traceback, [], date_done, task_id, group_id, parent_id))


def _arguments(error: BaseException) -> Sequence[object]:
    """Return what the exception was made of; the args of an OSError leave its file names out, its ``__reduce__`` does not."""
    if isinstance(error, OSError) and type(error).__reduce__ is OSError.__reduce__:
        arguments: Sequence[object] = error.__reduce__()[1]
        return arguments
    return error.args


def _sendable(argument: object) -> object:
    try:
        size_bytes = len(encode_json(argument))
    except EncodingError:
        return encodable(argument) if type(argument) is str else describe(argument)
    return argument if size_bytes <= _EXC_ARG_SIZE_MAX_BYTES else describe(argument)


def _description(result: object) -> tuple[str | None, str, Sequence[object]]:
    """Return an exception's module, qualified name and arguments, as far as they are there."""
    if not isinstance(result, Mapping):
        return None, "an exception that was not described", [result]
    exc_module, exc_type, message = result.get("exc_module"), result.get("exc_type"), result.get("exc_message")
    args = message if isinstance(message, list | tuple) else [message]
    return exc_module if isinstance(exc_module, str) else None, str(exc_type), args


def _rebuild(exc_module: str | None, exc_type: str, args: Sequence[object]) -> Exception | None:
    found: object = sys.modules.get(exc_module) if exc_module else None
    for name in exc_type.split("."):
        found = getattr(found, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    try:
        return found(*args)
    except Exception:  # the class is the user's, and so is whatever its constructor does
        return None


def _message(args: Sequence[object]) -> str:
    return str(args[0]) if len(args) == 1 else ", ".join(map(str, args))
