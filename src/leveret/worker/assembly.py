"""The parts of a worker that depend on the app's facts, made and connected to each other."""

from __future__ import annotations

from dataclasses import dataclass

from leveret.amqp.topology import Queue
from leveret.app.backends import broker_resolver, result_file
from leveret.app.settings import Settings
from leveret.clock import SystemClock
from leveret.results.sqlite import SqliteWriter
from leveret.worker.config import WorkerConfig
from leveret.worker.connection import BrokerConnection, ConnectionEvents, ConnectionOptions
from leveret.worker.followups import FollowUps
from leveret.worker.pace import Pace
from leveret.worker.ready import AppFacts
from leveret.worker.settler import Settler
from leveret.worker.sinks import ReplySink, ResultSink, StoreSink
from leveret.worker.supply import Supply

__all__ = ["Parts", "assemble"]


@dataclass(slots=True)
class Parts:
    """What a worker works with once it knows its app."""

    facts: AppFacts
    queues: list[Queue]
    slots: int
    connection: BrokerConnection
    sink: ResultSink
    settler: Settler
    supply: Supply
    results: str
    """Where results go, in words."""


def assemble(facts: AppFacts, config: WorkerConfig, *, slots: int, pace: Pace, events: ConnectionEvents) -> Parts:
    """Make the parts; nothing is connected or opened on disk yet but the result store.

    Raises:
        StorageError: the result store cannot be used.
        ConfigurationError: a URL that cannot be used.

    """
    clock = SystemClock()
    settings = Settings({"broker_url": facts.broker_url, "result_backend": facts.result_backend})
    connection = BrokerConnection(
        ConnectionOptions(
            resolve=broker_resolver(facts.app_name, settings),
            connect_timeout_s=facts.connect_timeout_s,
            heartbeat_s=facts.heartbeat_s,
            client_name=config.hostname,
        ),
        events,
    )
    file = result_file(facts.app_name, settings)
    sink: ResultSink = (
        ReplySink(connection.channel, wall_s=clock.wall_s)
        if file is None
        else StoreSink(SqliteWriter(file, expires_s=facts.result_expires_s))
    )
    follow_ups = FollowUps(connection, monotonic_s=clock.monotonic_s)
    return Parts(
        facts=facts,
        queues=_queues(facts, config),
        slots=slots,
        connection=connection,
        sink=sink,
        settler=Settler(facts, connection=connection, sink=sink, follow_ups=follow_ups, clock=clock),
        supply=Supply(multiplier=facts.prefetch_multiplier, slots=slots, pace=pace),
        results="to the queues of those who wait for them (rpc)" if file is None else str(file),
    )


def _queues(facts: AppFacts, config: WorkerConfig) -> list[Queue]:
    """Return the queues to consume: those asked for, as the app declares them if it knows them, or else all the app names."""
    known = {each.name: each.queue() for each in facts.queues}
    if not config.queues:
        return list(known.values())
    return [known.get(name) or Queue(name, max_priority=facts.queue_max_priority) for name in config.queues]
