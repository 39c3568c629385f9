"""The worker: a supervisor that owns the connection and settles deliveries, and children that run user code."""
