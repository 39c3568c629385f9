"""Leveret: distributed workers for Python over AMQP 0-9-1."""
