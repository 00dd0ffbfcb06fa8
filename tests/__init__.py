"""The test suites, and the servers and models that they need."""
