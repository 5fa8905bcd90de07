"""The units in deploy/, held against systemd's own tools and against the server's own deadlines."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ladybug.config import Config
from ladybug.link import KILL_MARGIN, longest_stop
from tests.integration.support import DEADLINE, ROOT, server_command

UNITS = ROOT / "deploy" / "systemd"
SERVICE = UNITS / "ladybug.service"
SOCKET = UNITS / "ladybug.socket"
COMMAND = "/srv/ladybug/venv/bin/ladybug"

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: package systemd)"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=DEADLINE)


def version() -> int:
    match = re.match(r"systemd (\d+)", analyze("--version").stdout)
    assert match
    return int(match[1])


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """The units as they would be on a machine of this systemd, where the command exists."""
    text = SERVICE.read_text()
    assert f"ExecStart={COMMAND}\n" in text
    text = text.replace(COMMAND, server_command()[0])
    if version() < 253:
        # What README.md says for older ones.
        text = text.replace("Type=notify-reload\n", "Type=notify\nExecReload=/bin/kill -HUP $MAINPID\n")
    service, socket = tmp_path / SERVICE.name, tmp_path / SOCKET.name
    service.write_text(text)
    socket.write_text(SOCKET.read_text())
    return [str(service), str(socket)]


@needs_analyze
def test_systemd_understands_every_line(installed: list[str]) -> None:
    done = analyze("verify", *installed)
    ours = [line for line in done.stderr.splitlines() if "ladybug." in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@needs_analyze
def test_the_service_is_as_locked_in_as_the_manual_says(installed: list[str]) -> None:
    done = analyze("security", "--offline=true", installed[0])
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is too old to look at files")
    (found,) = re.findall(r"Overall exposure level for ladybug.service: (\d+\.\d)", done.stdout)
    manual = (ROOT / "docs" / "deployment.md").read_text()
    ((low, high),) = re.findall(r"exposure level of (\d\.\d) to (\d\.\d)", manual)
    assert float(low) <= float(found) <= float(high), done.stdout


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names have capitals
    parser.read(SERVICE)
    return parser["Service"]


def test_systemd_waits_for_as_long_as_a_stop_may_take() -> None:
    assert float(service()["TimeoutStopSec"]) > longest_stop(Config("main:app")) + KILL_MARGIN
    assert service()["KillMode"] == "mixed"


def test_the_variables_in_the_unit_are_settings() -> None:
    from ladybug.config import SETTINGS

    known = {row.env for row in SETTINGS}
    given = dict(pair.split("=") for pair in service()["Environment"].split())
    given.pop("PYTHONUNBUFFERED")
    assert set(given) <= known
    # They are validated as the command line does it.
    for row in SETTINGS:
        if row.env in given:
            row.kind(given[row.env])


def test_the_socket_belongs_to_the_service() -> None:
    assert SOCKET.stem == SERVICE.stem
    assert f"Backlog={Config('main:app').backlog}\n" in SOCKET.read_text()
