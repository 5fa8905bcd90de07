"""--preload: workers are forked of a process that has imported the application. What happens to a fleet happens here too."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import psutil
import pytest

from tests.integration.fleet import (
    Control,
    Load,
    await_successor,
    children_of,
    files_of,
    fork_servers_of,
    is_gone,
    pss,
    title_of,
    workers_of,
)
from tests.integration.support import ROOT, Server, eventually, request_bytes, serve, variant_options

APP = "tests.integration.apps.processes:app"

once = pytest.mark.skipif(bool(variant_options()), reason="independent of loop and poller")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def fleet(
    control: Control, *options: str, workers: int = 2, env: Mapping[str, str] | None = None, app: str = APP
) -> contextlib.AbstractContextManager[Server]:
    environment = {"CONTROL": str(control.directory), **(env or {})}
    return serve(app, "--timeout-graceful-shutdown", "10", "--preload", *options, workers=workers, env=environment)


def load_on(server: Server) -> Load:
    return Load(server, closing=3, keeping=3, streaming=2, uploading=2, echoing=2)


def reload(server: Server) -> None:
    before = server.output.text().count("INFO:     Reloaded")
    server.signal(SIGHUP)
    eventually(lambda: server.output.text().count("INFO:     Reloaded") > before, "the reload", timeout=30)


def only_these_are_left(server: Server, workers: list[int]) -> bool:
    """One fork server and workers of these numbers, and no other child of the master, dead ones included."""
    return (
        sorted(workers_of(server)) == workers
        and len(fork_servers_of(server)) == 1
        and (len(children_of(server.pid)) == len(workers) + 1)
    )


def held(pid: int, kind: str) -> set[str]:
    return {file for fd, file in files_of(pid).items() if fd > 2 and file.startswith(f"{kind}:")}


def deliver(pid: int, number: signal.Signals) -> None:
    """Send a signal, and wait until it has got there: some eight at once are too many for the stack of Python's handlers."""
    os.kill(pid, number)
    status = Path(f"/proc/{pid}/status")
    eventually(lambda: "ShdPnd:\t0000000000000000" in status.read_text(), f"{number.name} to be delivered")


# -- what a fleet looks like


def test_the_application_is_imported_once_and_started_in_each_worker(control: Control) -> None:
    with fleet(control, workers=3) as server:
        (origin,) = fork_servers_of(server)
        assert title_of(origin) == f"ladybug: fork server [{APP}]"
        workers = workers_of(server)
        assert sorted(workers) == [1, 2, 3]
        assert len(children_of(server.pid)) == 4, "the ones between are gone"
        assert control.pids("importing") == [origin]
        assert sorted(control.pids("starting")) == sorted(workers.values())
        with Load(server, closing=4) as load:
            eventually(lambda: set(load.answers) == set(workers.values()), "all of them to serve")
        assert load.failures == []
    assert sorted(control.pids("shutdown")) == sorted(control.pids("atexit")) == sorted(workers.values())


@once
def test_nobody_holds_what_is_another_ones(control: Control) -> None:
    with fleet(control, workers=2) as server:
        old = workers_of(server)[1]
        os.kill(old, SIGKILL)
        await_successor(server, 1, old)
        reload(server)
        eventually(lambda: only_these_are_left(server, [1, 2]), "the old ones to leave")
        (origin,) = fork_servers_of(server)
        of_master, of_origin = held(server.pid, "pipe"), held(origin, "pipe")
        first, second = (held(pid, "pipe") for pid in workers_of(server).values())
        assert [len(pipes & of_master) for pipes in (first, second, of_origin)] == [2, 2, 2], "link and lifeline"
        assert not first & second and not (first | second) & of_origin
        assert len(of_master) == 1 + 2 * 3, "the signals' pipe, and each one's two"
        listeners = psutil.Process(origin).net_connections("inet")
        assert listeners == [], "a slot that is closed must be closed everywhere"
        assert len(held(origin, "socket")) == 1, "on which it gets its orders"


@once
def test_the_master_adopts_nobody_else(control: Control) -> None:
    """Orphans of the application are process 1's business."""
    with fleet(control, workers=1) as server:
        orphan = int(server.request("/orphan").body)
        eventually(lambda: orphan not in children_of(server.pid) and is_gone(orphan), "the orphan to end")
        assert only_these_are_left(server, [1])


@once
def test_threads_that_the_import_has_started_are_told_of(control: Control) -> None:
    module = control.directory / "project" / "threads.py"
    module.parent.mkdir()
    module.write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True, name='flusher').start()\n"
        "from tests.integration.apps.processes import app as app\n"
    )
    environment = {"PYTHONPATH": f"{control.directory}:{os.environ.get('PYTHONPATH', '')}"}
    with fleet(control, app="project.threads:app", env=environment) as server:
        server.output.wait_for(r"WARNING:  Importing project\.threads:app has started 1 thread \(flusher\)\.")
        assert server.output.text().count("has started 1 thread") == 1


@once
def test_an_additional_worker_of_the_fastapi_example_takes_40_percent_less_memory(tmp_path: Path) -> None:
    """What every page of the fleet costs, master and fork server included: with three workers, less with one."""

    def taken(workers: int, *options: str) -> int:
        def weight() -> int:
            return sum(pss(pid) for pid in (server.pid, *children_of(server.pid)))

        # As when it is installed: from bytecode. Compiling leaves memory behind.
        environment = {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"),
            "NOTES_DB": str(tmp_path / "notes"),
        }
        directory = ("--app-dir", str(ROOT))
        with serve("examples.fastapi_app:app", *directory, *options, workers=workers, env=environment) as server:
            for _ in range(100 * workers):
                assert server.request("/notes").status == 200
            return weight()

    taken(1)
    without = taken(3) - taken(1)
    preloaded = taken(3, "--preload") - taken(1, "--preload")
    assert preloaded <= 0.6 * without


# -- start and stop


@once
@pytest.mark.parametrize("workers", [1, 4])
def test_an_import_that_fails_ends_the_server_with_the_message_that_workers_have(
    control: Control, workers: int
) -> None:
    def failing(*options: str) -> str:
        server = Server(APP, *options, workers=workers, env={"CONTROL": str(control.directory)})
        assert server.wait() == 3, server.output.text()
        text = server.output.text()
        assert text.count("Traceback") == text.count("RuntimeError: no database") == text.count("ERROR:") == 1
        return text[text.index("ERROR:") :]

    control.boot("raise")
    message = failing("--preload")
    assert len(control.pids("importing")) == 1
    assert message == failing()


@once
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("segv", r"was killed by signal 11 \(SIGSEGV\) while it was booting: it was here\n[\s\S]* in boot\n"),
        ("vanish", "exited with code 5 while it was booting"),
        ("exit", "SystemExit: no configuration"),
        ("refuse", "no database"),
    ],
)
def test_whatever_prevents_a_start_is_said_once(control: Control, how: str, message: str) -> None:
    control.boot(how)
    server = Server(APP, "--preload", workers=2, env={"CONTROL": str(control.directory)})
    assert server.wait() == 3
    assert len(re.findall(message, server.output.text())) == 1
    assert server.output.text().count("ERROR:") == 1


def test_a_stop_while_the_application_is_imported_is_immediate_and_clean(control: Control) -> None:
    control.boot("hang")
    server = Server(APP, "--preload", workers=2, env={"CONTROL": str(control.directory)})
    (origin,) = control.wait_for("importing")
    server.signal(SIGTERM)
    assert server.wait(5) == 0
    assert is_gone(origin)


@once
def test_an_import_that_takes_too_long_is_given_up_and_says_where_it_is(control: Control) -> None:
    control.boot("hang")
    server = Server(APP, "--preload", "--timeout-worker-boot", "2", workers=2, env={"CONTROL": str(control.directory)})
    assert server.wait() == 3
    assert "it has not started within 2 s (--timeout-worker-boot)" in server.output.text()
    assert control.pids("importing") != []


@once
@pytest.mark.parametrize(
    "options", [("--workers", "0"), ("--reload",)], ids=["nobody is forked", "imported at each change"]
)
def test_what_does_not_go_together_is_refused(control: Control, options: tuple[str, ...]) -> None:
    server = Server(APP, "--preload", *options, workers=1, env={"CONTROL": str(control.directory)})
    assert server.wait() == 2
    assert "preload: " in server.output.text()


# -- reload


NEW_CODE = """
VERSION = {version}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"%d" % VERSION}})
"""


def test_a_reload_finds_new_code(control: Control) -> None:
    module = control.directory / "project" / "versioned.py"
    module.parent.mkdir()
    module.write_text(NEW_CODE.format(version=1))
    options = ("--app-dir", str(control.directory))
    with fleet(control, *options, app="project.versioned:app") as server:
        (old,) = fork_servers_of(server)
        assert server.request("/").value() == 1
        # Of another size: within a second Python sees no other difference.
        module.write_text(NEW_CODE.format(version=20))
        assert server.request("/").value() == 1
        reload(server)
        eventually(lambda: only_these_are_left(server, [1, 2]), "the old ones to leave")
        assert server.request("/").value() == 20
        assert fork_servers_of(server) != [old]


def test_a_reload_under_load_loses_nothing(control: Control) -> None:
    with fleet(control) as server:
        with load_on(server) as load:
            for number in range(3):
                load.wait_for_answers(100)
                old = set(children_of(server.pid))
                reload(server)
                assert not old & set(workers_of(server).values())
                eventually(lambda: not old & set(children_of(server.pid)), "the old ones to leave")  # noqa: B023
                assert len(control.pids("importing")) == number + 2
            load.wait_for_answers(100)
        assert load.failures == []
        assert set(load.answers[-20:]) <= set(workers_of(server).values())


@pytest.mark.parametrize("how", ["raise", "segv", "exit", "refuse"])
def test_new_code_that_does_not_start_changes_nothing(control: Control, how: str) -> None:
    with fleet(control) as server:
        before, origin = workers_of(server), fork_servers_of(server)
        with load_on(server) as load:
            load.wait_for_answers(50)
            control.boot(how)
            server.signal(SIGHUP)
            who = "Worker 1" if how == "refuse" else "The fork server"
            server.output.wait_for(rf"The reload is abandoned, and who served before goes on\. {who} \(pid \d+\) ")
            server.permit_error("no database")
            server.permit_error("no configuration")
            load.wait_for_answers(50)
            assert workers_of(server) == before
            eventually(lambda: fork_servers_of(server) == origin, "the new one to leave, and the old one to stay")
        assert load.failures == []
        # Now the old code is what workers are forked of, whatever there is on the disk.
        imported = len(control.pids("importing"))
        if how != "refuse":
            os.kill(before[1], SIGKILL)
            await_successor(server, 1, before[1])
        assert len(control.pids("importing")) == imported
        control.boot("")
        reload(server)
        assert not set(before.values()) & set(workers_of(server).values())


@once
def test_another_hup_begins_again_with_what_is_there_then(control: Control) -> None:
    with fleet(control) as server:
        old = workers_of(server)
        control.boot("hang")
        server.signal(SIGHUP)
        control.wait_for("importing", 2)
        control.boot("")
        reload(server)
        assert server.output.text().count("Reloading again") == 1
        assert not set(old.values()) & set(workers_of(server).values())
        eventually(lambda: only_these_are_left(server, [1, 2]), "everybody else to leave")


def test_a_stop_during_a_reload_is_obeyed(control: Control) -> None:
    with fleet(control) as server:
        control.boot("hang")
        server.signal(SIGHUP)
        control.wait_for("importing", 2)
        server.signal(SIGTERM)
        assert server.wait(8) == 0


@once
def test_a_reload_whose_import_takes_too_long_is_abandoned(control: Control) -> None:
    with fleet(control, "--timeout-worker-boot", "2") as server:
        before, origin = workers_of(server), fork_servers_of(server)
        control.boot("hang")
        server.signal(SIGHUP)
        server.output.wait_for(r"The reload is abandoned[^\n]* it has not started within 2 s \(--timeout-worker-boot\)")
        server.output.wait_for(r"The fork server \(pid \d+\) is aborted: it was here\n[\s\S]* in boot\n")
        eventually(lambda: fork_servers_of(server) == origin and workers_of(server) == before, "the old ones alone")


def test_a_worker_that_dies_while_new_code_is_imported_is_replaced_by_new_code(control: Control) -> None:
    with fleet(control) as server:
        old = workers_of(server)
        control.boot("hang")
        server.signal(SIGHUP)
        control.wait_for("importing", 2)
        os.kill(old[2], SIGKILL)
        server.output.wait_for(rf"Worker 2 \(pid {old[2]}\) was killed")
        control.boot("")
        reload(server)
        eventually(lambda: only_these_are_left(server, [1, 2]), "all to be there")


def test_the_environment_file_is_read_anew(control: Control) -> None:
    variables = control.directory / ".env"
    variables.write_text("COLOUR=red\nGONE=1\n")
    with fleet(control, "--env-file", str(variables)) as server:
        assert server.request("/environment?COLOUR").value() == "red"
        variables.write_text("COLOUR=blue\n")
        reload(server)
        assert server.request("/environment?COLOUR").value() == "blue"
        assert server.request("/environment?GONE").value() is None


# -- workers come and go


def test_workers_come_and_go_without_another_import(control: Control) -> None:
    with fleet(control) as server:
        with load_on(server) as load:
            for number in (1, 2):
                old = workers_of(server)[number]
                os.kill(old, SIGTERM)
                await_successor(server, number, old)
            server.signal(SIGTTIN)
            eventually(lambda: only_these_are_left(server, [1, 2, 3]), "one more")
            load.wait_for_answers(100)
            server.signal(SIGTTOU)
            eventually(lambda: only_these_are_left(server, [1, 2]), "it to leave")
            load.wait_for_answers(100)
        assert load.failures == []
        assert len(control.pids("importing")) == 1


def test_a_worker_that_is_killed_is_replaced_without_another_import(control: Control) -> None:
    with fleet(control) as server:
        for _ in range(2):
            old = workers_of(server)[2]
            os.kill(old, SIGKILL)
            server.output.wait_for(rf"Worker 2 \(pid {old}\) was killed by signal 9 \(SIGKILL\)")
            await_successor(server, 2, old)
        assert only_these_are_left(server, [1, 2])
        assert len(control.pids("importing")) == 1


@once
def test_workers_are_replaced_by_number_of_requests(control: Control) -> None:
    with fleet(control, "--limit-max-requests", "50", "--limit-max-requests-jitter", "25") as server:
        with load_on(server) as load:
            eventually(lambda: len(set(load.answers)) >= 6, "two replacements of each worker", timeout=60)
        assert load.failures == []
        assert len(control.pids("importing")) == 1


@once
def test_a_worker_that_stays_blocked_is_replaced_and_says_where_it_is(control: Control) -> None:
    with fleet(control, "--timeout-worker-healthcheck", "5", workers=1) as server, server.connect() as client:
        (old,) = workers_of(server).values()
        client.send(request_bytes("/block"))
        control.wait_for("blocking")
        server.output.wait_for(rf"\(pid {old}\) has not run its event loop for \d s:\n[\s\S]* in block\n")
        server.output.wait_for(r"\(--timeout-worker-healthcheck\); starting another")
        await_successor(server, 1, old)
        eventually(lambda: is_gone(old), "the blocked one to go")


# -- the fork server comes and goes


def test_workers_outlive_a_fork_server_that_is_killed_and_it_is_replaced(control: Control) -> None:
    with fleet(control) as server:
        before = workers_of(server)
        with load_on(server) as load:
            (origin,) = fork_servers_of(server)
            os.kill(origin, SIGKILL)
            server.output.wait_for(
                rf"The fork server \(pid {origin}\) was killed by signal 9 \(SIGKILL\); starting another"
            )
            control.wait_for("importing", 2)
            load.wait_for_answers(100)
        assert load.failures == []
        assert workers_of(server) == before
        os.kill(before[1], SIGKILL)
        await_successor(server, 1, before[1])
        assert only_these_are_left(server, [1, 2])
        assert len(control.pids("importing")) == 2


@once
def test_a_fork_server_that_is_stopped_is_replaced_when_it_is_needed(control: Control) -> None:
    with fleet(control) as server:
        (origin,) = fork_servers_of(server)
        os.kill(origin, signal.SIGSTOP)
        old = workers_of(server)[1]
        os.kill(old, SIGKILL)
        server.output.wait_for(
            rf"Worker 1 cannot be started; starting another[^:]*: the fork server \(pid {origin}\) does not answer", 30
        )
        await_successor(server, 1, old)
        eventually(lambda: only_these_are_left(server, [1, 2]), "the stopped one to go")


@once
def test_a_fork_server_that_cannot_be_replaced_is_tried_again_and_workers_serve_on(control: Control) -> None:
    with fleet(control) as server:
        before = workers_of(server)
        control.boot("raise")
        server.permit_error("no database")
        os.kill(fork_servers_of(server)[0], SIGKILL)
        server.output.wait_for(r"The fork server \(pid \d+\) could not start; starting another in \d s: ")
        with load_on(server) as load:
            load.wait_for_answers(50)
        assert load.failures == []
        assert workers_of(server) == before
        control.boot("")
        eventually(lambda: only_these_are_left(server, [1, 2]), "the next attempt")


@once
def test_signals_for_everybody_do_nothing_to_a_fork_server(control: Control) -> None:
    numbers = (SIGHUP, SIGTTIN, SIGTTOU, signal.SIGINT, SIGTERM, signal.SIGQUIT, SIGUSR1, SIGUSR2)
    with fleet(control) as server:
        (origin,) = fork_servers_of(server)
        for number in numbers:
            deliver(origin, number)
        old = workers_of(server)[1]
        os.kill(old, SIGKILL)
        await_successor(server, 1, old)
        assert fork_servers_of(server) == [origin], server.output.text()
        # And while it imports.
        control.boot("hang")
        server.signal(SIGHUP)
        eventually(lambda: len(control.pids("importing")) == 2, "the import")
        (new,) = set(control.pids("importing")) - {origin}
        for number in numbers:
            deliver(new, number)
        control.boot("")
        assert not is_gone(new)
        reload(server)


def test_ctrl_c_in_a_terminal_is_one_stop_although_every_process_gets_it(control: Control) -> None:
    with fleet(control) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        os.killpg(server.pid, signal.SIGINT)
        server.output.wait_for("Stopping")
        control.go()
        assert client.read_response().value() == pid
        assert server.wait() == 0
        assert len(control.pids("shutdown")) == 2


# -- nobody outlives the master


def test_everybody_goes_when_the_master_is_killed(control: Control) -> None:
    with fleet(control) as server:
        everybody = children_of(server.pid)
        assert len(everybody) == 3
        workers = workers_of(server)
        os.kill(server.pid, SIGKILL)
        eventually(lambda: all(is_gone(pid) for pid in everybody), "all of them to go")
        assert sorted(control.pids("shutdown")) == sorted(workers.values())
        assert server.wait() == -SIGKILL


def test_an_import_does_not_outlive_its_master(control: Control) -> None:
    control.boot("hang")
    server = Server(APP, "--preload", workers=2, env={"CONTROL": str(control.directory)})
    try:
        (origin,) = control.wait_for("importing")
        os.kill(server.pid, SIGKILL)
        eventually(lambda: is_gone(origin), "the fork server to go", timeout=5)
        assert server.wait() == -SIGKILL
    finally:
        if server.process.poll() is None:
            server.kill()


# -- logs and upgrades


@once
def test_log_files_are_opened_anew(control: Control) -> None:
    file = control.directory / "server.log"
    configuration = control.directory / "log.ini"
    configuration.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=file\n"
        f"[handler_file]\nclass=FileHandler\nargs=({str(file)!r},)\n"
    )

    def holds(pid: int, path: Path) -> bool:
        return any(opened.path == str(path) for opened in psutil.Process(pid).open_files())

    server = Server(
        APP, "--preload", "--log-config", str(configuration), workers=1, env={"CONTROL": str(control.directory)}
    )
    try:
        eventually(lambda: file.exists() and "Press Ctrl+C" in file.read_text(), "the server to start")
        everybody = [server.pid, *children_of(server.pid)]
        assert len(everybody) == 3 and all(holds(pid, file) for pid in everybody)
        moved = file.rename(control.directory / "server.log.1")
        server.signal(SIGUSR1)
        eventually(lambda: not any(holds(pid, moved) for pid in everybody), "all of them to let go of the old file")
        (old,) = workers_of(server).values()
        os.kill(old, SIGKILL)
        eventually(lambda: "is ready" in file.read_text(), "the successor")
        assert not holds(workers_of(server)[1], moved)
        assert server.stop() == 0
    finally:
        server.kill()


@once
def test_a_new_master_takes_over_under_load(control: Control) -> None:
    pid_file = control.directory / "pid"
    server = Server(
        *(APP, "--preload", "--pid-file", str(pid_file)), workers=2, env={"CONTROL": str(control.directory)}
    )
    try:
        server.wait_until_listening()
        master, old = server.pid, children_of(server.pid)
        with load_on(server) as load:
            load.wait_for_answers(50)
            server.signal(SIGUSR2)
            eventually(lambda: int(pid_file.read_text()) != master, "a new master", timeout=30)
            eventually(lambda: all(is_gone(pid) for pid in [master, *old]), "the old fleet to leave")
            load.wait_for_answers(50)
        assert load.failures == []
        master = int(pid_file.read_text())
        assert len(children_of(master)) == 3
        os.kill(master, SIGTERM)
        server.output.wait_until_closed()
        server.check_log()
    finally:
        server.kill()


@once
@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_a_worker_that_writes_nonsense_ends_nobody_but_itself(control: Control, preload: str) -> None:
    with fleet(control, preload, app="tests.integration.apps.liar:app") as server:
        assert server.request("/scoreboard").value() in workers_of(server).values()
        server.signal(SIGTTIN)  # the master has read it by then
        eventually(lambda: len(workers_of(server)) == 3, "the third worker")
        before = workers_of(server)
        with server.connect() as client:
            client.send(request_bytes("/link"))
            pid = int(
                server.output.wait_for(
                    r"The worker with pid (\d+) is killed: it has sent a message that it may not send \(kind 255, "
                )[1]
            )
        (number,) = (number for number, old in before.items() if old == pid)
        await_successor(server, number, pid)
        assert workers_of(server).keys() == {1, 2, 3}


@once
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_privileges_are_dropped_before_the_application_is_imported(control: Control) -> None:
    """The group alone, because not every user can read this Python; the user is in test_operations.py."""
    with fleet(control, "--group", "65534") as server:
        (note,) = control.directory.glob("importing-*")
        assert note.stat().st_gid == 65534
        old = workers_of(server)[1]
        os.kill(old, SIGKILL)
        await_successor(server, 1, old)
        reload(server)
        assert all(set(psutil.Process(pid).gids()) == {65534} for pid in children_of(server.pid))
