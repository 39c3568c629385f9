"""``leveret broker``: serve the embedded broker, and look after the local one."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click

from leveret.broker import local
from leveret.broker.server import BrokerConfig, BrokerServer

__all__ = ["broker"]

EXAMPLES = """\b
Examples:
  leveret broker                                 port 5672, ./leveret-data
  leveret broker --port 5673 --data /var/lib/mq  another port and folder

\b
Without a broker configured, apps start one by themselves; that local broker:
  leveret broker status                          where is it?
  leveret broker stop                            stop it
"""


@click.group(invoke_without_command=True, epilog=EXAMPLES)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Listen here; guest is for this machine only."
)
@click.option("--port", default=5672, show_default=True, type=click.IntRange(0, 65535), metavar="N", help="0 takes a free port.")
@click.option(
    "--data",
    default=Path("leveret-data"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Holds durable queues and persistent messages; made if missing.",
)
@click.option(
    "-l",
    "--loglevel",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    metavar="LEVEL",
    help="debug, info, warning or error.",
)
@click.pass_context
def broker(context: click.Context, host: str, port: int, data: Path, loglevel: str) -> None:
    """Serve the embedded AMQP 0-9-1 broker alone, for any client (guest/guest, from this machine)."""
    if context.invoked_subcommand is not None:
        return
    logging.basicConfig(level=loglevel.upper(), format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(BrokerConfig(host=host, port=port, data=data, owns_process=True)))


def address(host: str, port: int) -> str:
    """Return both as a URL has them; an IPv6 address is in brackets there."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve(config: BrokerConfig) -> None:
    server = BrokerServer(config)
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop_soon)
    host, port = server.address
    assert config.data is not None
    click.echo(f"broker   amqp://guest:guest@{address(host, port)}//  (guest may log in from this machine only)")
    click.echo(f"data     {config.data.resolve()}")
    click.echo("Press Ctrl-C to stop.")
    await server.serve()
    click.echo("stopped; everything durable is on disk")


@broker.command()
def status() -> None:
    """Say where this user's local broker listens and keeps its data."""
    running = local.find()
    if running is None:
        click.echo(f"no local broker is running for {local.home_folder()}; the first app that needs it starts it")
        return
    click.echo(f"process  {running.pid}")
    click.echo(f"address  {address(running.host, running.port)}  (each app has a virtual host of its name)")
    click.echo(f"data     {running.data}")


@broker.command()
def stop() -> None:
    """Stop this user's local broker, which keeps what is durable.

    A worker or another program that still uses it starts it again.
    """
    click.echo("stopped; everything durable is on disk" if local.stop() else "no local broker is running")
