"""``leveret worker``: the options, checked; the work is ``leveret.worker``'s."""

from __future__ import annotations

import platform

import click

from leveret.errors import ConfigurationError
from leveret.worker.config import WorkerConfig, executor_of
from leveret.worker.worker import run

__all__ = ["worker"]

_EXAMPLES = """\b
Examples:
  leveret worker --app=shop.tasks:app
  leveret worker --app=shop.tasks:app --concurrency=8 --queues=mail,images
  leveret worker -A shop.tasks -P process -c 2 -l debug

\b
Signals:
  SIGTERM, Ctrl-C  warm stop: take no more tasks, give back what has not
                   started, finish what runs; a second one is a cold stop
  SIGQUIT          cold stop: give back what runs, too, and end at once
"""


def _check_pool(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        executor_of(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _split_queues(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(name for part in (value or "").split(",") if (name := part.strip()))
    if value is not None and not names:
        raise click.BadParameter("name at least one queue, or leave the option out for all queues of the app")
    return tuple(dict.fromkeys(names))


@click.command(epilog=_EXAMPLES)
@click.option("-A", "--app", required=True, metavar="MODULE:ATTR", help="The app, as module:attribute or as module.")
@click.option(
    "-P",
    "--pool",
    default="process",
    show_default=True,
    metavar="NAME",
    callback=_check_pool,
    help="How tasks are run; prefork is another name of process.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Tasks at a time.  [default: the app's, or one per processor]",
)
@click.option("-Q", "--queues", metavar="A,B", callback=_split_queues, help="Queues to take from.  [default: all of the app]")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    default="info",
    show_default=True,
    metavar="LEVEL",
    help="debug (each task that succeeds), info, warning, error or critical.",
)
@click.option("-n", "--hostname", metavar="NAME", help="The worker's name.  [default: worker@HOST]")
@click.pass_context
def worker(
    ctx: click.Context,
    *,
    app: str,
    pool: str,
    concurrency: int | None,
    queues: tuple[str, ...],
    loglevel: str,
    hostname: str | None,
) -> None:
    """Run the tasks of an app, until a signal ends it.

    With no broker configured (App("name", broker=...) or LEVERET_BROKER_URL) the worker uses this user's embedded broker, and
    starts it when it is not running.
    """
    config = WorkerConfig(
        app=app,
        pool=pool,
        concurrency=concurrency,
        queues=queues,
        loglevel=loglevel.lower(),
        hostname=hostname or f"worker@{platform.node()}",
    )
    ctx.exit(run(config))
