"""--reload: which files matter; and real servers whose files change."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from ladybug.config import Config
from ladybug.exceptions import ConfigError, StartupError
from ladybug.launch import serve as launch
from tests.integration.support import (
    DEADLINE,
    Client,
    Program,
    Response,
    eventually,
    request_bytes,
    server_command,
    variant_options,
)

pytest.importorskip("watchfiles")

from ladybug.reload import Watched

# -- which files matter


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that looks like a project."""
    for name in ("src", "lib", "tests", ".venv", "src/pages"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def watched(**settings: Any) -> Watched:
    return Watched(Config("main:app", **settings))


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({}, "main.py", True),
        ({}, "src/pages/views.py", True),
        ({}, "src/pages/index.html", False),
        ({}, "src/.hidden.py", False),
        ({}, "src/.#views.py", False),
        ({}, "main.pyc", False),
        ({}, ".venv/lib/x.py", False),
        ({}, "src/.git/hooks/x.py", False),
        ({"reload_includes": ["*.html"]}, "src/pages/index.html", True),
        ({"reload_includes": ["*.html"]}, "main.py", True),
        ({"reload_includes": ["pages/*.html"]}, "src/pages/index.html", True),
        ({"reload_includes": ["pages/*.html"]}, "src/index.html", False),
        ({"reload_includes": [".env"]}, ".env", True),
        ({"reload_includes": [".*"]}, ".hidden.py", True),
        ({"reload_excludes": ["test_*"]}, "src/test_views.py", False),
        ({"reload_excludes": ["tests"]}, "tests/views.py", False),
        ({"reload_excludes": ["tests"]}, "src/views.py", True),
        ({"reload_excludes": ["*.py"]}, "src/views.py", False),
    ],
)
def test_a_change_matters_or_not(here: Path, settings: dict[str, Any], name: str, expected: bool) -> None:
    assert watched(**settings).matches(str(here / name)) is expected


def test_what_is_hidden_above_the_watched_directory_does_not_matter(here: Path) -> None:
    (here / ".cache" / "project").mkdir(parents=True)
    found = watched(reload_dirs=[".cache/project"])
    assert found.matches(str(here / ".cache" / "project" / "main.py"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["."]),
        ({"app_dir": "src"}, ["."]),
        ({"reload_dirs": ["src"]}, ["src"]),
        ({"reload_dirs": ["src", "src/pages", "lib", "src"]}, ["src", "lib"]),
        ({"reload_dirs": ["src"], "reload_includes": ["lib", "*.html"]}, ["src", "lib"]),
    ],
)
def test_these_directories_are_watched(here: Path, settings: dict[str, Any], expected: list[str]) -> None:
    assert watched(**settings).directories == [here / name for name in expected]


def test_an_application_elsewhere_is_watched_too(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    assert watched(app_dir=str(other)).directories == [here, other]


def test_impossible_directories_are_named(here: Path) -> None:
    with pytest.raises(StartupError, match=r"^There is no directory nowhere to watch \(--reload-dir\)\.$"):
        watched(reload_dirs=["nowhere"])
    with pytest.raises(StartupError, match=r"^Watching all files of the machine would take too long"):
        watched(reload_dirs=["/"])


def test_an_application_object_cannot_be_reloaded() -> None:
    with pytest.raises(ConfigError, match=r"^reload: an application object cannot be imported again"):
        launch(Config(lambda scope: None, reload=True))


# -- real servers

APPLICATION = """
import asyncio, os, time
{top}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        {shutdown}
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    if scope["path"] == "/block":
        time.sleep(600)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    while scope["path"] == "/events":
        await send({{"type": "http.response.body", "body": b"data: now\\n\\n", "more_body": True}})
        await asyncio.sleep(0.02)
    await send({{"type": "http.response.body", "body": b"{version} %d" % os.getpid()}})
"""


class Project:
    """A directory with an application in it, and the server that reloads it."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.write("1")
        command = [*server_command(), "main:app", "--reload", "--port", "0", *variant_options(), *options]
        self.program = Program(command, cwd=directory)
        self.output = self.program.output
        self.port = int(self.output.wait_for(r"on http://127\.0\.0\.1:(\d+)")[1])
        self.output.wait_for("Watching for changes in")

    def write(self, version: str, *, top: str = "", shutdown: str = "pass", name: str = "main.py") -> None:
        """As editors do: the new file is moved into place."""
        text = APPLICATION.format(version=version, top=top, shutdown=shutdown)
        draft = self.directory / "draft"
        draft.write_text(text)
        # Python takes a compiled module for current while time (in seconds) and size are the same.
        shutil.rmtree(self.directory / "__pycache__", ignore_errors=True)
        draft.replace(self.directory / name)

    def connect(self) -> Client:
        return Client(("127.0.0.1", self.port))

    def ask(self, target: str = "/") -> str:
        """The version that answers."""
        with self.connect() as client:
            return client.request(target).body.decode().partition(" ")[0]

    def becomes(self, version: str) -> None:
        eventually(lambda: self.ask() == version, f"version {version}")

    def children(self) -> dict[str, int]:
        """Process ids by title."""
        found = {}
        for child in psutil.Process(self.program.pid).children():
            with contextlib.suppress(psutil.Error):
                found[" ".join(child.cmdline()).rstrip()] = child.pid
        return found


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield from running(made)


def running(made: Project) -> Iterator[Project]:
    try:
        made.becomes("1")
        yield made
        if made.program.process.poll() is None:
            made.program.signal(signal.SIGINT)
            assert made.program.wait() == 0, made.output.text()
        made.program.check_log()
    finally:
        if made.program.process.poll() is None:
            made.program.kill()


def test_a_change_is_served_soon(project: Project) -> None:
    """Half a second is the promise; a test on a busy machine only sees that it is no other order."""
    took = []
    for version in range(2, 7):
        begin = time.monotonic()
        project.write(str(version))
        project.becomes(str(version))
        took.append(time.monotonic() - begin)
    assert median(took) < 3.0, took
    project.output.wait_for(r"main\.py has changed: restarting")


def test_nobody_is_refused_meanwhile_and_each_answer_is_whole(project: Project) -> None:
    """Connections wait in the queue; only one that was sent at the moment of the stop may find it closed."""
    versions: list[str] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            try:
                versions.append(project.ask())
            except BaseException as error:
                failures.append(error)
                return

    visitors = [threading.Thread(target=visit) for _ in range(3)]
    for visitor in visitors:
        visitor.start()
    for version in "234":
        project.write(version)
        project.becomes(version)
    over.set()
    for visitor in visitors:
        visitor.join(DEADLINE)
    assert not failures
    assert {"1", "2", "3", "4"} == set(versions)


def test_streams_do_not_hold_a_restart_up(project: Project) -> None:
    with project.connect() as client:
        client.send(request_bytes("/events"))
        client.read_head()
        begin = time.monotonic()
        project.write("2")
        project.becomes("2")
        # Not --timeout-graceful-shutdown, which is 30 s.
        assert time.monotonic() - begin < 5.0


@pytest.mark.slow
def test_a_blocked_worker_is_killed(project: Project) -> None:
    with project.connect() as client:
        client.send(request_bytes("/block"))
        project.write("2")
        project.output.wait_for("The worker has not stopped within 5.5 s: killing it")
        project.becomes("2")


def in_background(ask: Callable[[], Response]) -> Callable[[], Response]:
    answers: list[Response] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()

    def result() -> Response:
        thread.join(DEADLINE)
        return answers[0]

    return result


def test_a_broken_application_says_why_once_and_waits_for_the_next_change(project: Project) -> None:
    project.write("2", top="raise LookupError('broken on purpose')")
    project.program.expect_error("broken on purpose")
    project.output.wait_for("Waiting for a change")
    assert project.output.text().count("broken on purpose") == 2  # the line of the traceback, and its last one
    assert not any("worker" in name for name in project.children())
    with project.connect() as client:
        # It is not refused: it waits for what comes next.
        client.send(request_bytes("/"))
        assert not client.readable(0.2)
        project.write("3")
        assert client.read_response().body.startswith(b"3 ")


def test_an_application_that_is_broken_from_the_beginning_can_be_mended(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("def broken\n")
    command = [*server_command(), "main:app", "--reload", "--port", "0", *variant_options()]
    program = Program(command, cwd=tmp_path)
    try:
        port = int(program.output.wait_for(r"on http://127\.0\.0\.1:(\d+)")[1])
        program.output.wait_for("Waiting for a change")
        program.permit_error("SyntaxError")
        draft = tmp_path / "draft"
        draft.write_text(APPLICATION.format(version="2", top="", shutdown="pass"))
        draft.replace(tmp_path / "main.py")
        with Client(("127.0.0.1", port)) as client:
            assert client.request("/").body.startswith(b"2 ")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        program.check_log()
    finally:
        if program.process.poll() is None:
            program.kill()


def test_an_application_that_dies_waits_for_the_next_change(project: Project) -> None:
    (worker,) = (pid for name, pid in project.children().items() if "worker" in name)
    os.kill(worker, signal.SIGKILL)
    project.output.wait_for(r"The worker was killed by signal 9 \(SIGKILL\)\. Waiting for a change")
    project.write("2")
    project.becomes("2")


NONSENSE = """
import stat
for fd in range(3, 100):
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.write(fd, b"\\xff" * 100)
    except OSError:
        pass
"""


def test_a_worker_that_sends_nonsense_is_killed_and_waits_for_the_next_change(project: Project) -> None:
    project.write("2", top=NONSENSE + "time.sleep(600)")
    project.output.wait_for("The worker is killed: it has sent a message that it may not send")
    project.output.wait_for(r"The worker was killed by signal 9 \(SIGKILL\)\. Waiting for a change")
    project.write("3")
    project.becomes("3")


def test_many_changes_are_few_restarts(project: Project) -> None:
    for number in range(40):
        (project.directory / f"module{number}.py").write_text(f"N = {number}\n")
    project.write("2")
    project.becomes("2")
    assert 1 <= project.output.text().count("restarting") <= 3
    assert re.search(r"and \d+ more have changed", project.output.text())


def test_a_change_while_the_application_is_imported_interrupts_the_import(project: Project) -> None:
    project.write("2", top="open('importing', 'w').close(); time.sleep(600)")
    eventually(lambda: (project.directory / "importing").exists(), "the import to begin")
    project.write("3")
    project.becomes("3")


def test_lifespan_shutdown_runs_before_the_next_one_starts(project: Project) -> None:
    project.write("2", shutdown="await asyncio.sleep(0.2); open('over', 'w').close()")
    project.becomes("2")
    project.write("3", top="assert os.path.exists('over')")
    project.becomes("3")


def test_ctrl_c_ends_all_processes_at_once(project: Project) -> None:
    names = sorted(project.children())
    assert [name.partition(" [")[0] for name in names] == ["ladybug: watcher", "ladybug: worker 1"]
    with project.connect() as client:
        client.send(request_bytes("/events"))
        client.read_head()
        # A terminal sends it to the whole foreground process group.
        os.killpg(project.program.pid, signal.SIGINT)
        assert project.program.wait(DEADLINE) == 0
    assert "KeyboardInterrupt" not in project.output.text()
    project.output.wait_for("Stopped")


def test_ctrl_c_while_the_application_is_broken_ends_it(project: Project) -> None:
    project.write("2", top="raise LookupError('broken on purpose')")
    project.program.expect_error("broken on purpose")
    project.output.wait_for("Waiting for a change")
    project.program.signal(signal.SIGINT)
    assert project.program.wait(DEADLINE) == 0


def test_nothing_is_left_when_the_reloader_is_killed(project: Project) -> None:
    children = [psutil.Process(pid) for pid in project.children().values()]
    assert len(children) == 2
    project.program.signal(signal.SIGKILL)
    project.program.process.wait(DEADLINE)
    eventually(lambda: not any(child.is_running() for child in children), "the others to follow")
    project.output.wait_until_closed()


def test_hup_restarts_by_hand(project: Project) -> None:
    before = project.children()
    project.program.signal(signal.SIGHUP)
    project.output.wait_for("Asked to restart: restarting[\\s\\S]*Serving again")
    assert project.children() != before


def test_signals_for_a_fleet_do_nothing(project: Project) -> None:
    before = project.children()
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        project.program.signal(number)
    project.write("2")
    project.becomes("2")
    assert len(project.children()) == len(before)


def test_quit_is_a_stop(project: Project) -> None:
    children = [psutil.Process(pid) for pid in project.children().values()]
    project.program.signal(signal.SIGQUIT)
    assert project.program.wait(DEADLINE) == 0
    project.output.wait_for("Stopped")
    assert not any(child.is_running() for child in children)


def test_log_files_are_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    (tmp_path / "log.ini").write_text(
        "[loggers]\nkeys=root,lines\n[handlers]\nkeys=file,lines\n[formatters]\nkeys=\n"
        f"[logger_root]\nhandlers=file\n[handler_file]\nclass=FileHandler\nargs=({str(file)!r},)\n"
        "[logger_lines]\nlevel=INFO\nhandlers=lines\nqualname=ladybug\n[handler_lines]\nclass=StreamHandler\nargs=()\n"
    )

    def holds(pid: int, path: Path) -> bool:
        return any(opened.path == str(path) for opened in psutil.Process(pid).open_files())

    with contextlib.contextmanager(running)(Project(tmp_path, "--log-config", "log.ini")) as project:
        (worker,) = (pid for name, pid in project.children().items() if "worker" in name)
        pids = [project.program.pid, worker]
        assert all(holds(pid, file) for pid in pids)
        moved = file.rename(tmp_path / "server.log.1")
        project.program.signal(signal.SIGUSR1)
        eventually(lambda: not any(holds(pid, moved) for pid in pids), "both to let go of the old file")
        assert project.ask() == "1"
        assert worker in project.children().values()


def test_a_control_socket_is_left_aside(tmp_path: Path) -> None:
    for project in running(Project(tmp_path, "--control-socket", str(tmp_path / "c"))):
        project.output.wait_for("--control-socket is left aside: without a master")


def test_workers_are_left_aside(tmp_path: Path) -> None:
    for project in running(Project(tmp_path, "--workers", "3")):
        project.output.wait_for("--reload is for one worker: --workers is left aside")
        assert len([name for name in project.children() if "worker" in name]) == 1
