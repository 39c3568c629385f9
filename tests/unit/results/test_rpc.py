"""Results over AMQP, on a real broker: what workers publish to the reply queue reaches whoever waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.uris import parse_url
from leveret.client.blocking import BlockingClient
from leveret.errors import BrokerUnavailable
from leveret.results.meta import encode_failure, encode_success
from leveret.results.rpc import ReplyReader
from leveret.tasks.states import State
from tests.support.embedded import EmbeddedBroker
from tests.support.processes import free_port


@pytest.fixture
def client(embedded_broker: EmbeddedBroker) -> Iterator[BlockingClient]:
    """Connect a producer."""
    client = BlockingClient(lambda: [parse_url(embedded_broker.url())])
    yield client
    client.close()


def reply(client: BlockingClient, task_id: str, meta: bytes) -> None:
    """Publish a result as a worker does."""
    properties = BasicProperties(content_type="application/json", content_encoding="utf-8", correlation_id=task_id)
    client.publish("", client.reply_queue(), encode_header(len(meta), properties), meta, timeout_s=5)


def test_a_reply_reaches_the_watch_that_waits(client: BlockingClient) -> None:
    """The value that was published is the value that is read, by a wait that began before."""
    watch = ReplyReader(client).watch(["a"])
    assert watch.next(0) == []
    thread = threading.Thread(target=reply, args=(client, "a", encode_success("a", {"x": 1}, now_s=0)))
    thread.start()
    (meta,) = watch.next(30)
    thread.join()
    assert (meta.task_id, meta.state, meta.result) == ("a", State.SUCCESS, {"x": 1})
    assert watch.next(None) == []  # none is left: no wait


def test_states_before_the_end_are_passed_over(client: BlockingClient) -> None:
    """A retry's state does not end the wait, alone or among others; results come in any order."""
    watch = ReplyReader(client).watch(["a", "b"])
    reply(client, "a", encode_failure("a", State.RETRY, ValueError("again"), now_s=0))
    assert watch.next(0.2) == []
    reply(client, "b", encode_success("b", 2, now_s=0))
    assert [meta.task_id for meta in watch.next(30)] == ["b"]
    reply(client, "a", encode_failure("a", State.RETRY, ValueError("again"), now_s=0))
    reply(client, "a", encode_success("a", 1, now_s=0))
    assert [meta.result for meta in watch.next(30)] == [1]


def test_the_latest_state_is_given_out_once(client: BlockingClient) -> None:
    """Nothing is kept anywhere: what was read is the reader's to keep."""
    reader = ReplyReader(client)
    assert reader.latest("a") is None
    reply(client, "a", encode_failure("a", State.RETRY, ValueError("again"), now_s=0))
    reply(client, "a", encode_success("a", 1, now_s=0))
    watch = reader.watch(["b"])
    reply(client, "b", encode_success("b", 2, now_s=0))
    assert len(watch.next(30)) == 1  # and so what was published before has come too
    latest = reader.latest("a")
    assert latest is not None
    assert latest.state is State.SUCCESS
    assert reader.latest("a") is None


def test_a_wait_without_broker_ends_in_time_with_its_reason() -> None:
    """An unreachable broker is an error when the time is over, not a silent absence of results."""
    url = parse_url(f"amqp://127.0.0.1:{free_port()}")
    client = BlockingClient(lambda: [url], connect_timeout_s=1)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
        ReplyReader(client).watch(["a"]).next(0.1)
    client.close()
