"""The broker's model, pure: virtual hosts, exchanges, queues, channels and sessions.

State and time come in, effects go out: frames for a session through its ``outbox``, changes to be made durable
through the ``Journal``. No sockets, files, clocks, threads or logging in here; ``leveret.broker.server`` performs the
effects.
"""
