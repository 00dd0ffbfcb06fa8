"""A real Apache Kafka for the tests, a client to look into it, and the worker as a process beside it."""
