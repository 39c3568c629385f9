"""Where the broker keeps what is durable: the ``Storage`` interface, SQLite, and memory."""
