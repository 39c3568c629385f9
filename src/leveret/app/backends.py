"""Where an app's broker is and where its results are kept, as its settings say: one answer for producers and workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from leveret.amqp.uris import AMQPURL, parse_urls
from leveret.app.setting import LOCAL_URL, RPC_URL, SQLITE_PREFIX
from leveret.app.settings import Settings

__all__ = ["broker_resolver", "is_local", "result_file"]


def is_local(settings: Settings) -> bool:
    """Tell whether the broker is this user's own on this machine."""
    return settings.broker_url == LOCAL_URL


def broker_resolver(app_name: str, settings: Settings) -> Callable[[], Sequence[AMQPURL]]:
    """Return what a client asks, at every connect, where to connect; a local broker that has gone is started again then."""
    if not is_local(settings):
        urls = parse_urls(settings.broker_url)
        return lambda: urls
    # The local broker brings the whole broker with it (0.1 s to import): a program that never sends does not pay for that.
    from leveret.broker.local import find_or_start  # noqa: PLC0415 - see above

    return lambda: [find_or_start(app_name)]


def result_file(app_name: str, settings: Settings) -> Path | None:
    """Return the file that results are kept in; None: they are sent to the caller's reply queue and kept nowhere."""
    backend = settings.result_backend
    if backend == RPC_URL or (backend is None and not is_local(settings)):
        return None
    if backend is not None:
        return Path(backend.removeprefix(SQLITE_PREFIX)).expanduser()
    from leveret.broker.local import home_folder  # noqa: PLC0415 - as above

    return home_folder() / "results" / f"{quote(app_name, safe='')}.sqlite"
