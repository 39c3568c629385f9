"""The broker's core and its storage against a naive model of queues, with commits and restarts at any moment.

The model is what docs/architecture.md promises, the obvious way: a queue is a sorted list, the disk is a copy of the lists made
when a batch was handed over. Which of several consumers gets a message is free; everything else must be as in the model.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leveret.amqp.methods import basic, queue
from leveret.broker.storage.sqlite import SQLiteStorage
from tests.support.core import Confirmed, CoreBroker, CoreClient, Delivered

# name: (durable, arguments). What is rejected from "fifo" goes to "letters"; "left" and "right" are bound to a fanout.
QUEUES: dict[str, tuple[bool, dict[str, Any]]] = {
    "fifo": (True, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters"}),
    "letters": (True, {}),
    "priority": (True, {"x-max-priority": 3}),
    "transient": (False, {}),
    "left": (True, {}),
    "right": (True, {}),
}
CLIENTS = 2
CHANNELS = (1, 2)
LIMITED = 2
"""The channel that begins with prefetch limits: two of each consumer, three together."""


@dataclass
class Item:
    """A message in one queue."""

    id: int
    position: int
    priority: int
    persistent: bool
    redelivered: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """What orders a queue."""
        return -self.priority, self.position


@dataclass
class QueueModel:
    """Ready messages in order, and those that are out."""

    name: str
    ready: list[Item] = field(default_factory=list)
    out: list[Item] = field(default_factory=list)
    next_position: int = 1

    def add(self, id_: int, priority: int, persistent: bool) -> None:
        """Append a new message."""
        top = QUEUES[self.name][1].get("x-max-priority", 0)
        self.ready.append(Item(id_, self.next_position, min(priority, top), persistent))
        self.next_position += 1
        self.ready.sort(key=lambda item: item.place)

    def give_back(self, item: Item) -> None:
        """Put a message that was out to its original position."""
        self.out.remove(item)
        item.redelivered = True
        self.ready.append(item)
        self.ready.sort(key=lambda item: item.place)


@dataclass
class ConsumerModel:
    """One consumer."""

    queue: str
    prefetch: int
    no_ack: bool
    held: int = 0
    last_place: tuple[int, int] = (-9, 0)
    """Of what it got in this turn."""


@dataclass
class ChannelModel:
    """One channel, in confirm mode."""

    consumers: dict[str, ConsumerModel] = field(default_factory=dict)
    unacked: dict[int, tuple[str, Item, ConsumerModel | None]] = field(default_factory=dict)
    prefetch: int = 0
    shared: int = 0
    batches: list[int] = field(default_factory=list)
    """For each publish the batch it waits for, 0 for none."""
    confirmed: int = 0

    def is_full(self, consumer: ConsumerModel) -> bool:
        """Tell whether a consumer may take no more."""
        if consumer.no_ack:
            return False
        if consumer.prefetch and consumer.held >= consumer.prefetch:
            return True
        return bool(self.shared) and sum(holder is not None for _, _, holder in self.unacked.values()) >= self.shared


class QueueMachine(RuleBasedStateMachine):
    """Steps of clients, of the disk, and ends of the broker."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="leveret-model-"))
        self.queues = {name: QueueModel(name) for name in QUEUES}
        self.unwritten: list[dict[str, list[Item]]] = []
        """What each batch handed over makes of the disk."""
        self.disk: dict[str, list[Item]] = {}
        self.last_id = 0
        self.last_tag = 0
        self._open_broker()

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.broker.crash()
        shutil.rmtree(self.folder)

    def _open_broker(self) -> None:
        self.broker = CoreBroker(SQLiteStorage(self.folder))
        self.channels = {(client, channel): ChannelModel() for client in range(CLIENTS) for channel in CHANNELS}
        self.clients = [self.broker.connect() for _ in range(CLIENTS)]
        for number in range(CLIENTS):
            self.clients[number].open(2)
            for channel in CHANNELS:
                self._start_channel(number, channel)

    def _start_channel(self, client: int, channel: int) -> None:
        self.clients[client].confirm_select(channel)
        self.channels[client, channel] = ChannelModel()
        if channel == LIMITED:
            self._qos((client, channel), 2, False)
            self._qos((client, channel), 3, True)

    @initialize()
    def declare(self) -> None:
        """Make the topology, and wait until it is on disk."""
        client = self.clients[0]
        for name, (durable, arguments) in QUEUES.items():
            client.declare(name, durable=durable, arguments=arguments)
        for name in ("left", "right"):
            client.bind(name, "amq.fanout")
        client.declare("exclusive", exclusive=True, durable=True)
        self._turn()
        self.commit(None)

    # --------------------------------------------------------------------------------------------- the comparison

    def _turn(self) -> None:
        """Let the broker work, and check all that it sends against the model."""
        handed_over = len(self.broker.unwritten)
        self.broker.turn()
        delivered: dict[str, list[Item]] = {name: [] for name in QUEUES}
        for number, client in enumerate(self.clients):
            for effect in client.take():
                if isinstance(effect, Delivered):
                    self._check_delivery(number, effect, delivered)
                else:
                    assert isinstance(effect, Confirmed)
                    self._check_confirm(self.channels[number, effect.channel], effect)
        for name, items in delivered.items():
            model = self.queues[name]
            # First in, first out: what went out was the front of the line, whoever got it (I4).
            assert sorted(items, key=lambda item: item.place) == model.ready[: len(items)]
            del model.ready[: len(items)]
        if len(self.broker.unwritten) > handed_over:
            self.unwritten.append(self._durable_state())
        for channel in self.channels.values():
            for consumer in channel.consumers.values():
                consumer.last_place = ConsumerModel.last_place
                # Nobody waits while there is work for it.
                assert channel.is_full(consumer) or not self.queues[consumer.queue].ready

    def _check_delivery(self, client: int, effect: Delivered, delivered: dict[str, list[Item]]) -> None:
        channel = self.channels[client, effect.channel]
        consumer = channel.consumers[effect.consumer_tag]
        assert not channel.is_full(consumer)
        model = self.queues[consumer.queue]
        item = next(item for item in model.ready if item.id == int(effect.body))  # it was published, and is there (I2)
        assert effect.redelivered is item.redelivered  # (I3)
        assert consumer.last_place < item.place
        consumer.last_place = item.place
        delivered[model.name].append(item)
        if not consumer.no_ack:
            model.out.append(item)
            consumer.held += 1
            channel.unacked[effect.tag] = (model.name, item, consumer)

    def _check_confirm(self, channel: ChannelModel, effect: Confirmed) -> None:
        assert effect.tag > channel.confirmed
        assert effect.multiple is (effect.tag > channel.confirmed + 1)
        for batch in channel.batches[channel.confirmed : effect.tag]:
            assert batch <= self.broker.core.committed  # a confirm means: on disk (I1)
        channel.confirmed = effect.tag

    def _durable_state(self) -> dict[str, list[Item]]:
        """Copy what must be on disk when everything handed over is."""
        return {
            name: sorted((copy.copy(item) for item in model.ready + model.out if item.persistent), key=lambda item: item.place)
            for name, model in self.queues.items()
            if QUEUES[name][0]
        }

    @invariant()
    def ready_counts_agree(self) -> None:
        """After each step broker and model hold the same messages, in the same order."""
        for name, model in self.queues.items():
            assert [int(body) for body in self.broker.ready(name)] == [item.id for item in model.ready]
            assert self.broker.core.vhosts["/"].queues[name].unacked_count == len(model.out)

    # ----------------------------------------------------------------------------------------------- publishing

    where = st.tuples(st.integers(0, CLIENTS - 1), st.sampled_from(CHANNELS))
    which = st.sampled_from(["fifo", "priority", "left", *QUEUES])

    @rule(
        at=where,
        to=st.sampled_from(["fifo", "priority", *["fanout"] * 3, *QUEUES, "nowhere"]),
        messages=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=6),
    )
    def publish(self, at: tuple[int, int], to: str, messages: list[tuple[bool, int]]) -> None:
        """Publish some messages in one turn."""
        channel = self.channels[at]
        reached = {"fanout": ["left", "right"], "nowhere": []}.get(to, [to])
        for persistent, priority in messages:
            self.last_id += 1
            self.clients[at[0]].publish(
                to,
                b"%d" % self.last_id,
                exchange_name="amq.fanout" if to == "fanout" else "",
                channel=at[1],
                persistent=persistent,
                priority=priority,
            )
            for name in reached:
                self.queues[name].add(self.last_id, priority, persistent)
            stored = persistent and any(QUEUES[name][0] for name in reached)
            channel.batches.append(self.broker.core.journal.batch_id if stored else 0)
        self._turn()

    # ------------------------------------------------------------------------------------------------ consuming

    def _qos(self, at: tuple[int, int], limit: int, shared: bool) -> None:
        channel = self.channels[at]
        if shared:
            channel.shared = limit
        else:
            channel.prefetch, channel.shared = limit, 0
        client = self.clients[at[0]]
        client.send(basic.Qos(prefetch_count=limit, global_=shared), at[1])
        self._drop_reply(client)
        self._turn()

    @rule(at=where, name=which, no_ack=st.booleans())
    def consume(self, at: tuple[int, int], name: str, no_ack: bool) -> None:
        """Start a consumer."""
        channel = self.channels[at]
        self.last_tag += 1
        tag = f"t{self.last_tag}"
        channel.consumers[tag] = ConsumerModel(name, channel.prefetch, no_ack)
        self.clients[at[0]].consume(name, tag, at[1], no_ack=no_ack)
        self._turn()

    def _cancel(self, at: tuple[int, int], tag: str) -> None:
        del self.channels[at].consumers[tag]
        client = self.clients[at[0]]
        client.send(basic.Cancel(consumer_tag=tag), at[1])
        self._drop_reply(client)
        self._turn()

    @rule(client=st.integers(0, CLIENTS - 1), name=which, no_ack=st.booleans())
    def get(self, client: int, name: str, no_ack: bool) -> None:
        """Fetch the next message, which the model knows."""
        model, channel = self.queues[name], self.channels[client, 1]
        self._turn()
        got = self.clients[client].get(name, no_ack=no_ack)
        if got is None:
            assert not model.ready
            return
        assert isinstance(got.method, basic.GetOk)
        item = model.ready.pop(0)
        assert (int(got.body), got.method.redelivered, got.method.message_count) == (item.id, item.redelivered, len(model.ready))
        if not no_ack:
            model.out.append(item)
            channel.unacked[got.method.delivery_tag] = (name, item, None)
        self._note_batch()
        self._turn()

    # ------------------------------------------------------------------------------------------------- settling

    @precondition(lambda self: any(channel.unacked for channel in self.channels.values()))
    @rule(data=st.data(), how=st.sampled_from(["ack", "requeue", "discard"]))
    def settle_one_delivery(self, data: st.DataObject, how: str) -> None:
        """Settle one delivery."""
        self._settle(data, False, how)

    @precondition(lambda self: any(channel.unacked for channel in self.channels.values()))
    @rule(data=st.data(), how=st.sampled_from(["ack", "requeue", "discard"]))
    def settle_several_deliveries(self, data: st.DataObject, how: str) -> None:
        """Settle all deliveries up to one, or all."""
        self._settle(data, True, how)

    def _settle(self, data: st.DataObject, multiple: bool, how: str) -> None:
        at = data.draw(st.sampled_from([at for at, channel in self.channels.items() if channel.unacked]))
        channel, client = self.channels[at], self.clients[at[0]]
        tag = data.draw(st.sampled_from(list(channel.unacked) + [0] * multiple))
        if how == "ack":
            client.ack(tag, multiple=multiple, channel=at[1])
        else:
            client.nack(tag, requeue=how == "requeue", multiple=multiple, channel=at[1])
        settled = [each for each in channel.unacked if not tag or each <= tag] if multiple else [tag]
        for each in settled:
            self._settle_one(channel, each, how)
        self._turn()

    def _settle_one(self, channel: ChannelModel, tag: int, how: str) -> None:
        name, item, consumer = channel.unacked.pop(tag)
        if consumer is not None:
            consumer.held -= 1
        if how == "requeue":
            self.queues[name].give_back(item)
            return
        self.queues[name].out.remove(item)
        if how == "discard" and name == "fifo":
            self.queues["letters"].add(item.id, item.priority, item.persistent)

    def _purge(self, client: int, name: str) -> None:
        model = self.queues[name]
        self._turn()
        purged = self.clients[client].call(queue.Purge(queue=name), queue.PurgeOk)
        assert purged.message_count == len(model.ready)
        model.ready.clear()
        self._note_purge()
        self._turn()

    @rule(data=st.data())
    def do_something_rare(self, data: st.DataObject) -> None:
        """One rule for all that is done now and then; a rule for each would leave little time to work."""
        at = data.draw(self.where)
        match data.draw(
            st.sampled_from(["qos", "qos", "cancel", "purge", "close channel", "reconnect", "crash", "crash", "stop"])
        ):
            case "qos":
                self._qos(at, data.draw(st.integers(0, 3)), data.draw(st.booleans()))
            case "cancel" if consumers := self.channels[at].consumers:
                self._cancel(at, data.draw(st.sampled_from(list(consumers))))
            case "purge":
                self._purge(at[0], data.draw(self.which))
            case "close channel":
                self._close_channel(at)
            case "reconnect":
                self._reconnect(at[0])
            case "crash":
                self._crash()
            case "stop":
                self._stop()

    # ---------------------------------------------------------------------------------------------------- ends

    def _close_channel(self, at: tuple[int, int]) -> None:
        client = self.clients[at[0]]
        client.close_channel(at[1])
        self._forget_channel(at)
        client.open(at[1])
        self._turn()
        self._start_channel(*at)

    def _reconnect(self, client: int) -> None:
        self.clients[client].close()
        for channel in CHANNELS:
            self._forget_channel((client, channel))
        self.clients[client] = self.broker.connect()
        self.clients[client].open(2)
        self._turn()
        for channel in CHANNELS:
            self._start_channel(client, channel)

    def _forget_channel(self, at: tuple[int, int]) -> None:
        channel = self.channels[at]
        for tag in list(channel.unacked):
            self._settle_one(channel, tag, "requeue")
        self.channels[at] = ChannelModel()

    @rule(count=st.sampled_from([1, 2, None]))
    def commit(self, count: int | None) -> None:
        """The disk writes some of what was handed over; once it has written all, everything published is confirmed."""
        self.broker.commit(count)
        self._note_commit(len(self.unwritten) if count is None else count)
        self._turn()
        if not self.unwritten:
            assert all(channel.confirmed == len(channel.batches) for channel in self.channels.values())

    def _note_commit(self, count: int) -> None:
        for state in self.unwritten[:count]:
            self.disk = state
        del self.unwritten[:count]

    def _note_batch(self) -> None:
        """Note a batch that was handed over inside a call of the client."""
        if len(self.broker.unwritten) > len(self.unwritten):
            self.unwritten.append(self._durable_state())

    def _note_purge(self) -> None:
        # The client waited until the purge was on disk, and so for all that came before.
        self._note_batch()
        self._note_commit(len(self.unwritten) - len(self.broker.unwritten))
        if not self.broker.unwritten:
            self.disk = self._durable_state()
            self.unwritten.clear()

    def _drop_reply(self, client: CoreClient) -> None:
        client.session.outbox.pop(0)

    def _crash(self) -> None:
        """What is on disk comes back, all of it redelivered; the rest is lost (I1, I3, I5, I6)."""
        self.broker.crash()
        recovered = copy.deepcopy(self.disk)
        for items in recovered.values():
            for item in items:
                item.redelivered = True
        self._restart(recovered)

    def _stop(self) -> None:
        """After a clean stop everything durable comes back as it was, with exact flags."""
        for at in self.channels:
            self._forget_channel(at)
        recovered = self._durable_state()
        self.broker.stop()
        self.disk = copy.deepcopy(recovered)
        self._restart(recovered)

    def _restart(self, recovered: dict[str, list[Item]]) -> None:
        self.unwritten.clear()
        self._open_broker()
        assert set(self.broker.core.vhosts["/"].queues) == {name for name, (durable, _) in QUEUES.items() if durable}
        for name, model in self.queues.items():
            items = recovered.get(name, [])
            model.ready, model.out = items, []
            model.next_position = max([item.position for item in items], default=0) + 1
        self.clients[0].declare("transient")
        self._turn()
        assert not self.broker.unwritten  # a restart changes nothing on disk


TestQueues = QueueMachine.TestCase
TestQueues.settings = settings(max_examples=70, stateful_step_count=40, deadline=None)
