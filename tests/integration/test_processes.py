"""Master and workers as real processes, with real signals: boot, death, replacement, stop."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR2

import psutil
import pytest

from tests.integration.fleet import (
    Control,
    Load,
    await_successor,
    children_of,
    files_of,
    is_gone,
    pss,
    title_of,
    workers_of,
)
from tests.integration.support import (
    DEADLINE,
    ROOT,
    Client,
    Program,
    Server,
    Truncated,
    eventually,
    request_bytes,
    serve,
    server_command,
    variant_options,
)

APP = "tests.integration.apps.processes:app"

# Once in a run of the suite's variants is enough for what takes long or does not depend on loop and poller.
once = pytest.mark.skipif(bool(variant_options()), reason="independent of loop and poller")
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def fleet(
    control: Control, *options: str, workers: int = 2, env: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Server]:
    """A running server with the application of these tests, and with the graceful timeout that users get."""
    environment = {"CONTROL": str(control.directory), **(env or {})}
    return serve(APP, "--timeout-graceful-shutdown", "30", *options, workers=workers, env=environment)


@contextlib.contextmanager
def starting(control: Control, *options: str, workers: int = 2) -> Iterator[Server]:
    """A server that is still booting, or will fail to."""
    server = Server(APP, *options, workers=workers, env={"CONTROL": str(control.directory)})
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


# -- what a fleet looks like


@linux
def test_processes_are_named_after_what_they_do(control: Control) -> None:
    with fleet(control, workers=2) as server:
        assert title_of(server.pid) == f"ladybug: master [{APP}]"
        assert sorted(workers_of(server)) == [1, 2]
        worker = workers_of(server)[1]
        with server.connect() as client:
            while client.request("/").value() != worker:
                client = server.connect()  # the kernel chooses the slot
            client.send(request_bytes("/wait"))
            control.wait_for("waiting")
            server.signal(SIGTERM)
            eventually(lambda: title_of(worker) == f"ladybug: worker 1 [{APP}] draining", "the title to tell of it")
            control.go()
            assert client.read_response().value() == worker
        assert server.wait() == 0


def listening_sockets(pid: int) -> set[int]:
    """The inodes of the listening TCP sockets that a process holds."""
    listening = {
        int(line.split()[9]) for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    }
    held = set(files_of(pid).values())
    return {inode for inode in listening if f"socket:[{inode}]" in held}


@linux
@once
def test_a_worker_holds_the_listener_of_its_slot_and_no_other(control: Control) -> None:
    with fleet(control, workers=3) as server:
        of_master = listening_sockets(server.pid)
        of_workers = [listening_sockets(pid) for pid in workers_of(server).values()]
        assert len(of_master) == 3
        assert [len(held) for held in of_workers] == [1, 1, 1]
        assert set.union(*of_workers) == of_master


def descriptors_of(pid: int, file: os.stat_result) -> int:
    """How many descriptors of a file a process has."""
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found += os.path.samestat(fd.stat(), file)
    return found


@linux
@once
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["forked by the master", "by a fork server"])
def test_of_a_socket_that_was_given_and_of_the_pid_file_children_hold_what_they_need(
    control: Control, options: tuple[str, ...]
) -> None:
    pid_file = control.directory / "pid"

    def check(master: int) -> None:
        with Client(given.getsockname()) as client:
            assert client.request("/").status == 200
        workers = [pid for pid in children_of(master) if "worker" in title_of(pid)]
        others = [pid for pid in children_of(master) if "fork server" in title_of(pid)]
        assert (len(workers), len(others)) == (2, len(options))
        assert [descriptors_of(pid, os.fstat(fd)) for pid in (*workers, *others)] == [1, 1, *(0 for _ in others)]
        assert descriptors_of(master, pid_file.stat()) == 1
        assert [descriptors_of(pid, pid_file.stat()) for pid in (*workers, *others)] == [0, 0, *(0 for _ in others)]

    with socket.create_server(("127.0.0.1", 0)) as given:
        fd = given.fileno()
        command = [*server_command(), APP, "--app-dir", str(ROOT), "--fd", str(fd), "--pid-file", str(pid_file)]
        environment = {"CONTROL": str(control.directory)}
        program = Program([*command, "--workers", "2", *options], env=environment, pass_fds=(fd,))
        try:
            program.output.wait_for("Press Ctrl")
            check(program.pid)
            # A successor has the listener itself, without a copy.
            program.signal(SIGUSR2)
            assert program.process.wait(DEADLINE) == 0
            master = int(pid_file.read_text())
            check(master)
            os.kill(master, SIGTERM)
            program.output.wait_until_closed()
        finally:
            program.kill()


@linux
@once
def test_a_worker_holds_no_pipe_of_its_master_or_of_other_workers(control: Control) -> None:
    def pipes(pid: int) -> set[str]:
        return {file for fd, file in files_of(pid).items() if fd > 2 and file.startswith("pipe:")}

    with fleet(control, workers=3) as server:
        # A replacement is forked by a master that holds everybody's.
        old = workers_of(server)[1]
        os.kill(old, SIGKILL)
        await_successor(server, 1, old)
        of_master = pipes(server.pid)
        first, second, third = (pipes(pid) for pid in workers_of(server).values())
        assert [len(held & of_master) for held in (first, second, third)] == [2, 2, 2], "link and lifeline"
        assert not first & second and not second & third and not third & first
        assert len(of_master) == 1 + 6, "the signals' pipe, and each worker's two"


@linux
@once
def test_the_master_is_small_and_carries_no_event_loop(control: Control) -> None:
    # As when it is installed: from bytecode. Compiling leaves memory behind.
    cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(control.directory / "cache")}
    with fleet(control, workers=1, env=cache):
        pass
    with fleet(control, workers=1, env=cache) as server:
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        for heavy in ("_asyncio", "_ssl", "uvloop", "httptools"):
            assert heavy not in maps
        (worker,) = workers_of(server).values()
        # What libraries cost depends on who else has them loaded; benchmarks/RESULTS.md has the figures of a quiet machine.
        assert pss(server.pid) <= 13 * 1024
        assert pss(worker) <= 25 * 1024


@linux
def test_an_idle_master_wakes_up_for_nothing_but_a_pulse(control: Control) -> None:
    def switches() -> int:
        status = Path(f"/proc/{server.pid}/status").read_text()
        found = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)  # not when it was preempted
        return int(found[0])

    # A control socket would be found by every `ladybug ctl` that looks for its server.
    with fleet(control, "--control-socket", "off", workers=2) as server:
        eventually(lambda: psutil.Process(server.pid).status() == psutil.STATUS_SLEEPING, "the master to sleep")
        before = switches()
        time.sleep(4.0)  # nothing happens, and only time can show it; longer than the silence after which it listens
        assert switches() - before <= 12, "more than two a second, and something else now and then"


# -- boot


@pytest.mark.parametrize("workers", [1, 4])
def test_an_import_that_fails_ends_the_server_with_one_message(control: Control, workers: int) -> None:
    control.boot("raise")
    with starting(control, workers=workers) as server:
        assert server.wait() == 3
        log = server.output.text()
        assert log.count("RuntimeError: no database") == 1, log
        assert log.count("Traceback") == 1, log
        assert log.count("ERROR:") == 1, log


@pytest.mark.parametrize("workers", [1, 4])
def test_a_lifespan_that_fails_ends_the_server_with_one_message(control: Control, workers: int) -> None:
    control.boot("refuse")
    with starting(control, workers=workers) as server:
        assert server.wait() == 3
        log = server.output.text()
        assert log.count("no database") == 1, log
        assert log.count("ERROR:") == 1, log
        server.check_log()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("worker 2: segv", r"Worker 2 died while booting \(signal 11, SIGSEGV\)"),
        ("worker 2: vanish", r"Worker 2 died while booting \(exit code 5\)"),
        (
            "worker 2: exit",
            r"SystemExit: no configuration",
        ),
        ("worker 2: raise", r"RuntimeError: no database"),
    ],
)
def test_one_worker_that_dies_while_booting_ends_the_server(control: Control, how: str, message: str) -> None:
    control.boot(how)
    with starting(control, workers=3) as server:
        assert server.wait() == 3
        log = server.output.text()
        assert re.search(message, log), log
        assert log.count("ERROR:") == 1, log
        started = control.pids("starting")
        assert sorted(control.pids("shutdown")) == sorted(started), "who had started is shut down in order"


def test_a_port_in_use_ends_the_server_with_one_message(control: Control) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = Server(APP, workers=2, bind=("--port", port), env={"CONTROL": str(control.directory)})
        assert server.wait() == 3
        assert f"127.0.0.1:{port} is in use by another process" in server.output.text()
        assert server.output.text().count("\n") == 1
        assert control.pids("importing") == [], "nobody was forked for it"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_while_the_application_is_imported_is_immediate_and_clean(control: Control, workers: int) -> None:
    control.boot("hang")
    with starting(control, workers=workers) as server:
        control.wait_for("importing", workers or 1)
        server.signal(SIGTERM)
        assert server.wait(5) == 0
        server.check_log()


def test_a_stop_that_meets_the_import_system_at_work_ends_what_comes_after(control: Control) -> None:
    control.boot("stop in the import system")
    with starting(control, workers=0) as server:
        assert server.wait(5) == 0
        server.check_log()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_stop_cuts_a_startup_short(control: Control, workers: int) -> None:
    control.boot("hang in lifespan")
    with starting(control, workers=workers) as server:
        pids = control.wait_for("starting", workers or 1)
        server.signal(SIGTERM)
        eventually(lambda: "draining" in title_of(pids[0]), "the first stop to be heard")
        server.signal(SIGTERM)
        assert server.wait(5) == 0
        server.check_log()


# -- death and replacement


def test_a_worker_that_is_killed_is_replaced_at_once(control: Control) -> None:
    with fleet(control, workers=2) as server:
        old = workers_of(server)[2]
        os.kill(old, SIGKILL)
        new = await_successor(server, 2, old)
        assert f"Worker 2 (pid {old}) was killed by signal 9 (SIGKILL)" in server.output.text()
        assert new != old
        eventually(lambda: server.request("/").value() == new, "the new one to answer")


def test_connections_in_the_queue_of_a_killed_worker_are_served_by_its_successor(control: Control) -> None:
    with fleet(control, workers=1) as server, contextlib.ExitStack() as clients:
        (old,) = workers_of(server).values()
        os.kill(old, SIGSTOP)
        waiting = [clients.enter_context(server.connect()) for _ in range(50)]
        for client in waiting:
            client.send(request_bytes("/"))
        os.kill(old, SIGKILL)
        answers = {client.read_response().value() for client in waiting}
        assert answers == set(workers_of(server).values())
        assert old not in answers


def test_a_worker_is_ready_before_its_first_request_is_taken_whatever_that_does(control: Control) -> None:
    """A request that blocks the event loop waits for whoever takes its place, and must not hide that it is there."""
    with fleet(control, workers=1) as server, contextlib.ExitStack() as clients:
        (old,) = workers_of(server).values()
        os.kill(old, SIGSTOP)
        clients.enter_context(server.connect()).send(request_bytes("/block"))
        os.kill(old, SIGKILL)
        new = await_successor(server, 1, old)
        control.wait_for("blocking")
        os.kill(new, SIGKILL)
        await_successor(server, 1, new)


@once
def test_a_worker_whose_event_loop_is_ended_by_the_application_is_replaced(control: Control) -> None:
    with fleet(control, workers=1) as server, server.connect() as client:
        (old,) = workers_of(server).values()
        client.send(request_bytes("/leave"))
        server.output.wait_for(r"Worker 1 ends, because its event loop did: RuntimeError")
        server.permit_error("Event loop stopped")
        new = await_successor(server, 1, old)
        assert server.request("/").value() == new


def test_a_replacement_that_cannot_start_leaves_the_others_serving(control: Control) -> None:
    with fleet(control, workers=2) as server:
        first, second = workers_of(server)[1], workers_of(server)[2]
        control.boot("worker 2: raise")
        os.kill(second, SIGKILL)
        server.output.wait_for(r"Worker 2 \(pid \d+\) could not start; starting another in 1 s: Cannot import")
        server.permit_error("no database")
        os.kill(first, SIGSTOP)  # who stands still shows that it was not told anything
        os.kill(first, signal.SIGCONT)
        assert server.process.poll() is None
        assert workers_of(server)[1] == first
        control.boot("")
        await_successor(server, 2, second)


def test_a_worker_killed_under_load_loses_only_what_ran_in_it(control: Control) -> None:
    with fleet(control, workers=2) as server:
        with Load(server, closing=4, keeping=4) as load:
            for number in (1, 2, 1):
                old = workers_of(server)[number]
                load.wait_for_answers(50)
                os.kill(old, SIGKILL)
                await_successor(server, number, old)
            load.wait_for_answers(200)
        # Each of 8 clients has at most one request under way whenever a worker dies.
        assert len(load.failures) <= 3 * 8, load.failures
        assert {type(failure.error) for failure in load.failures} <= {Truncated, ConnectionResetError, BrokenPipeError}


def test_workers_that_have_served_their_number_of_requests_are_replaced_without_a_failure(control: Control) -> None:
    with fleet(control, "--limit-max-requests", "150", "--limit-max-requests-jitter", "50", workers=2) as server:
        with Load(server, closing=3, keeping=3) as load:
            eventually(lambda: len(set(load.answers)) >= 8, "three replacements of each worker", timeout=60)
        assert load.failures == []
        served = {pid: load.answers.count(pid) for pid in set(load.answers)}
        assert min(sorted(served.values())[-4:]) >= 150, served
        assert sum(name in server.output.text() for name in ("Traceback", "killed")) == 0


def test_the_only_worker_is_replaced_before_it_leaves(control: Control) -> None:
    with fleet(control, "--limit-max-requests", "1", workers=1) as server:
        (old,) = workers_of(server).values()
        with server.connect() as client:
            assert client.request("/").value() == old
            eventually(lambda: is_gone(old), "the old one to leave")
        assert server.request("/").value() != old


# -- the stop


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stop_lets_requests_finish_and_runs_everything_to_its_end(
    control: Control, workers: int, number: signal.Signals
) -> None:
    with fleet(control, workers=workers) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        server.signal(number)
        eventually(lambda: "draining" in title_of(pid), "the drain to begin")
        control.go()
        assert client.read_response().value() == pid
        assert server.wait() == 0
        everybody = sorted(control.pids("importing"))
        assert len(everybody) == max(workers, 1)
        assert sorted(control.pids("shutdown")) == everybody
        assert sorted(control.pids("atexit")) == everybody


def test_ctrl_c_in_a_terminal_is_one_stop_although_every_process_gets_it(control: Control) -> None:
    with fleet(control, workers=2) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        os.killpg(server.pid, SIGINT)
        eventually(lambda: "draining" in title_of(pid), "the drain to begin")
        control.go()
        assert client.read_response().value() == pid
        assert server.wait() == 0
        assert len(control.pids("shutdown")) == 2


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_stop_cancels_what_runs_and_still_shuts_down_in_order(
    control: Control, workers: int, number: signal.Signals
) -> None:
    with fleet(control, workers=workers) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        server.signal(number)
        eventually(lambda: "draining" in title_of(pid), "the drain to begin")
        server.signal(number)
        control.wait_for("cancelled")
        assert server.wait(10) == 0
        assert pid in control.pids("shutdown")
        assert pid in control.pids("atexit")


def test_a_third_stop_kills_a_worker_whose_loop_is_blocked(control: Control) -> None:
    with fleet(control, workers=1) as server, server.connect() as client:
        client.send(request_bytes("/block"))
        control.wait_for("blocking")
        for answer in ("Stopping", "Cutting short"):
            server.signal(SIGTERM)
            server.output.wait_for(answer)
        server.signal(SIGTERM)
        assert server.wait(5) == 1, "a worker that had to be killed is no clean stop"
        server.output.wait_for("Stopping at once: killing the workers")


@pytest.mark.parametrize("workers", [0, 2])
def test_new_connections_are_refused_while_the_server_drains(control: Control, workers: int) -> None:
    with fleet(control, workers=workers) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        server.signal(SIGTERM)
        eventually(lambda: "draining" in title_of(pid), "the drain to begin")

        def refused() -> bool:
            try:
                server.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refused, "connections to be refused, instead of waiting for nobody", timeout=5)
        control.go()
        assert client.read_response().value() == pid
        assert server.wait() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_under_load_answers_every_request_it_has_taken(control: Control, workers: int) -> None:
    with fleet(control, workers=workers) as server:
        with Load(server, closing=4, keeping=4) as load:
            load.wait_for_answers(200)
            server.signal(SIGTERM)
            assert server.wait() == 0
        lost = [failure for failure in load.failures if not isinstance(failure.error, ConnectionRefusedError)]
        assert lost == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_of_a_unix_socket_answers_everybody_who_has_come(control: Control, workers: int) -> None:
    """Its queue cannot be closed to newcomers; its path can."""
    path = control.directory / "s"
    server = Server(APP, workers=workers, bind=("--uds", str(path)), env={"CONTROL": str(control.directory)})
    try:
        server.output.wait_for(re.escape(f"on unix:{path}"))
        server.path = str(path)
        with Load(server, closing=8) as load:
            load.wait_for_answers(200)
            server.signal(SIGTERM)
            assert server.wait() == 0
        lost = [failure for failure in load.failures if not isinstance(failure.error, FileNotFoundError)]
        assert lost == []
    finally:
        server.kill()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_unix_socket_is_served_and_its_path_removed_at_the_end(control: Control, workers: int) -> None:
    path = control.directory / "s"
    server = Server(APP, workers=workers, bind=("--uds", str(path)), env={"CONTROL": str(control.directory)})
    try:
        server.output.wait_for(re.escape(f"on unix:{path}"))
        with Client(str(path)) as client:
            assert client.request("/").value() in control.pids("importing")
        assert server.stop() == 0
        assert not path.exists()
    finally:
        server.kill()


# -- nobody outlives the master


@pytest.mark.parametrize("route", ["/wait", "/"])
def test_workers_drain_when_their_master_is_killed(control: Control, route: str) -> None:
    with fleet(control, workers=2) as server, server.connect() as client:
        pids = list(workers_of(server).values())
        if route == "/wait":
            client.send(request_bytes("/wait"))
            (pid,) = control.wait_for("waiting")
        else:
            assert client.request("/").status == 200
        os.kill(server.pid, SIGKILL)
        if route == "/wait":
            eventually(lambda: "draining" in title_of(pid), "the drain to begin")
            control.go()
            assert client.read_response().value() == pid
        eventually(lambda: all(is_gone(pid) for pid in pids), "the workers to go")
        assert sorted(control.pids("shutdown")) == sorted(pids)
        assert server.wait() == -SIGKILL


def test_workers_that_boot_do_not_outlive_their_master(control: Control) -> None:
    control.boot("hang")
    with starting(control, workers=2) as server:
        pids = control.wait_for("importing", 2)
        os.kill(server.pid, SIGKILL)
        eventually(lambda: all(is_gone(pid) for pid in pids), "the workers to go", timeout=5)
        assert server.wait() == -SIGKILL


@once
def test_workers_that_hang_do_not_outlive_their_master_for_long(control: Control) -> None:
    # Side by side, because it takes as long as a lifespan shutdown may.
    with contextlib.ExitStack() as stack:
        servers = {}
        for route in ("/block", "/spin", "/thread"):
            server = stack.enter_context(fleet(control, "--timeout-graceful-shutdown", "0", workers=1))
            client = stack.enter_context(server.connect())
            client.send(request_bytes(route))
            servers[route] = server
        control.wait_for("blocking", 2)
        assert client.read_response().status == 200
        pids = {route: workers_of(server)[1] for route, server in servers.items()}
        for server in servers.values():
            os.kill(server.pid, SIGKILL)
        for route, pid in pids.items():
            eventually(lambda pid=pid: is_gone(pid), f"the alarm to end the worker of {route}", timeout=30)  # type: ignore[misc]
        for server in servers.values():
            assert server.wait() == -SIGKILL


@once
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("route", ["/thread", "/linger"])
def test_what_hangs_at_the_end_has_an_end_and_is_named(control: Control, workers: int, route: str) -> None:
    """A thread of the application, an exit handler."""
    with fleet(control, "--timeout-graceful-shutdown", "0", workers=workers) as server:
        assert server.request(route).status == 200
        server.signal(SIGTERM)
        # Told by the master; alone, by the process itself, at the last moment.
        place = "it was here" if workers else "Stopped"
        function = {"/thread": "_shutdown", "/linger": "sleep_on"}[route]
        server.output.wait_for(rf"{place}\n[\s\S]* in {function}\n", timeout=30)
        if workers:
            server.output.wait_for(r"was killed by signal 14 \(SIGALRM\) while it was stopping")
        assert server.wait() == (1 if workers else -signal.SIGALRM)


# -- the application's own processes


@pytest.mark.parametrize("workers", [0, 1])
def test_programs_of_the_application_have_the_default_signals(control: Control, workers: int) -> None:
    with fleet(control, workers=workers) as server:
        assert server.request("/program").value() == (True, True, [])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_forked_by_the_application_can_be_terminated_and_we_stay(control: Control, workers: int) -> None:
    with fleet(control, workers=workers) as server:
        server.permit_error("DeprecationWarning")
        assert server.request("/fork").value() == -SIGTERM
        (pid,) = control.pids("importing")
        assert server.request("/").value() == pid
        assert "draining" not in title_of(pid)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_forked_by_the_application_holds_no_connection(control: Control, workers: int) -> None:
    """Their clients would wait for the end of it."""
    with fleet(control, workers=workers) as server, server.connect() as other, server.connect() as client:
        server.permit_error("DeprecationWarning")
        assert other.request("/").status == 200
        response = client.request("/child", headers=["Connection: close"])
        client.expect_end()
        assert not is_gone(response.value())
        assert other.request("/", headers=["Connection: close"]).status == 200
        other.expect_end()


SCRIPT = """
import atexit, os, sys, ladybug
sys.path.insert(0, {root!r})
atexit.register(lambda: print("the script's exit handler, in", os.getpid(), flush=True))
print("unflushed", end=" ")
try:
    ladybug.run({app!r}, port=0, workers=2)
finally:
    print("the script's finally, in", os.getpid(), flush=True)
"""


@once
def test_workers_never_return_into_the_program_that_called_run(control: Control) -> None:
    program = Program(
        [sys.executable, "-c", SCRIPT.format(root=str(ROOT), app=APP)], env={"CONTROL": str(control.directory)}
    )
    program.output.wait_for("Press Ctrl")
    program.signal(SIGINT)
    assert program.wait() == 0
    out = program.output.text("stdout")
    assert out.count("unflushed") == 1
    assert re.findall(r"the script's \w+( handler)?, in (\d+)", out) == [
        ("", str(program.pid)),
        (" handler", str(program.pid)),
    ]
    assert sorted(control.pids("atexit")) == sorted(control.pids("importing")), (
        "the application's run in its own process"
    )


def can_make_pid_namespaces() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True).returncode == 0
    )


@linux
@once
@pytest.mark.skipif(not can_make_pid_namespaces(), reason="needs the right to make a PID namespace")
def test_as_process_1_the_master_reaps_orphans_and_nothing_else_changes(control: Control) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", *server_command(), APP, "--app-dir", str(ROOT)]
    program = Program([*command, "--port", "0", "--workers", "1"], env={"CONTROL": str(control.directory)})
    try:
        port = int(program.output.wait_for(r"on http://127\.0\.0\.1:(\d+)")[1])
        (master,) = children_of(program.pid)
        with Client(("127.0.0.1", port)) as client:
            client.request("/orphan")

        def zombies() -> list[int]:
            return [child for child in children_of(master) if psutil.Process(child).status() == psutil.STATUS_ZOMBIE]

        eventually(lambda: len(children_of(master)) == 1 and not zombies(), "the orphan to be adopted and reaped")
        os.kill(master, SIGTERM)
        assert program.wait() == 0
    finally:
        program.kill()
