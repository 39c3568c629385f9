"""What is done to a message without decoding it: a supervisor looks at its name and id, and counts the processes it killed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from leveret.amqp.properties import decode_header, encode_header
from leveret.tasks.message import CRASHES_HEADER

__all__ = ["count_crash", "peek"]

# Octets of a field's value by its tag, for skipping; those not here begin with a size in 4 octets.
_VALUE_SIZES: Final[Mapping[int, int]] = {
    ord(tag): size for tags, size in {"V": 0, "tbB": 1, "su": 2, "Iif": 4, "D": 5, "lLdT": 8}.items() for tag in tags
}
_SIZED_TAGS: Final = frozenset(b"SxAF")


def peek(header: bytes) -> tuple[str | None, str | None]:
    """Return the task's name and id out of a raw content header, as far as they are there: nothing else is decoded."""
    # 1.4 µs for a message of our own, where decode_header takes 9 (CPython 3.11): a supervisor does this once a task.
    task: str | None = None
    task_id: str | None = None
    try:
        flags = header[12] << 8 | header[13]
        if not flags & 0x2000:
            return None, None
        offset = 14
        for flag in (0x8000, 0x4000):  # content_type and content_encoding stand before the headers
            if flags & flag:
                offset += 1 + header[offset]
        end = offset + 4 + int.from_bytes(header[offset : offset + 4])
        offset += 4
        while offset < end and (task is None or task_id is None):
            tag_at = offset + 1 + header[offset]
            name = header[offset + 1 : tag_at]
            tag = header[tag_at]
            start = tag_at + 1
            if tag in _SIZED_TAGS:
                size = int.from_bytes(header[start : start + 4])
                start += 4
            else:
                size = _VALUE_SIZES[tag]
            offset = start + size
            if tag == 83:  # S
                if name == b"task":
                    task = header[start:offset].decode()
                elif name == b"id":
                    task_id = header[start:offset].decode()
    except (IndexError, KeyError, UnicodeDecodeError):
        pass  # Malformed: whoever decodes it says so.
    return task, task_id


def count_crash(header: bytes) -> tuple[bytes, int]:
    """Count one process more that died of a message: return its new content header and the count, this one included.

    Raises:
        AMQPError: a content header that cannot be decoded.

    """
    body_size, properties = decode_header(header)
    headers = properties.headers or {}
    crashes = headers.get(CRASHES_HEADER)
    count = crashes + 1 if isinstance(crashes, int) else 1
    properties.headers = {**headers, CRASHES_HEADER: count}
    return encode_header(body_size, properties), count
