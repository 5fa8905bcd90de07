"""What operators do to a fleet while clients use it: none of them notices."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import psutil
import pytest

from tests.integration.fleet import Control, Load, await_successor, children_of, files_of, is_gone, title_of, workers_of
from tests.integration.support import (
    Client,
    Program,
    Server,
    eventually,
    request_bytes,
    serve,
    server_command,
    server_environment,
    variant_options,
)
from tests.integration.websocket import peer

APP = "tests.integration.apps.processes:app"
RELEASE = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]}})
    await send({{"type": "http.response.body", "body": b"{}"}})
"""

once = pytest.mark.skipif(bool(variant_options()), reason="independent of loop and poller")
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


def fleet(
    control: Control, *options: str, workers: int = 2, env: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Server]:
    environment = {"CONTROL": str(control.directory), **(env or {})}
    return serve(APP, "--timeout-graceful-shutdown", "10", *options, workers=workers, env=environment)


def load_on(server: Server) -> Load:
    return Load(server, closing=3, keeping=3, streaming=2, uploading=2, echoing=2)


def reload(server: Server, times: int = 1) -> None:
    """HUP, and wait for the end of it."""
    before = server.output.text().count("Reloaded")
    server.signal(SIGHUP)
    eventually(lambda: server.output.text().count("Reloaded") > before, "the reload", timeout=30)


def scale(server: Server, *numbers: signal.Signals) -> None:
    """TTIN, TTOU: one after the other, because the kernel makes one of two that come at once."""
    for number in numbers:
        told = len(re.findall("From .* to|has to stay", server.output.text()))
        server.signal(number)
        server.output.wait_for(rf"((From .* to|has to stay)[\s\S]*){{{told + 1}}}")


def descriptors(pid: int) -> int:
    return len(files_of(pid))


# -- reload


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_under_load_loses_nothing(control: Control, workers: int) -> None:
    with fleet(control, workers=workers) as server:
        with load_on(server) as load:
            for _ in range(3):
                load.wait_for_answers(100)
                old = set(workers_of(server).values())
                reload(server)
                assert not old & set(workers_of(server).values())
            eventually(lambda: all(is_gone(pid) for pid in old), "the old workers to leave")
            load.wait_for_answers(100)
        assert load.failures == []
        assert set(load.answers[-20:]) <= set(workers_of(server).values())


@pytest.mark.parametrize("how", ["raise", "refuse", "segv", "exit"])
def test_new_code_that_does_not_start_changes_nothing(control: Control, how: str) -> None:
    with fleet(control) as server:
        before = workers_of(server)
        with load_on(server) as load:
            load.wait_for_answers(50)
            control.boot(how)
            server.signal(SIGHUP)
            server.output.wait_for(r"The reload is abandoned, and who served before goes on. Worker 1 ")
            server.permit_error("no database")
            server.permit_error("no configuration")
            load.wait_for_answers(50)
            assert workers_of(server) == before
            control.boot("")
            reload(server)
        assert load.failures == []
        assert not set(before.values()) & set(workers_of(server).values())


@linux
@once
def test_twenty_reloads_that_fail_leave_nothing_behind(control: Control) -> None:
    with fleet(control, workers=1) as server:
        server.permit_error("no database")
        (worker,) = workers_of(server).values()
        control.boot("raise")
        before = descriptors(server.pid)
        for number in range(20):
            server.signal(SIGHUP)
            eventually(
                lambda: server.output.text().count("The reload is abandoned") > number,  # noqa: B023 - called here
                "the message",
            )
            eventually(lambda: descriptors(server.pid) == before, "the failed worker to be gone, and all that was its")
        assert workers_of(server) == {1: worker}
        assert server.request("/").value() == worker


def test_an_open_stream_does_not_hold_a_reload_up(control: Control) -> None:
    with fleet(control) as server, server.connect() as client:
        client.send(request_bytes("/events"))
        assert client.read_head().status == 200
        (streaming,) = control.wait_for("streaming")
        reload(server)
        assert "draining" in title_of(streaming)
        assert client.read(4)
        server.permit_error("Error")
    # The stop has ended the stream as well.


@pytest.mark.parametrize("how", ["hang", "hang in lifespan"])
def test_a_start_that_takes_long_keeps_nobody_waiting(control: Control, how: str) -> None:
    with fleet(control) as server:
        old = workers_of(server)
        imported = len(control.pids("importing"))
        control.boot(how)
        server.signal(SIGHUP)
        control.wait_for("importing", imported + 1)
        with load_on(server) as load:
            load.wait_for_answers(200)
            assert set(load.answers) <= set(old.values())
            control.boot("")
            reload(server)
        assert load.failures == []


def test_a_stop_during_a_reload_is_obeyed(control: Control) -> None:
    with fleet(control) as server:
        imported = len(control.pids("importing"))
        control.boot("hang")
        server.signal(SIGHUP)
        control.wait_for("importing", imported + 1)
        server.signal(SIGTERM)
        assert server.wait(8) == 0


def test_another_hup_begins_again_with_what_is_there_then(control: Control) -> None:
    with fleet(control) as server:
        old = workers_of(server)
        imported = len(control.pids("importing"))
        control.boot("hang")
        server.signal(SIGHUP)
        control.wait_for("importing", imported + 1)
        control.boot("")
        reload(server)
        assert server.output.text().count("Reloading again") == 1
        assert not set(old.values()) & set(workers_of(server).values())


def test_new_workers_read_the_environment_file_and_the_log_configuration(control: Control) -> None:
    variables, logging = control.directory / ".env", control.directory / "log.json"
    log_file = control.directory / "second.log"
    variables.write_text("COLOUR=red\nGONE=1\n")

    def log_to(handler: dict[str, str]) -> None:
        loggers = {"ladybug": {"handlers": ["only"], "level": "INFO"}}
        logging.write_text(json.dumps({"version": 1, "handlers": {"only": handler}, "loggers": loggers}))

    log_to({"class": "logging.StreamHandler"})
    with fleet(control, "--env-file", str(variables), "--log-config", str(logging), env={"FIXED": "1"}) as server:
        assert server.request("/environment?COLOUR").value() == "red"
        variables.write_text("COLOUR=blue\nFIXED=2\n")
        log_to({"class": "logging.FileHandler", "filename": str(log_file)})
        reload(server)
        assert server.request("/environment?COLOUR").value() == "blue"
        assert server.request("/environment?GONE").value() is None
        assert server.request("/environment?FIXED").value() == "1", "what was set before the server started wins"
        eventually(lambda: "/environment?FIXED" in log_file.read_text(), "the new log")


@once
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preloaded"])
def test_a_directory_that_is_a_link_is_followed_anew(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A deployment puts each release into a directory of its own, and turns "current" round."""
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "site_of_a_link.py").write_text(RELEASE.format(release))
    current = tmp_path / "current"
    current.symlink_to("1")
    control_socket = str(tmp_path / "c")
    command = [*server_command(), "site_of_a_link:app", "--port", "0", "--control-socket", control_socket, *options]
    program = Program(command, env={"PWD": str(current)}, cwd=current)
    try:
        port = int(program.output.wait_for(r"serving site_of_a_link:app on http://127.0.0.1:(\d+)")[1])

        def served() -> bytes:
            with Client(("127.0.0.1", port)) as client:
                return client.request("/").body

        assert served() == b"1"
        current.unlink()
        current.symlink_to("2")
        program.process.send_signal(SIGHUP)
        program.output.wait_for("Reloaded")
        eventually(lambda: served() == b"2", "the old worker to leave the listener to the new one")
    finally:
        program.kill()


@once
def test_a_worker_that_takes_too_long_to_start_is_given_up(control: Control) -> None:
    with fleet(control, "--timeout-worker-boot", "3") as server:
        before = workers_of(server)
        control.boot("hang")
        server.signal(SIGHUP)
        server.output.wait_for(r"it has not started within 3 s \(--timeout-worker-boot\)")
        server.output.wait_for(r"is aborted: it was here\n[\s\S]* in boot\n")
        eventually(lambda: workers_of(server) == before, "the old ones alone")


@once
def test_a_server_that_takes_too_long_to_start_says_so(control: Control) -> None:
    control.boot("worker 2: hang")
    server = Server(APP, "--timeout-worker-boot", "3", workers=2, env={"CONTROL": str(control.directory)})
    assert server.wait() == 3
    assert "it has not started within 3 s (--timeout-worker-boot)" in server.output.text()


# -- more and fewer


def test_workers_come_and_go_under_load_without_a_loss(control: Control) -> None:
    with fleet(control) as server:
        with load_on(server) as load:
            for _ in range(2):
                scale(server, SIGTTIN, SIGTTIN)
                eventually(lambda: sorted(workers_of(server)) == [1, 2, 3, 4], "two more")
                fourth = workers_of(server)[4]
                eventually(lambda: fourth in load.answers, "the new one to get its share")  # noqa: B023 - called here
                scale(server, SIGTTOU, SIGTTOU, SIGTTOU, SIGTTOU)
                eventually(lambda: sorted(workers_of(server)) == [1], "three to leave")
                server.output.wait_for("There is one worker, and one has to stay")
                load.wait_for_answers(100)
                scale(server, SIGTTIN)
                eventually(lambda: sorted(workers_of(server)) == [1, 2], "the second to come back")
                load.wait_for_answers(100)
        assert load.failures == []


@linux
@once
def test_a_slot_that_goes_away_takes_its_descriptors_along(control: Control) -> None:
    with fleet(control) as server:
        before = descriptors(server.pid)
        for _ in range(3):
            scale(server, SIGTTIN)
            eventually(lambda: sorted(workers_of(server)) == [1, 2, 3], "one more")
            scale(server, SIGTTOU)
            eventually(lambda: descriptors(server.pid) == before, "everything to be closed")


def test_new_connections_are_not_reset_while_workers_leave(control: Control) -> None:
    """As many connections as eight clients can make, each for one request."""
    with fleet(control, workers=3) as server:
        with Load(server, closing=8) as load:
            load.wait_for_answers(200)
            for _ in range(2):
                scale(server, SIGTTOU, SIGTTOU)
                eventually(lambda: sorted(workers_of(server)) == [1], "two to leave")
                time.sleep(3.5)  # the listeners are closed when the last handshakes must be over
                scale(server, SIGTTIN, SIGTTIN)
                eventually(lambda: sorted(workers_of(server)) == [1, 2, 3], "two to come")
                load.wait_for_answers(200)
        assert load.failures == []


# -- event loops that stand still


@once
def test_a_blocked_worker_is_told_of_and_the_others_serve_everybody(control: Control) -> None:
    with fleet(control) as server, server.connect() as client:
        client.request("/pause?2")  # noticed, and too short to be told of
        client.send(request_bytes("/pause?6"))
        (blocked,) = control.wait_for("blocking")
        server.output.wait_for(rf"\(pid {blocked}\) has not run its event loop for \d s:\n[\s\S]* in pause\n")
        assert server.output.text().count(" in pause\n") == 1, "stacks of both times"
        assert server.process.poll() is None
        with Load(server, closing=4) as load:
            load.wait_for_answers(100)
        assert load.failures == []
        assert client.read_response().value() == blocked, "it was not replaced"
        server.output.wait_for(rf"\(pid {blocked}\) runs its event loop again, after \d s")
        eventually(lambda: server.request("/").value() == blocked, "it to get its share again")


@once
@pytest.mark.parametrize("route", ["/block", "/spin"])
def test_a_worker_that_stays_blocked_is_replaced(control: Control, route: str) -> None:
    with fleet(control, "--timeout-worker-healthcheck", "5", workers=1) as server, contextlib.ExitStack() as clients:
        (old,) = workers_of(server).values()
        client = clients.enter_context(server.connect())
        client.send(request_bytes(route))
        control.wait_for("blocking")
        waiting = [clients.enter_context(server.connect()) for _ in range(20)]
        for client in waiting:
            client.send(request_bytes("/"))
        server.output.wait_for(
            r"has not run its event loop for \d s \(--timeout-worker-healthcheck\); starting another"
        )
        new = await_successor(server, 1, old)
        assert {client.read_response().value() for client in waiting} == {new}, "its queue is served"
        eventually(lambda: is_gone(old), "the blocked one to go")


@once
def test_nobody_is_blamed_for_the_time_in_which_all_were_stopped(control: Control) -> None:
    with fleet(control, "--timeout-worker-healthcheck", "4") as server:
        before = workers_of(server)
        os.killpg(server.pid, SIGSTOP)
        time.sleep(6)  # longer than an event loop may stand still
        os.killpg(server.pid, SIGCONT)
        server.signal(SIGUSR1)  # the first thing that the master sees
        time.sleep(2)
        assert workers_of(server) == before
        assert "has not run its event loop" not in server.output.text()


# -- recycling


def test_workers_are_replaced_by_age_under_load(control: Control) -> None:
    options = ("--limit-worker-lifetime", "1", "--limit-worker-lifetime-jitter", "1")
    with fleet(control, *options) as server:
        with load_on(server) as load:
            eventually(lambda: len(set(load.answers)) >= 8, "three replacements of each worker", timeout=60)
        assert load.failures == []
        assert re.search(
            r"has served for --limit-worker-lifetime \([12] s\) and gets a successor", server.output.text()
        )


@once
def test_a_worker_that_grows_too_large_is_replaced(control: Control) -> None:
    with fleet(control, "--limit-worker-rss", str(100 << 20), workers=1) as server:
        (old,) = workers_of(server).values()
        assert server.request("/grow").value() == old
        server.request("/grow")
        server.output.wait_for(r"holds more memory than --limit-worker-rss \(1\d\d MiB\) and gets a successor")
        await_successor(server, 1, old)
        eventually(lambda: is_gone(old), "the large one to leave")


@once
def test_a_limit_below_what_every_worker_needs_is_told_of(control: Control) -> None:
    with fleet(control, "--limit-worker-rss", str(1 << 20), workers=1) as server:
        server.output.wait_for(
            r"--limit-worker-rss \(\d+ MiB, from the beginning: no worker of this application will hold less\)"
        )


# -- logs


def has_open(pid: int, file: Path) -> bool:
    return any(opened.path == str(file) for opened in psutil.Process(pid).open_files())


def test_log_files_are_opened_anew(control: Control) -> None:
    configuration, file = control.directory / "log.json", control.directory / "server.log"
    handler = {"class": "logging.FileHandler", "filename": str(file)}
    loggers = {"ladybug": {"handlers": ["file"], "level": "INFO"}}
    configuration.write_text(json.dumps({"version": 1, "handlers": {"file": handler}, "loggers": loggers}))
    options = (APP, "--log-config", str(configuration))
    server = Server(*options, workers=2, env={"CONTROL": str(control.directory)})
    try:
        eventually(lambda: file.exists() and "Press Ctrl+C" in file.read_text(), "the server to start")
        server.port = int(re.findall(r"on http://127\.0\.0\.1:(\d+)", file.read_text())[0])
        moved = file.rename(control.directory / "server.log.1")
        server.signal(SIGUSR1)
        pids = (server.pid, *workers_of(server).values())
        eventually(lambda: not any(has_open(pid, moved) for pid in pids), "all of them to let go of the old file")
        size = moved.stat().st_size
        seen: set[int] = set()
        while len(seen) < 2:
            seen.add(server.request("/").value())
        old = workers_of(server)[1]
        os.kill(old, SIGKILL)
        eventually(lambda: f"(pid {old}) was killed" in file.read_text(), "the master to write there")
        eventually(lambda: '"GET / HTTP/1.1" 200' in file.read_text(), "workers to write there")
        assert moved.stat().st_size == size, "somebody still writes to the old file"
        assert server.stop() == 0
    finally:
        server.kill()


# -- another master


def masters_and_workers(group: int) -> dict[str, list[int]]:
    """The processes of a group by what they are."""
    found: dict[str, list[int]] = {"master": [], "worker": []}
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                for role, pids in found.items():
                    if title_of(process.pid).startswith(f"ladybug: {role}"):
                        pids.append(process.pid)
    return found


@linux
@pytest.mark.parametrize("bind", ["tcp", "unix"])
def test_a_new_master_takes_over_under_load(control: Control, bind: str) -> None:
    pid_file, path = control.directory / "pid", control.directory / "s"
    environment = {"CONTROL": str(control.directory)}
    options = ("--pid-file", str(pid_file), "--control-socket", str(control.directory / "c"))
    binds = ("--uds", str(path)) if bind == "unix" else ("--port", "0")
    server = Server(APP, *options, workers=2, bind=binds, env=environment)
    try:
        if bind == "unix":
            server.output.wait_for("on unix:")
            server.path = str(path)
        else:
            server.wait_until_listening()
        master = server.pid
        with load_on(server) as load:
            for _ in range(2):
                load.wait_for_answers(50)
                os.kill(master, SIGUSR2)
                eventually(lambda: int(pid_file.read_text()) != master, "a new master")  # noqa: B023 - called here
                master = int(pid_file.read_text())
                eventually(
                    lambda: (
                        {role: len(pids) for role, pids in masters_and_workers(server.pid).items()}
                        == {"master": 1, "worker": 2}
                    ),
                    "the old one to leave with its workers",
                )
            load.wait_for_answers(50)
        assert load.failures == []
        command = [*server_command(), "ctl", "status", "--json", "--control-socket", str(control.directory / "c")]
        status = json.loads(subprocess.check_output(command, cwd="/", env=server_environment()))
        assert (status["pid"], status["state"], status["workers"]) == (master, "running", 2)
        os.kill(master, SIGTERM)
        server.output.wait_until_closed()
        assert not pid_file.exists() and not path.exists()
        server.check_log()
    finally:
        server.kill()


@linux
@pytest.mark.parametrize("how", ["raise", "worker 2: raise"], ids=["nobody starts", "one serves already"])
def test_a_master_whose_successor_cannot_start_stays_in_charge(control: Control, how: str) -> None:
    with fleet(control) as server:
        before = workers_of(server)
        held = descriptors(server.pid)
        server.permit_error("no database")
        with load_on(server) as load:
            for number in range(3):
                control.boot(how)
                server.signal(SIGUSR2)
                eventually(
                    lambda: server.output.text().count("The upgrade is abandoned, and this master goes on") > number,  # noqa: B023
                    "the message",
                )
                load.wait_for_answers(50)
        assert load.failures == []
        assert workers_of(server) == before
        assert descriptors(server.pid) == held
        assert "the new one exited with code 3" in server.output.text()
        # What is left of the attempts must not be in the way of others.
        control.boot("")
        reload(server)


@linux
@once
def test_an_upgrade_whose_keeper_is_killed_has_failed_altogether(control: Control) -> None:
    """Nobody but its keeper knows of the new master: two that serve would be one too many."""
    with fleet(control) as server:
        before = workers_of(server)
        imported = len(control.pids("importing"))
        control.boot("hang")
        server.signal(SIGUSR2)
        control.wait_for("importing", imported + 1)
        (keeper,) = [
            pid for pid in children_of(server.pid) if title_of(pid).startswith("ladybug: keeper of a new master")
        ]
        (heir,) = children_of(keeper)
        os.kill(keeper, signal.SIGKILL)
        server.output.wait_for("The upgrade is abandoned, and this master goes on")
        eventually(lambda: is_gone(heir), "the new master to go")
        assert workers_of(server) == before
        control.boot("")
        reload(server)


@linux
@once
def test_a_stop_during_an_upgrade_stops_both(control: Control) -> None:
    with fleet(control) as server:
        imported = len(control.pids("importing"))
        control.boot("hang")
        server.signal(SIGUSR2)
        control.wait_for("importing", imported + 1)
        server.signal(SIGTERM)
        assert server.wait(10) == 0


# -- ladybug ctl


@once
def test_ctl_asks_and_commands(control: Control) -> None:
    path = str(control.directory / "c")

    def ctl(*words: str) -> str:
        command = [*server_command(), "ctl", *words, "--control-socket", path]
        return subprocess.check_output(command, cwd="/", env=server_environment(), text=True)

    with fleet(control, "--control-socket", path) as server:
        old = workers_of(server)
        os.kill(old[2], SIGKILL)
        new = await_successor(server, 2, old[2])
        status = json.loads(ctl("status", "--json"))
        assert (status["pid"], status["state"], status["workers"]) == (server.pid, "running", 2)
        first, second = status["slots"]
        assert [worker["pid"] for worker in second["workers"]] == [new]
        assert second["restarts"] == {"was killed by signal 9 (SIGKILL)": 1}
        assert (first["receiving"], first["waiting"]) == (True, 0 if sys.platform == "linux" else None)
        assert ctl("scale", "3") == "Going to 3.\n"
        eventually(lambda: sorted(workers_of(server)) == [1, 2, 3], "the third")
        assert ctl("reload") == "Reloading.\n"
        server.output.wait_for("Reloaded")
        assert "3 workers" in ctl("status")
        assert ctl("stop") == "Stopping.\n"
        assert server.wait() == 0


class Operator:
    """Types commands for the server whose control socket is in the test's directory."""

    def __init__(self, control: Control) -> None:
        self.path = str(control.directory / "c")
        self.option = ("--control-socket", self.path)

    def types(self, *words: str) -> tuple[int, str]:
        """The exit code, and all that is printed."""
        ran = subprocess.run(
            [*server_command(), "ctl", *words, *self.option],
            cwd="/",
            env=server_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return ran.returncode, ran.stdout


@once
def test_ctl_waits_for_what_comes_of_it(control: Control) -> None:
    operator = Operator(control)
    with fleet(control, *operator.option) as server:
        old = workers_of(server)
        assert operator.types("reload", "--wait") == (0, "Reloading.\nReloaded.\n")
        new = workers_of(server)
        assert not set(old.values()) & set(new.values())
        assert operator.types("scale", "3", "--wait") == (0, "Going to 3.\n3 workers serve.\n")
        assert sorted(workers_of(server)) == [1, 2, 3]
        assert operator.types("scale", "2", "--wait") == (0, "Going to 2.\n2 workers serve.\n")
        assert workers_of(server) == new
        assert operator.types("stop", "--wait") == (0, "Stopping.\nStopped.\n")
        assert server.process.wait(1) == 0


@once
def test_ctl_tells_why_it_came_to_nothing(control: Control) -> None:
    operator = Operator(control)
    with fleet(control, *operator.option) as server:
        server.permit_error("no database")
        before = workers_of(server)
        control.boot("raise")
        code, text = operator.types("reload", "--wait")
        assert code == 1
        assert "The reload is abandoned" in text and "no database" in text
        code, text = operator.types("scale", "3", "--wait")
        assert code == 1
        assert "Worker 3" in text and "no database" in text
        assert "Worker 3" in operator.types("status")[1]
        assert operator.types("scale", "2", "--wait")[0] == 0
        code, text = operator.types("upgrade", "--wait")
        assert code == 1
        assert "The upgrade is abandoned" in text
        control.boot("hang")
        assert operator.types("reload", "--wait", "--timeout", "1")[0] == 4
        assert server.request("/").value() in before.values()
        assert operator.types("stop", "--wait")[0] == 0
        assert server.wait() == 0


@once
def test_ctl_does_not_promise_what_will_not_be_done(control: Control) -> None:
    operator = Operator(control)
    with fleet(control, *operator.option, "--shutdown-delay", "600") as server:
        code, text = operator.types("scale", "501")
        assert (code, "More than 500 workers" in text) == (1, True)
        server.permit_error("no database")
        control.boot("raise")
        assert operator.types("reload", "--wait")[0] == 1
        assert operator.types("stop") == (0, "Stopping.\n")
        for command in (("scale", "3"), ("upgrade",), ("reload",)):
            code, text = operator.types(*command)
            assert (code, "no database" in text) == (1, False), text
        assert operator.types("stop", "--wait") == (0, "Stopping.\nStopped.\n")
        assert server.process.wait(1) == 0


@once
def test_a_fleet_that_is_scaled_while_it_boots_says_how_large_it_is(control: Control) -> None:
    operator = Operator(control)
    control.boot("hang")
    server = Server(APP, *operator.option, workers=1, env={"CONTROL": str(control.directory)})
    try:
        (hanging,) = control.wait_for("importing")
        control.boot("")
        assert operator.types("scale", "2")[0] == 0
        assert operator.types("reload", "--wait")[0] == 0
        server.output.wait_for(r"2 workers \u00b7 ")
        eventually(lambda: is_gone(hanging), "the one that hung to go")
        assert server.stop() == 0
    finally:
        server.kill()


@linux
@once
def test_the_number_of_workers_stays_while_a_successor_starts(control: Control) -> None:
    operator = Operator(control)
    server = Server(APP, *operator.option, workers=2, env={"CONTROL": str(control.directory)})
    try:
        server.wait_until_listening()
        imported = set(control.wait_for("importing", 2))
        control.boot("hang")
        server.signal(SIGUSR2)
        control.wait_for("importing", 4)
        server.signal(SIGTTIN)
        server.output.wait_for("The number of workers stays while a successor starts")
        assert operator.types("scale", "3") == (1, "Error: The number of workers stays while a successor starts.\n")
        assert json.loads(operator.types("status", "--json")[1])["state"] == "upgrading"
        os.kill((set(control.pids("importing")) - imported).pop(), SIGKILL)
        server.output.wait_for("The upgrade is abandoned, and this master goes on")
        # From here on it changes as before; and a successor has as many as there are, not as many as there were.
        control.boot("")
        assert operator.types("scale", "3", "--wait")[0] == 0
        code, text = operator.types("upgrade", "--wait")
        assert (code, "The new master" in text) == (0, True)
        server.output.wait_for(r"3 workers \u00b7 ")
        eventually(lambda: len(masters_and_workers(server.pid)["master"]) == 1, "the old one to leave")
        assert json.loads(operator.types("status", "--json")[1])["workers"] == 3
        assert operator.types("stop", "--wait")[0] == 0
        server.output.wait_until_closed()
    finally:
        server.kill()


# -- stops


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_with_everything_open(control: Control, workers: int) -> None:
    """A stream, a WebSocket, a connection that is idle, and a request that takes longer than the idle ones are given."""
    with fleet(control, workers=workers) as server, contextlib.ExitStack() as clients:
        stream, idle, running = (clients.enter_context(server.connect()) for _ in range(3))
        websocket = clients.enter_context(peer.connect(server)).open("/")
        stream.send(request_bytes("/events"))
        assert stream.read_head().status == 200
        idle.request("/")
        running.send(request_bytes("/wait"))
        control.wait_for("waiting")
        server.signal(SIGTERM)
        websocket.expect_closed_by_server(1012)
        control.wait_for("closed by 1012")
        idle.expect_end()
        control.go()
        response = running.read_response()
        assert (response.status, response.closes) == (200, True)
        stream.read_to_end()
        assert server.wait() == 0
        assert len(control.pids("shutdown")) == max(1, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_delayed_stop_serves_on_and_says_goodbye(control: Control, workers: int) -> None:
    with fleet(control, "--shutdown-delay", "3", workers=workers) as server, server.connect() as kept:
        pid = kept.request("/").value()
        server.signal(SIGTERM)
        eventually(lambda: "leaving" in title_of(pid), "the goodbye to begin")
        response = kept.request("/")
        assert (response.status, response.closes) == (200, True)
        with Load(server, closing=3) as load:
            load.wait_for_answers(20)
        assert load.failures == []
        assert server.wait(10) == 0


@linux
@pytest.mark.parametrize("number", [SIGHUP, SIGTTOU, SIGUSR2])
def test_who_is_replaced_says_goodbye_first_if_there_is_a_delay(control: Control, number: signal.Signals) -> None:
    with contextlib.ExitStack() as ends:
        server = ends.enter_context(fleet(control, "--shutdown-delay", "3"))
        workers = workers_of(server)
        kept: dict[int, Client] = {}
        while kept.keys() != set(workers.values()):
            client = ends.enter_context(server.connect())
            kept.setdefault(client.request("/").value(), client)
        leaving = {workers[2]: kept[workers[2]]} if number == SIGTTOU else kept
        server.signal(number)
        eventually(lambda: all("leaving" in title_of(pid) for pid in leaving), "the goodbyes to begin", timeout=30)
        with Load(server, closing=3) as load:
            load.wait_for_answers(20)
        for pid, client in leaving.items():
            # Whoever keeps a connection that idles is not met by its end.
            response = client.request("/")
            assert (response.value(), response.closes) == (pid, True)
        eventually(lambda: all(is_gone(pid) for pid in leaving), "those who were replaced to leave")
        assert load.failures == []
        if number == SIGUSR2:
            eventually(lambda: is_gone(server.pid), "the old master to leave")
            (successor,) = masters_and_workers(server.pid)["master"]
            os.kill(successor, SIGQUIT)
        else:
            server.signal(SIGQUIT)
        assert server.wait(10) == 0


@linux
@once
@pytest.mark.parametrize("how", ["killed", "blocked"])
def test_nobody_waits_for_who_dies_or_blocks_during_a_delay(control: Control, how: str) -> None:
    with fleet(control, "--shutdown-delay", "600") as server, server.connect() as client:
        victim = client.request("/").value()
        server.signal(SIGTERM)
        eventually(lambda: "leaving" in title_of(victim), "the goodbye to begin")
        if how == "killed":
            os.kill(victim, SIGKILL)
            eventually(lambda: is_gone(victim), "it to be gone")
        else:
            client.send(request_bytes("/block"))
            control.wait_for("blocking")
        with Load(server, closing=4) as load:
            load.wait_for_answers(100)
        assert load.failures == []
        assert victim not in load.answers
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, SIGKILL)
        server.signal(SIGTERM)
        assert server.wait(10) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_signal_ends_the_delay(control: Control, workers: int) -> None:
    with fleet(control, "--shutdown-delay", "600", workers=workers) as server:
        pid = server.request("/").value()
        server.signal(SIGTERM)
        eventually(lambda: "leaving" in title_of(pid), "the goodbye to begin")
        server.signal(SIGTERM)
        assert server.wait(10) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_quit_stops_at_once_and_in_order(control: Control, workers: int) -> None:
    with fleet(control, workers=workers) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        server.signal(SIGQUIT)
        control.wait_for("cancelled")
        assert server.wait(10) == 0
        assert pid in control.pids("shutdown")


@linux
@once
@pytest.mark.parametrize("route", ["/block", "/spin"])
def test_a_worker_that_blocks_while_it_drains_tells_where_it_is(control: Control, route: str) -> None:
    with fleet(control, "--timeout-graceful-shutdown", "0", workers=1) as server, server.connect() as client:
        client.send(request_bytes(route))
        control.wait_for("blocking")
        server.signal(SIGTERM)
        server.output.wait_for(r"has not stopped in time: killing it", timeout=30)
        server.output.wait_for(rf"is aborted: it was here\n[\s\S]* in {route[1:]}\n")
        assert server.output.text().count("killing it") == 1, "KILL was not needed"
        assert server.wait() == 1


@once
def test_a_worker_that_is_told_twice_to_drain_goes_on_draining(control: Control) -> None:
    """By hand, and then by the master."""
    with fleet(control, workers=1) as server, server.connect() as client:
        client.send(request_bytes("/wait"))
        (pid,) = control.wait_for("waiting")
        os.kill(pid, SIGTERM)
        eventually(lambda: "draining" in title_of(pid), "the drain to begin")
        server.signal(SIGTERM)
        server.output.wait_for("Stopping")
        os.kill(pid, SIGTERM)
        time.sleep(0.3)  # only time can show that nothing is cancelled
        assert control.pids("cancelled") == []
        control.go()
        assert client.read_response().value() == pid
        assert server.wait() == 0


@once
def test_signals_for_the_master_do_nothing_to_workers(control: Control) -> None:
    """pkill ladybug reaches all."""
    with fleet(control) as server:
        before = workers_of(server)
        for pid in before.values():
            for number in (SIGHUP, SIGTTIN, SIGTTOU, signal.SIGINT, SIGUSR1, signal.SIGWINCH):
                os.kill(pid, number)
        with Load(server, closing=2) as load:
            load.wait_for_answers(50)
        assert load.failures == []
        assert workers_of(server) == before


@once
def test_a_server_without_a_master_does_nothing_about_signals_for_one(control: Control) -> None:
    with fleet(control, workers=0) as server:
        for number in (SIGHUP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, signal.SIGWINCH):
            server.signal(number)
            assert server.request("/").value() == server.pid


@once
def test_a_master_does_nothing_about_other_signals(control: Control) -> None:
    with fleet(control) as server:
        before = workers_of(server)
        for number in (signal.SIGWINCH, signal.SIGCHLD, signal.SIGURG, SIGCONT):
            server.signal(number)
        assert server.request("/").value() in before.values()
        assert workers_of(server) == before


@linux
@once
def test_a_worker_that_dies_of_a_fatal_signal_says_where_it_was(control: Control) -> None:
    with fleet(control) as server:
        old = workers_of(server)[1]
        os.kill(old, signal.SIGABRT)
        server.output.wait_for(
            rf"Worker 1 \(pid {old}\) was killed by signal 6 \(SIGABRT\); starting another: it was here\n[\s\S]*File "
        )
        await_successor(server, 1, old)
