"""What is said to systemd, held against systemd's own tools where they are installed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladybug.exceptions import StartupError
from ladybug.systemd import (
    EXTEND_EVERY,
    MAX_STATUS,
    MOST_UNSENT,
    RETRY,
    SD_LISTEN_FDS_START,
    STATUS_EVERY,
    Notifier,
    take_listen_fds,
)
from tests.integration.support import DEADLINE, ROOT

needs_systemd_notify = pytest.mark.skipif(
    shutil.which("systemd-notify") is None, reason="systemd-notify is not installed"
)


CREDENTIALS = struct.Struct("iii")  # struct ucred: pid, uid, gid


class Manager:
    """systemd's end of the conversation: a datagram socket, bound to `address` ("@..." is abstract).

    main_pid    who is listened to, as with NotifyAccess=main; None: everybody
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.main_pid: int | None = None

    def next(self) -> str:
        while True:
            message, ((_, _, credentials), *_), _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(CREDENTIALS.size))
            pid, _, _ = CREDENTIALS.unpack(credentials)
            if self.main_pid in (None, pid):
                return message.decode()

    def all(self) -> list[str]:
        """What has come by now."""
        messages = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.next())
        self.socket.settimeout(DEADLINE)
        return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@ladybug-tests/{os.getpid()}"
    made = Manager(address)
    with made.socket:
        yield made


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        # Set first, so that what the code under test takes away comes back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("ladybug"), "propagate", True)
    return caplog


# -- what is said


def test_the_life_of_a_service_in_the_words_of_sd_notify(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.starting(100.0)
    notifier.ready("Serving on http://127.0.0.1:8000")
    notifier.status(100.0 + STATUS_EVERY, lambda: "2 workers")
    notifier.reloading(1234.5678912)
    notifier.ready()
    notifier.main_pid(4242)
    notifier.stopping(43.5)
    assert manager.all() == [
        "READY=1\nSTATUS=Serving on http://127.0.0.1:8000",
        "STATUS=2 workers",
        "RELOADING=1\nMONOTONIC_USEC=1234567891",
        "READY=1",
        "MAINPID=4242",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=43500000",
    ]


@needs_systemd_notify
def test_systemd_notify_says_the_same(manager: Manager) -> None:
    # Otherwise it waits until we have closed the file that came with its last message.
    command = ["systemd-notify", "--no-block", "--ready", "--status=two workers", "STOPPING=1"]
    subprocess.run(command, env={**os.environ, "NOTIFY_SOCKET": manager.address}, check=True, timeout=DEADLINE)
    theirs = {line for message in manager.all() for line in message.splitlines() if not line.startswith("MAINPID=")}
    notifier = Notifier(manager.address)
    notifier.ready("two workers")
    notifier.stopping(1)
    ours = {line for message in manager.all() for line in message.splitlines()}
    assert theirs == {"READY=1", "STATUS=two workers", "STOPPING=1"}
    assert theirs == ours - {"EXTEND_TIMEOUT_USEC=1000000"}


def test_the_time_of_a_reload_is_on_the_clock_of_systemd() -> None:
    """notify-reload compares it with CLOCK_MONOTONIC."""
    assert abs(time.monotonic() - time.clock_gettime(time.CLOCK_MONOTONIC)) < 5


def test_a_status_is_one_line_whatever_is_in_it(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready("half\nMAINPID=1\n\ttext")
    notifier.ready("\udce4" + "x" * 10_000)
    half, long = manager.all()
    assert half == "READY=1\nSTATUS=half MAINPID=1 text"
    assert len(long) == len("READY=1\nSTATUS=") + MAX_STATUS


def test_figures_are_told_now_and_then_if_they_are_news_and_nobody_wakes_up_for_them(manager: Manager) -> None:
    notifier = Notifier(manager.address)

    def told(now: float, text: str) -> list[str]:
        notifier.status(now, lambda: text)
        assert notifier.next_deadline() is None
        return manager.all()

    notifier.starting(100.0)
    notifier.ready("Serving")
    assert manager.all() == ["READY=1\nSTATUS=Serving"]
    assert told(100.0, "too early") == []
    now = 100.0 + STATUS_EVERY
    assert told(now, "Serving; 1 request") == ["STATUS=Serving; 1 request"]
    assert told(now + STATUS_EVERY / 2, "too early") == []
    assert told(now + STATUS_EVERY, "Serving; 1 request") == []
    notifier.ready("Serving")  # after a reload, which has said something else
    manager.all()
    assert told(now + 2 * STATUS_EVERY, "Serving; 1 request") == ["STATUS=Serving; 1 request"]


@pytest.mark.parametrize("last", ["stop", "successor"])
def test_after_the_last_word_and_before_the_first_there_are_no_figures(manager: Manager, last: str) -> None:
    notifier = Notifier(manager.address)
    notifier.starting(0.0)
    notifier.status(1e6, lambda: "not ready")
    assert manager.all() == []
    notifier.ready()
    if last == "stop":
        notifier.stopping(1.0)
    else:
        notifier.main_pid(4242)
    manager.all()
    notifier.status(2e6, lambda: "of no interest any more")
    assert manager.all() == []


# -- what time asks for


def healthy() -> bool:
    return True


def sick() -> bool:
    return False


def test_a_start_that_takes_long_asks_for_patience_until_it_is_over(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    assert notifier.next_deadline() is None
    notifier.starting(100.0)
    notifier.tick(100.0, healthy)
    assert manager.all() == []
    for now in (100.0 + EXTEND_EVERY, 100.0 + 2 * EXTEND_EVERY):
        assert notifier.next_deadline() == now
        notifier.tick(now - 0.001, healthy)
        assert manager.all() == []
        notifier.tick(now, healthy)
        assert manager.all() == ["EXTEND_TIMEOUT_USEC=30000000"]
    notifier.ready()
    assert notifier.next_deadline() is None
    notifier.tick(999.0, healthy)
    assert manager.all() == ["READY=1"]


def test_so_does_a_reload(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready()
    notifier.reloading(50.0)
    assert notifier.next_deadline() == 50.0 + EXTEND_EVERY
    notifier.tick(50.0 + EXTEND_EVERY, healthy)
    notifier.ready("still the old one")
    assert notifier.next_deadline() is None
    assert manager.all()[2:] == ["EXTEND_TIMEOUT_USEC=30000000", "READY=1\nSTATUS=still the old one"]


def test_the_watchdog_is_fed_twice_in_its_time_from_ready_on(manager: Manager) -> None:
    notifier = Notifier(manager.address, watchdog=30.0)
    notifier.starting(0.0)
    notifier.tick(5.0, healthy)
    assert manager.all() == []
    notifier.ready()
    notifier.tick(6.0, healthy)
    assert manager.all() == ["READY=1", "WATCHDOG=1"]
    assert notifier.next_deadline() == 21.0
    notifier.tick(20.9, healthy)
    assert manager.all() == []
    notifier.tick(21.0, healthy)
    assert manager.all() == ["WATCHDOG=1"]
    notifier.reloading(22.0)  # which does not stop the watchdog's clock
    notifier.tick(36.0, healthy)
    assert "WATCHDOG=1" in manager.all()


def test_the_watchdog_starves_while_the_fleet_is_sick(manager: Manager, log: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(manager.address, watchdog=2.0)
    notifier.ready()
    now = 10.0
    for is_healthy, fed, complaints in ((healthy, 1, 0), (sick, 0, 1), (sick, 0, 1), (healthy, 1, 1), (sick, 0, 2)):
        manager.all()
        notifier.tick(now, is_healthy)
        assert manager.all().count("WATCHDOG=1") == fed
        assert len([record for record in log.records if "watchdog" in record.message]) == complaints
        now += 1.0


def test_the_watchdog_is_fed_during_a_stop_which_has_its_own_deadline(manager: Manager) -> None:
    notifier = Notifier(manager.address, watchdog=2.0)
    notifier.ready()
    notifier.stopping(43.0)
    notifier.tick(10.0, sick)
    assert manager.all()[-1] == "WATCHDOG=1"


# -- nothing blocks, nothing raises


def test_without_systemd_nothing_is_said_and_nothing_is_due() -> None:
    notifier = Notifier()
    notifier.starting(0.0)
    notifier.ready("text")
    notifier.reloading(1.0)
    notifier.tick(1e9, sick)
    notifier.status(1e9, lambda: pytest.fail("nobody would read it"))
    notifier.stopping(1.0)
    assert notifier.next_deadline() is None
    assert notifier.environment() == {}


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    for address in (str(tmp_path / "nobody"), "@ladybug-tests/nobody", "/" + "x" * 200):
        notifier = Notifier(address, watchdog=1.0)
        notifier.ready()
        notifier.tick(1.0, healthy)
        assert notifier.next_deadline() == 1.5  # nothing is kept for later: there will be nobody


def fill(manager: Manager) -> int:
    """Put as many messages into the manager's queue as the kernel takes."""
    address = "\0" + manager.address[1:] if manager.address[0] == "@" else manager.address
    count = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
        sender.setblocking(False)
        while True:
            sender.sendto(b"STATUS=somebody else", address)
            count += 1
    return count


def test_what_finds_the_queue_full_is_said_later(manager: Manager) -> None:
    before = fill(manager)
    notifier = Notifier(manager.address)
    notifier.ready("late")
    assert notifier.next_deadline() == 0.0
    notifier.tick(10.0, healthy)
    assert notifier.next_deadline() == 10.0 + RETRY
    assert len(manager.all()) == before
    notifier.tick(10.0 + RETRY, healthy)
    assert manager.all() == ["READY=1\nSTATUS=late"]
    assert notifier.next_deadline() is None


def test_a_manager_that_never_reads_costs_a_few_messages_of_memory(manager: Manager) -> None:
    fill(manager)
    notifier = Notifier(manager.address)
    for number in range(1000):
        notifier.ready(str(number))
    manager.all()
    said = []
    while notifier.next_deadline() is not None:
        notifier.tick(1.0, healthy)
        said += manager.all()
    assert said == [f"READY=1\nSTATUS={number}" for number in range(1000 - MOST_UNSENT, 1000)]


def test_no_descriptor_is_left_open(manager: Manager) -> None:
    before = os.listdir("/dev/fd")  # noqa: PTH208
    Notifier(manager.address).ready()
    assert os.listdir("/dev/fd") == before  # noqa: PTH208


# -- the environment


@pytest.mark.usefixtures("_clean")
def test_the_environment_says_whom_to_notify_and_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Notifier.from_environment().address == ""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier.from_environment()
    assert (notifier.address, notifier.watchdog) == ("/run/systemd/notify", 30.0)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    assert notifier.environment() == {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "30000000"}


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_watchdog_may_be_somebody_elses(
    variables: dict[str, str], watchdog: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@x")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Notifier.from_environment().watchdog == watchdog


@pytest.mark.usefixtures("_clean")
def test_an_address_of_another_kind_is_named_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    assert Notifier.from_environment().address == ""
    assert "NOTIFY_SOCKET is neither a path nor an abstract socket" in log.text


# -- socket activation


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize(
    ("variables", "fds"),
    [
        ({}, []),
        ({"LISTEN_FDS": "0", "LISTEN_PID": "us"}, []),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "1"}, []),
        ({"LISTEN_FDS": "2"}, []),
    ],
)
def test_sockets_that_are_not_for_us_are_left_alone(
    variables: dict[str, str], fds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "us" else value)
    monkeypatch.setenv("LISTEN_FDNAMES", "web")
    assert take_listen_fds() == fds
    assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(os.environ)


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize("variables", [("-1", "1"), ("two", "1"), ("2", "x"), ("1.5", "1")])
def test_variables_that_make_no_sense_are_named(variables: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    count, pid = variables
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setenv("LISTEN_PID", pid)
    with pytest.raises(StartupError, match=rf"^LISTEN_FDS={count} and LISTEN_PID={pid} are not the numbers"):
        take_listen_fds()


def test_inherited_sockets_are_found_and_kept_from_programs(tmp_path: Path) -> None:
    program = (
        "import logging, os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "logging.basicConfig(level='INFO', format='%(message)s')\n"
        "from ladybug.systemd import take_listen_fds\n"
        "fds = take_listen_fds()\n"
        "print(fds, [os.get_inheritable(fd) for fd in fds if fd < 5], take_listen_fds())\n"
    )
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(socket.socket()) for _ in range(2)]

        def place() -> None:
            for number, listener in enumerate(listeners):
                os.dup2(listener.fileno(), SD_LISTEN_FDS_START + number)

        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin"},
            preexec_fn=place,
            close_fds=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=DEADLINE,
        )
    assert done.stdout == "[3, 4] [False, False] []\n"
    assert done.stderr == "Listening where systemd does: web (file descriptor 3), admin (file descriptor 4)\n"
