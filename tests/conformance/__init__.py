"""The AMQP 0-9-1 conformance suite: each test runs on the embedded broker and on RabbitMQ, which is the referee.

One file per section of the protocol. Where versions of RabbitMQ differ, the embedded broker follows 3.13 (``Broker.version``)
and the test says where that is written.
"""
