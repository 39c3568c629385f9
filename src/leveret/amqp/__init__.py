"""AMQP 0-9-1 without I/O: the codec, and the conversation as seen from either end.

Nothing here reads a clock, a socket or a random source; what it needs of them comes as arguments.
"""
