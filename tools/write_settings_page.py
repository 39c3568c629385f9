"""Write docs/settings.md from the settings themselves: ``python tools/write_settings_page.py``; a test compares."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from leveret.app.settings import NOT_YET, Settings

PAGE: Final = Path(__file__).parent.parent / "docs" / "settings.md"

_INTRODUCTION: Final = """\
# Settings

<!-- Written by tools/write_settings_page.py: change the settings, not this page. -->

`app.conf` holds an app's settings: `app.conf.task_acks_late = False`, or several at once with `app.conf.update(...)`. Names
and meanings are Celery's wherever Celery has the thing; where a default differs, it differs because Celery's loses work, and
the table says so. A name that does not exist and a value that cannot be are errors at once. The first call that is sent, the
first result that is asked for, or a worker's start freezes them.

| setting | default | meaning |
|---|---|---|
"""

_REFUSED: Final = """
## Not available yet

Settings of Celery's that nothing in this version obeys. Setting one is an error, so that nobody relies on it by mistake:

"""


def page() -> str:
    """Return the whole page."""
    rows = [f"| `{name}` | `{setting.default!r}` | {setting.doc} |\n" for name, setting in Settings.known().items()]
    return _INTRODUCTION + "".join(rows) + _REFUSED + ", ".join(f"`{name}`" for name in sorted(NOT_YET)) + ".\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
