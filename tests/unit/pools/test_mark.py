"""The word in which a child notes what it is doing."""

from __future__ import annotations

import os

from leveret.pools.mark import Mark
from leveret.pools.process import new_mark


def test_the_mark_is_shared_by_descriptor() -> None:
    """What one mapping writes, another mapping of the same descriptor reads; it begins at 0."""
    mark = new_mark()
    other = Mark(os.dup(mark.fd))
    try:
        assert mark.read() == 0
        other.write(2**40)
        assert mark.read() == 2**40
    finally:
        mark.close()
        other.close()
        mark.close()
