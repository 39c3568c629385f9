"""The page that shows the legality tables."""

from __future__ import annotations

from tools.write_protocol_page import PAGE, page


def test_the_page_shows_the_tables_as_they_are() -> None:
    """``docs/protocol.md`` is what ``tools/write_protocol_page.py`` prints."""
    assert PAGE.read_text() == page()
