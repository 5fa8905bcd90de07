"""The applications under the integration suites; each is served by a process of its own."""
