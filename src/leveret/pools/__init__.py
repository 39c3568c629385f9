"""Child processes that run user code, and the supervisor's side of them: jobs in, answers out, nothing about tasks or AMQP."""
