"""Fixtures of the tests that operate a fleet while clients use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.fleet import Control


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)
