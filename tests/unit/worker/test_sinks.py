"""Results on their way back to the producer, against a broker that follows a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from leveret.amqp.frames import ack_frame
from leveret.amqp.methods import channel, connection
from leveret.app.executed import ExecutedTask
from leveret.client.asynchronous import AsyncChannel, AsyncClient
from leveret.errors import LeveretError
from leveret.results.meta import decode_meta, encode_success
from leveret.tasks.outcomes import Succeeded
from leveret.tasks.states import State
from leveret.worker.sinks import ReplySink
from tests.unit.client.scripted_broker import Client, Published, ScriptedBroker, confirm_all

PATIENCE_S = 10.0
TOO_LARGE = "PRECONDITION_FAILED - message size 1000 is larger than configured max size 500"
FAR_TOO_LARGE = "FRAME_ERROR - content body size 1000 exceeds maximum allowed size 500"


class Reconnecting:
    """Gives an open channel, on a new connection when the last one is gone, as the worker's connection does."""

    def __init__(self, script: ScriptedBroker) -> None:
        self._script = script
        self._client: AsyncClient | None = None
        self._channel: AsyncChannel | None = None

    async def channel(self) -> AsyncChannel:
        """Return the channel."""
        if self._channel is None or not self._channel.is_open:
            await self.close()
            self._client = await AsyncClient.connect(self._script.url, on_closed=lambda _error: None, timeout_s=PATIENCE_S)
            self._channel = await self._client.open_channel()
            await self._channel.confirm_select()
        return self._channel

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()


@pytest.fixture
def script() -> Iterator[ScriptedBroker]:
    """Run a scripted broker."""
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
async def sink(script: ScriptedBroker) -> AsyncIterator[ReplySink]:
    """Make a sink on it."""
    reconnecting = Reconnecting(script)
    yield ReplySink(reconnecting.channel, wall_s=lambda: 0.0)
    await reconnecting.close()


def succeeded(task_id: str, value: str) -> ExecutedTask:
    """Make the report of a task that returned a value."""
    return ExecutedTask(
        Succeeded(), task_id, "t", meta=encode_success(task_id, value, now_s=0.0), reply_to="back", correlation_id=task_id
    )


@pytest.mark.parametrize(
    "refusal", [channel.Close(406, TOO_LARGE, 60, 40), connection.Close(501, FAR_TOO_LARGE, 60, 40)], ids=["soft", "hard"]
)
@pytest.mark.parametrize("large_first", [True, False])
async def test_a_result_too_large_for_the_broker_becomes_a_failure(
    script: ScriptedBroker, sink: ReplySink, refusal: channel.Close | connection.Close, large_first: bool
) -> None:
    """It is refused once, with its company; from then on the producer hears that it was too large, and why."""
    taken: list[bytes] = []

    def limit(one: Client, message: Published) -> None:
        if len(message.body) > 500:
            one.send(1 if isinstance(refusal, channel.Close) else 0, refusal)
        else:
            taken.append(message.body)
            confirm_all(one, message)

    script.on_publish = limit
    small, large = succeeded("small", "x"), succeeded("large", "x" * 1000)
    with pytest.raises(LeveretError):
        await sink.put([large, small] if large_first else [small, large])
    taken.clear()
    await sink.put([small, large])
    metas = [decode_meta(body) for body in taken]
    assert [(meta.task_id, meta.state) for meta in metas] == [("small", State.SUCCESS), ("large", State.FAILURE)]
    assert isinstance(metas[1].result, dict)
    (text,) = metas[1].result["exc_message"]
    assert "the broker takes messages of 500" in text


async def test_results_nobody_waits_for_are_not_sent(script: ScriptedBroker, sink: ReplySink) -> None:
    """Without an address, or without a result, there is nothing to publish and nothing to wait for."""
    tags: list[int] = []

    def confirm(one: Client, message: Published) -> None:
        tags.append(message.tag)
        one.write(ack_frame(1, message.tag))

    script.on_publish = confirm
    wanted = succeeded("wanted", "x")
    unwanted, ignored = succeeded("unwanted", "x"), succeeded("ignored", "x")
    unwanted.reply_to, ignored.meta = "", None
    await sink.put([unwanted, wanted, ignored])
    assert tags == [1]
