"""The figures of a fleet's life: what clients notice of reloads, upgrades, blocked workers, kills and stops.

Usage:
    python -m benchmarks.lifecycle                              every scenario but `watching`, on this environment's ladybug
    python -m benchmarks.lifecycle blocked stop                 some of them
    python -m benchmarks.lifecycle slow-reload blocked --peers /path/to/venv/bin      beside what is installed there
    LADYBUG_TEST_COMMAND=/path/to/ladybug python -m benchmarks.lifecycle              another build
    python -m benchmarks.lifecycle watching                     what heartbeats and steering cost; needs a quiet machine

Wanted is what Ladybug owes; a line that misses it says so, and the exit code is then 1. The servers are started, watched and
asked as the integration tests do it, with two workers where nothing else is said. Needs Linux and the packages of the tests.
"""

import argparse
import contextlib
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import psutil

from benchmarks.arrivals import Arrivals, Summary, summary
from benchmarks.servers import free_port
from tests.integration.fleet import Control, Load, children_of, is_gone, workers_of
from tests.integration.support import (
    ROOT,
    Client,
    Program,
    Server,
    Truncated,
    eventually,
    request_bytes,
    serve,
    server_command,
)
from tests.integration.websocket import peer

APP = "benchmarks.apps.lifecycle:app"
# Boots as it is told: see there.
ACTING_APP = "tests.integration.apps.processes:app"
HERE = Path(__file__).parent

PATIENCE = 60.0  # seconds for whatever a scenario waits for
STEADY = 10.0  # seconds in which nothing happens, to compare with
SLOW_START = 7.0
BLOCK = 10.0
# New connections a second: while a worker is blocked 200 in all; a rate at which a reload can be looked at; and a flood.
FEW, SOME, MANY = 20.0, 200.0, 2000.0
# An application that says which version of it answers, and how many there are to be.
CHANGING = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    length = (b"content-length", b"%d" % len(b"{0}"))
    await send({{"type": "http.response.start", "status": 200, "headers": [length]}})
    await send({{"type": "http.response.body", "body": b"{0}"}})
"""
CHANGES = 10


@dataclass(frozen=True)
class Finding:
    """One line of the table. `met` is None where nothing is owed: a peer's, or only to know."""

    figure: str
    value: str
    wanted: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Lab:
    """Where a scenario runs."""

    board: Path
    peers: Path | None

    @property
    def control(self) -> Control:
        return Control(self.board)

    def ladybug(
        self, *options: str, app: str = APP, workers: int = 2, env: Mapping[str, str] | None = None
    ) -> contextlib.AbstractContextManager[Server]:
        """Ladybug, serving."""
        environment = {"CONTROL": str(self.board), "BOARD": str(self.board), **(env or {})}
        return serve(app, "--no-access-log", *options, workers=workers, env=environment)


@dataclass(frozen=True)
class Rival:
    """A server to compare with, serving with two workers; `pid` is its master's."""

    name: str
    port: int
    pid: int


# -- what clients notice of operations


def load_on(server: Server) -> Load:
    return Load(server, closing=3, keeping=3, streaming=2, uploading=2)


def logged(server: Server, text: str, times: int) -> None:
    eventually(lambda: server.output.text().count(text) >= times, f"{text!r} in the log", PATIENCE)


def repeat(server: Server, number: signal.Signals, text: str, times: int) -> None:
    """The same signal again and again, each time until the log says `text`."""
    before = server.output.text().count(text)
    for done in range(times):
        server.signal(number)
        logged(server, text, before + done + 1)
        time.sleep(0.5)


def operations(lab: Lab) -> Iterator[Finding]:
    """Requests that fail or come back truncated, of ten clients: new connections, kept ones, streams and uploads."""

    def count(name: str, act: Callable[[Server], None], *options: str) -> Finding:
        with lab.ladybug(*options, app=ACTING_APP) as server, load_on(server) as load:
            load.wait_for_answers(50)
            act(server)
            load.wait_for_answers(50)
        return Finding(name, f"{len(load.failures)} of {len(load.answers)} failed", "0", not load.failures)

    def more_and_fewer(server: Server) -> None:
        for number, size in ((SIGTTIN, 3), (SIGTTIN, 4), (SIGTTOU, 3), (SIGTTOU, 2)) * 2:
            server.signal(number)
            eventually(lambda: len(workers_of(server)) == size, f"{size} workers", PATIENCE)  # noqa: B023 - called here
        time.sleep(4.0)  # until the listeners are closed

    def fat(server: Server) -> None:
        for times in (1, 2, 3):
            while server.output.text().count("holds more memory than --limit-worker-rss") < times:
                server.request("/grow")
                time.sleep(1.0)

    def reopened(server: Server) -> None:
        for _ in range(20):
            server.signal(SIGUSR1)
            time.sleep(0.1)

    yield count("HUP, 5 times", lambda server: repeat(server, SIGHUP, "INFO:     Reloaded", 5))
    yield count("TTIN, TTIN, TTOU, TTOU, twice", more_and_fewer)
    yield count("USR1, 20 times", reopened)
    yield count(
        "recycled by requests", lambda server: logged(server, "number of requests", 6), "--limit-max-requests", "500"
    )
    yield count("recycled by age", lambda server: logged(server, "has served for", 6), "--limit-worker-lifetime", "2")
    yield count("recycled by memory", fat, "--limit-worker-rss", str(150 << 20))
    yield upgrades(lab)
    yield kills(lab)


def upgrades(lab: Lab) -> Finding:
    """USR2; the process that we started leaves, so its successor is stopped by its pid file."""
    pid_file = lab.board / "pid"
    environment = {"CONTROL": str(lab.board)}
    server = Server(ACTING_APP, "--no-access-log", "--pid-file", str(pid_file), workers=2, env=environment)
    try:
        server.wait_until_listening()
        with load_on(server) as load:
            for _ in range(3):
                load.wait_for_answers(50)
                master = int(pid_file.read_text())
                os.kill(master, SIGUSR2)
                eventually(lambda: is_gone(master), "the old master to leave", PATIENCE)  # noqa: B023 - called here
            load.wait_for_answers(50)
        os.kill(int(pid_file.read_text()), SIGTERM)
        server.output.wait_until_closed()
    finally:
        server.kill()
    return Finding("USR2, 3 times", f"{len(load.failures)} of {len(load.answers)} failed", "0", not load.failures)


def kills(lab: Lab) -> Finding:
    """KILL for a worker. Who was in it cannot be saved: at most every client, and none that comes later."""
    times = 5
    late: list[float] = []
    with lab.ladybug(app=ACTING_APP) as server, load_on(server) as load:
        for number in range(times):
            load.wait_for_answers(50)
            failed = len(load.failures)
            os.kill(min(workers_of(server).values()), SIGKILL)
            at = time.monotonic()
            logged(server, ") is ready", number + 1)
            load.wait_for_answers(50)
            # An upload notices when it next sends.
            late += [failure.at for failure in load.failures[failed:] if failure.at > at + 1.0]
    found = f"{len(load.failures)} of {len(load.answers)} failed, {len(late)} of them later than 1 s after it"
    return Finding(f"KILL for a worker, {times} times", found, f"at most {times * load.clients}, 0 later", not late)


# -- new code that is slow, or broken


def slow_reload(lab: Lab) -> Iterator[Finding]:
    """HUP, and the application takes 7 s to import."""
    for rival in fleets(lab, {"SLOW_START": str(SLOW_START)}):
        with Arrivals(rival.port, SOME) as arrivals:
            begin = time.monotonic()
            time.sleep(STEADY)
            old = {arrival.body for arrival in arrivals.between(begin) if arrival.body}
            reload = time.monotonic()
            os.kill(rival.pid, SIGHUP)
            time.sleep(3 * SLOW_START)
            end = time.monotonic()
            time.sleep(STEADY)
        steady = summary([*arrivals.between(begin, reload), *arrivals.between(end)])
        during = summary(arrivals.between(reload, end))
        new = {arrival.body for arrival in arrivals.between(reload, end) if arrival.body} - old
        found = f"p99 {ms(during.p99)} ({ms(steady.p99)} before and after), worst {ms(during.worst)}"
        found += f"; {during.failed} of {during.count} failed; {len(new)} new workers answered"
        owed = during.failed == 0 and during.p99 <= 2 * steady.p99 and len(new) == 2
        yield Finding(
            f"{rival.name}: HUP, start takes {SLOW_START:g} s",
            found,
            "p99 within twice, 0 failed",
            owed if rival.name == "ladybug" else None,
        )


def broken_reload(lab: Lab) -> Iterator[Finding]:
    """HUP onto an application that does not start, 20 times, after one to warm up."""

    def fail_once() -> None:
        number = server.output.text().count("The reload is abandoned")
        server.signal(SIGHUP)
        logged(server, "The reload is abandoned", number + 1)
        eventually(lambda: len(children_of(server.pid)) == 2, "the failed worker to be gone")

    with lab.ladybug(app=ACTING_APP) as server:
        server.permit_error("no database")
        with load_on(server) as load:
            load.wait_for_answers(50)
            lab.control.boot("raise")
            fail_once()
            master = psutil.Process(server.pid)
            before, fds, workers = master.memory_info().rss, master.num_fds(), workers_of(server)
            for _ in range(20):
                fail_once()
            grown, fds = master.memory_info().rss - before, master.num_fds() - fds
            load.wait_for_answers(50)
            is_same = workers_of(server) == workers
    found = f"{len(load.failures)} of {len(load.answers)} failed"
    yield Finding("HUP onto a broken application, 20 times", found, "0", not load.failures)
    left = f"{fds:+d} descriptors, {grown / 1024:+.0f} KiB, {'the same' if is_same else 'other'} workers"
    yield Finding(
        "what that leaves in the master",
        left,
        "0, at most +256 KiB, the same",
        fds == 0 and is_same and grown <= 256 << 10,
    )


# -- a blocked worker


def blocked(lab: Lab) -> Iterator[Finding]:
    """One of two workers is blocked by time.sleep for 10 s: new connections from that moment on."""
    for rival in fleets(lab):
        with Arrivals(rival.port, FEW) as arrivals:
            begin = time.monotonic()
            time.sleep(2 * STEADY)
            for note in lab.board.glob("blocked-*"):
                note.unlink()
            with Client(("127.0.0.1", rival.port), timeout=PATIENCE) as client:
                client.send(request_bytes(f"/block?{BLOCK}"))
                eventually(lambda: bool(list(lab.board.glob("blocked-*"))), "a blocked worker")
                at = time.monotonic()
                time.sleep(BLOCK)
                client.read_response()
        steady = summary(arrivals.between(begin, at - 0.5))
        first, later = arrivals.between(at, at + 1), arrivals.between(at + 1, at + BLOCK)
        yield from of_blocked(rival.name, steady.p99, summary(first), summary(later))


def of_blocked(name: str, steady_p99: float, first: Summary, later: Summary) -> Iterator[Finding]:
    is_ours = name == "ladybug"
    yield Finding(
        f"{name}: a worker blocked for {BLOCK:g} s, the first second",
        f"{first.failed} of {first.count} failed, worst {ms(first.worst)}",
        "0, within 2 s",
        first.failed == 0 and first.worst <= 2.0 if is_ours else None,
    )
    yield Finding(
        f"{name}: later ones",
        f"{later.failed} of {later.count} failed, p99 {ms(later.p99)} ({ms(steady_p99)} before), worst {ms(later.worst)}",
        "0, p99 within twice",
        later.failed == 0 and later.p99 <= 2 * steady_p99 if is_ours else None,
    )


# -- fewer workers, and none


def shrink(lab: Lab) -> Iterator[Finding]:
    """TTOU, twice, under 2,000 new connections a second."""
    with lab.ladybug(workers=3) as server:
        with Arrivals(server.port, MANY) as arrivals:
            begin = time.monotonic()
            time.sleep(STEADY / 2)
            at = time.monotonic()
            for size in (2, 1):
                server.signal(SIGTTOU)
                eventually(lambda: len(workers_of(server)) == size, "a worker to leave", PATIENCE)  # noqa: B023 - called here
            time.sleep(5.0)  # the listeners are closed when the last handshakes must be over
            end = time.monotonic()
        during = summary(arrivals.between(at, end))
        rate = len(arrivals.between(begin)) / (end - begin)
    errors = sorted({arrival.error for arrival in arrivals.found if arrival.error})
    found = f"{during.failed} of {during.count} failed{f' ({errors})' if errors else ''}, p99 {ms(during.p99)}"
    yield Finding(f"TTOU, twice, under {rate:,.0f} new connections/s", found, "0", during.failed == 0)


def stop(lab: Lab) -> Iterator[Finding]:
    """TERM with a stream, a WebSocket, an idle connection and a request of 4 s open."""
    with lab.ladybug("--timeout-graceful-shutdown", "30") as server, contextlib.ExitStack() as open_ones:
        stream, idle, slow = (open_ones.enter_context(server.connect()) for _ in range(3))
        socket = open_ones.enter_context(peer.connect(server)).open("/")
        stream.send(request_bytes("/events"))
        stream.read_head()
        idle.request("/")
        slow.send(request_bytes("/wait?4"))
        time.sleep(0.3)
        at = time.monotonic()
        server.signal(SIGTERM)
        socket.expect_closed_by_server(1012)
        yield Finding("TERM: a WebSocket", f"1012 after {ms(time.monotonic() - at)}", "1012", True)
        idle.read_to_end()
        yield Finding("TERM: an idle connection", f"{idle.ended}", "closed", idle.ended == "closed")
        status = slow.read_response().status
        yield Finding("TERM: a request of 4 s", f"{status} after {ms(time.monotonic() - at)}", "200", status == 200)
        stream.read_to_end()
        how = f"{stream.ended} after {ms(time.monotonic() - at)}"
        yield Finding("TERM: a stream that goes on", how, "closed", stream.ended == "closed")
        code, took = server.wait(), time.monotonic() - at
        shut_down = len(lab.control.pids("shutdown"))
        found = f"exit code {code} after {took:.1f} s, {shut_down} lifespan shutdowns"
        yield Finding("TERM: the server", found, "0 within 43 s, 2", code == 0 and took < 43 and shut_down == 2)


# -- what being watched costs


def development(lab: Lab) -> Iterator[Finding]:
    """--reload: from the moment at which a file is saved to the first answer of what it says then."""
    source = lab.board / "changing" / "main.py"
    source.parent.mkdir()

    def save(version: int) -> None:
        source.write_text(
            CHANGING.format(version) + "#" * version
        )  # of another size: a .pyc goes by that, and by seconds

    save(0)
    with serve("changing.main:app", "--reload", "--app-dir", str(lab.board), "--reload-dir", str(lab.board)) as server:
        took = []
        for version in range(1, 1 + CHANGES):
            begin = time.monotonic()
            save(version)
            eventually(lambda: server.request("/").value() == version, "the new version", PATIENCE)  # noqa: B023 - called here
            took.append(time.monotonic() - begin)
    median = statistics.median(took)
    yield Finding(f"`--reload`, {CHANGES} changes: until the new code answers", ms(median), "0.5 s", median < 0.5)


def watching(lab: Lab) -> Iterator[Finding]:
    """Plaintext with heartbeats, scoreboard and steering, over plaintext without: benchmarks/ab.py on two commands."""
    command = server_command()
    python = command[0] if "-m" in command else Path(command[0]).with_name("python")
    unwatched = shlex.join([str(python), str(HERE / "unwatched.py")])
    options = ("--workloads", "plaintext", "--rounds", "12", "--seconds", "2")
    done = subprocess.run(
        [sys.executable, str(HERE / "ab.py"), unwatched, shlex.join(command), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    found = " ".join(done.stdout.split()) or done.stderr.strip().splitlines()[-1]
    yield Finding("plaintext, watched over unwatched", found, "0.98 and more")


# -- the fleets


def fleets(lab: Lab, env: Mapping[str, str] | None = None) -> Iterator[Rival]:
    """Ladybug, then the peers that are installed; each is stopped when the next is asked for."""
    with lab.ladybug(env=env) as server:
        yield Rival("ladybug", server.port, server.pid)
    if lab.peers is not None:
        for name, command in PEERS.items():
            if (lab.peers / command[0]).exists():
                with rival(lab, name, command, env) as running:
                    yield running


# Two workers, uvloop, no access log; everything else as it is by default.
PEERS: dict[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn", "--workers", "2", "--no-access-log", "--port", "{port}", APP),
    "gunicorn": ("gunicorn", "-k", "asgi", "-w", "2", "--no-control-socket", "-b", "127.0.0.1:{port}", APP),
    "gunicorn, uvicorn-worker": (
        *("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", "--no-control-socket"),
        *("-b", "127.0.0.1:{port}", APP),
    ),
    "granian": ("granian", "--interface", "asgi", "--workers", "2", "--port", "{port}", APP),
}


@contextlib.contextmanager
def rival(lab: Lab, name: str, command: tuple[str, ...], env: Mapping[str, str] | None) -> Iterator[Rival]:
    assert lab.peers is not None
    port = free_port()
    words = [str(lab.peers / command[0]), *(word.format(port=port) for word in command[1:])]
    program = Program(words, env={"BOARD": str(lab.board), "PYTHONPATH": str(ROOT), **(env or {})}, cwd=lab.board)

    def answers() -> bool:
        with contextlib.suppress(OSError, AssertionError), Client(("127.0.0.1", port), timeout=1.0) as client:
            return client.request("/").status == 200
        return False

    try:
        eventually(answers, f"{name} to answer", PATIENCE)
        time.sleep(3.0)  # until its other worker is there
        yield Rival(name, port, program.pid)
    finally:
        program.kill()


# -- the table


SCENARIOS: dict[str, Callable[[Lab], Iterator[Finding]]] = {
    "operations": operations,
    "slow-reload": slow_reload,
    "broken-reload": broken_reload,
    "blocked": blocked,
    "shrink": shrink,
    "stop": stop,
    "development": development,
    "watching": watching,
}


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def line(finding: Finding) -> str:
    verdict = {None: "", True: "met", False: "MISSED"}[finding.met]
    return f"| {finding.figure} | {finding.value} | {finding.wanted} | {verdict} |"


def findings(name: str, lab: Lab) -> Iterator[Finding]:
    """Those of a scenario; of one that cannot be played to its end, why."""
    try:
        yield from SCENARIOS[name](lab)
    except (AssertionError, OSError, Truncated) as error:
        yield Finding(f"{name}: not played to its end", str(error).partition("\n")[0] or repr(error), met=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--peers", type=Path, help="the bin/ of an environment with uvicorn, gunicorn, granian")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    chosen = options.scenarios or [name for name in SCENARIOS if name != "watching"]
    has_missed = False
    print("| | found | wanted | |\n|---|---|---|---|", flush=True)
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="lifecycle-") as board:
            for finding in findings(name, Lab(Path(board), options.peers)):
                print(line(finding), flush=True)
                has_missed |= finding.met is False
    sys.exit(1 if has_missed else 0)


if __name__ == "__main__":
    main()
