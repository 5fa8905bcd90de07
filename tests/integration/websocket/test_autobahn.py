"""The Autobahn testsuite against an echo: every case is right, or tells of what the RFC leaves open.

LADYBUG_AUTOBAHN=full runs all of it (`make autobahn`), otherwise a part that takes a minute. LADYBUG_AUTOBAHN_REPORT is
where its pages go. LADYBUG_TEST_AUTOBAHN is where the testsuite is installed (.venv/autobahn).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import ROOT, Server, serve
from tests.integration.websocket import autobahn
from tests.integration.websocket.peer import APPS

DIRECTORY = Path(os.environ.get("LADYBUG_TEST_AUTOBAHN") or ROOT / ".venv" / "autobahn")
FULL = os.environ.get("LADYBUG_AUTOBAHN") == "full"

# What takes long, by bytes (9) or by the thousand messages of each case (12, 13): a few of each will do every day.
LONG = ("9.*", "12.*", "13.*")
SOME = (
    "9.1.1",
    "9.2.2",
    "9.3.4",
    "9.5.6",
    "9.7.2",
    "12.1.1",
    "12.2.3",
    "12.3.10",
    "13.1.1",
    "13.3.2",
    "13.5.3",
    "13.7.4",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(f"{APPS}.scenarios:app", "--no-access-log", "--ws-max-size", str(1 << 25)) as running:
        yield running


@pytest.mark.skipif(
    not autobahn.is_installed(DIRECTORY),
    reason=f"the Autobahn testsuite is not in {DIRECTORY}; `make autobahn` puts it there, if it finds a Python 2.7",
)
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_case_is_right(server: Server, tmp_path: Path) -> None:
    report = Path(os.environ.get("LADYBUG_AUTOBAHN_REPORT") or tmp_path)
    url = f"ws://127.0.0.1:{server.port}/echo"
    cases = autobahn.run(DIRECTORY, url, ["*"], () if FULL else LONG, report / "all")
    if not FULL:
        cases += autobahn.run(DIRECTORY, url, SOME, (), report / "some")
    sys.stdout.write("\n" + autobahn.summary(cases) + "\n")
    wrong = [case for case in cases if not case.passed]
    assert wrong == []
    assert len(cases) >= (500 if FULL else 247 + len(SOME)), "cases are missing"
