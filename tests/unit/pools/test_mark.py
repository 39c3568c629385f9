"""The word in which a child notes what it is doing."""

from __future__ import annotations

import os

from leveret.pools.mark import Mark


def test_the_mark_is_shared_by_descriptor() -> None:
    """What one mapping writes, another mapping of the same descriptor reads; it begins at 0."""
    mark = Mark.create()
    other = Mark(os.dup(mark.fd))
    try:
        assert mark.read() == 0
        other.write(2**40)
        assert mark.read() == 2**40
    finally:
        mark.close()
        other.close()
        mark.close()
