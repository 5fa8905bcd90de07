"""The applications these suites run, raw ASGI and frameworks; imported by the server's process only."""
