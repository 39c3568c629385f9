"""What every method of AMQP 0-9-1 is to the rest of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

__all__ = ["Method"]


class Method(ABC):
    """One method with its arguments; two of one class with equal arguments are equal.

    The facts of the protocol's definition are class attributes; the arguments are attributes in the order of the wire.
    """

    __slots__ = ()

    INDEX: ClassVar[tuple[int, int]]
    """Class id and method id."""
    KEY: ClassVar[int]
    """Both in one number, class << 16 | method: the first four bytes of a method frame's payload."""
    NAME: ClassVar[str]
    """As the specification writes it: ``queue.declare-ok``."""
    REPLIES: ClassVar[tuple[str, ...]]
    """Names of the methods that may answer; none: it is asynchronous. With ``no_wait`` set no answer comes."""
    HAS_CONTENT: ClassVar[bool]
    """A content header and a body follow it."""
    FROM_CLIENT: ClassVar[bool]
    """A client may send it."""
    FROM_SERVER: ClassVar[bool]
    """A server may send it."""

    @abstractmethod
    def encode(self) -> bytes:
        """Return the payload of the method's frame: class id, method id, arguments.

        Raises ``LocalProtocolError`` for an argument that does not fit its type, ``EncodingError`` for a table value
        without a form in AMQP.
        """

    @classmethod
    @abstractmethod
    def decode(cls, buffer: bytes, offset: int) -> Self:
        """Decode the arguments, which begin at ``offset`` and end with the buffer.

        Raises ``FrameError`` when they are cut off, or followed by more, and ``MethodSyntaxError`` for an unknown table tag;
        both carry the method's ids.
        """
