"""The embedded AMQP 0-9-1 broker: a pure core, its storage, and the asyncio server around them."""
