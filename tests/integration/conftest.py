"""Fixtures for tests that need one connection to the server their module started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.support import Client, Server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A connection of this test's own to its module's server."""
    with server.connect() as connection:
        yield connection
