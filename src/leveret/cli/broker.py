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
  leveret broker                                   serve 127.0.0.1:5672, data in ./leveret-data
  leveret broker --port 5673 --data /var/lib/mq    another port and folder
  leveret broker status                            where is the local broker that apps start by themselves?
  leveret broker stop                              stop that one
"""


@click.group(invoke_without_command=True, epilog=EXAMPLES)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; guest may log in from this machine only."
)
@click.option(
    "--port", default=5672, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."
)
@click.option(
    "--data",
    default=Path("leveret-data"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for durable queues and persistent messages; made if missing.",
)
@click.option("--loglevel", "-l", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"]))
@click.pass_context
def broker(context: click.Context, host: str, port: int, data: Path, loglevel: str) -> None:
    """Serve the embedded AMQP 0-9-1 broker alone, for any client (guest/guest, from this machine)."""
    if context.invoked_subcommand is not None:
        return
    logging.basicConfig(level=loglevel.upper(), format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(BrokerConfig(host=host, port=port, data=data, owns_process=True)))


async def _serve(config: BrokerConfig) -> None:
    server = BrokerServer(config)
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop_soon)
    host, port = server.address
    assert config.data is not None
    click.echo(f"broker   amqp://guest:***@{host}:{port}/  (user guest, password guest, from this machine only)")
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
    click.echo(f"address  {running.url('app').safe}")
    click.echo(f"data     {running.data}")


@broker.command()
def stop() -> None:
    """Stop this user's local broker; durable queues and persistent messages are kept."""
    click.echo("stopped" if local.stop() else "no local broker is running")
