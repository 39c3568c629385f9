"""Both clients over TLS, which a proxy in front of the broker speaks with a certificate of the test's own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Queue
from leveret.amqp.uris import AMQPURL, parse_url
from leveret.client.asynchronous import AsyncClient
from leveret.client.blocking import BlockingClient
from leveret.errors import BrokerUnavailable
from tests.support.brokers import Broker
from tests.support.proxy import Proxy

PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate for 127.0.0.1, signed by itself, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is not installed")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(folder / "key.pem")]
    command = [openssl, "req", "-x509", "-days", "2", *names, *key, "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30.0)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.fixture
def tls_url(broker: Broker, certificate: Path) -> Iterator[AMQPURL]:
    """Put the proxy before the broker; whoever connects must show the certificate as well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with Proxy(parse_url(broker.url), tls=context) as proxy:
        yield proxy.url


def _trusting(url: AMQPURL, certificate: Path) -> AMQPURL:
    return replace(url, query={"cafile": str(certificate), "certfile": str(certificate)})


def test_the_blocking_client_speaks_tls(broker: Broker, tls_url: AMQPURL, certificate: Path) -> None:
    """Small messages, one of many records, and a batch: all confirmed."""
    client = BlockingClient(lambda: [_trusting(tls_url, certificate)])
    queue = Queue(broker.name("tasks"))
    client.declare([queue], PATIENCE_S)
    for size in (0, 10, 3_000_000):
        header = encode_header(size, BasicProperties())
        client.publish("", queue.name, header, b"x" * size, timeout_s=PATIENCE_S)
    header = encode_header(1000, BasicProperties())
    assert client.publish_many([("", queue.name, header, b"x" * 1000)] * 500, timeout_s=PATIENCE_S) == 500
    client.close()


async def test_the_event_loops_client_speaks_tls(broker: Broker, tls_url: AMQPURL, certificate: Path) -> None:
    """A message there and back."""
    client = await AsyncClient.connect(_trusting(tls_url, certificate), on_closed=lambda error: None, timeout_s=PATIENCE_S)
    one = await client.open_channel()
    await one.confirm_select()
    queue = Queue(broker.name("tasks"))
    await one.declare([queue])
    await one.publish("", queue.name, encode_header(3_000_000, BasicProperties()), b"x" * 3_000_000, mandatory=True)
    await client.close()


async def test_a_certificate_nobody_vouches_for_is_refused(tls_url: AMQPURL, certificate: Path) -> None:
    """Without ``cafile`` the system's authorities decide, and they do not know it; nothing is sent to such a server."""
    client = BlockingClient(lambda: [tls_url])
    with pytest.raises(BrokerUnavailable, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        client.reply_queue()
    client.close()
    with pytest.raises(BrokerUnavailable, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        await AsyncClient.connect(tls_url, on_closed=lambda error: None, timeout_s=PATIENCE_S)


def test_verification_can_be_turned_off(tls_url: AMQPURL, certificate: Path) -> None:
    """``verify=false`` takes any server; our own certificate is still shown where it is asked for."""
    url = replace(tls_url, query={"verify": "false", "certfile": str(certificate)})
    client = BlockingClient(lambda: [url])
    assert client.reply_queue()
    client.close()
