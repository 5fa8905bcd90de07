"""From settings to a running server and its exit code: what the command line and `ladybug.run` share.

The rooms that serve are imported when it is known which of them is needed: a master must not carry asyncio.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec

from setproctitle import getproctitle

from ladybug.config import Config
from ladybug.exceptions import STARTUP_FAILURE, ConfigError, StartupError
from ladybug.log import configure_logging
from ladybug.pid_file import PidFile
from ladybug.privileges import give_log_files, identity_of
from ladybug.systemd import take_listen_fds
from ladybug.upgrade import Inheritance

Settings = ParamSpec("Settings")


def _takes_what(config: Callable[Settings, Config]) -> Callable[[Callable[..., None]], Callable[Settings, None]]:
    """Give a function the signature of `Config`, for type checkers: settings are listed once, in the table."""
    return lambda function: function


@_takes_what(Config)
def run(*app: Any, **settings: Any) -> None:
    """Serve an application until a signal stops the server: `run("module:app", port=8080)` or `run(app)`.

    Takes what `Config` takes. With an import string there is a master and `workers` processes (default 1); with
    workers=0 or an application object the server runs in this process. Returns after a clean stop. Raises ConfigError
    for wrong settings and SystemExit(3) when the server cannot start, after the cause has been logged.

    In a thread that is not the main one no signal arrives, so there are no workers, and nobody can stop the server from
    outside: it serves until the process ends (make the thread a daemon). What has to be stopped, and whatever runs in an
    event loop that is there already, is a `Server`.
    """
    code = serve(Config(*app, **settings))
    if code:
        sys.exit(code)


def serve(config: Config, remarks: Iterable[str] = ()) -> int:
    """Serve until a signal stops the server, and return the exit code: 0 or STARTUP_FAILURE. Raises ConfigError.

    `remarks` on the settings are logged as warnings, as soon as there is a log.
    """
    if not isinstance(config.app, str) and config.workers > 1:
        raise ConfigError(
            f"workers: {config.workers} workers cannot share an application object; give it as an import string,"
            ' "module:attribute", so that each worker can import it'
        )
    if not isinstance(config.app, str) and config.reload:
        raise ConfigError(
            'reload: an application object cannot be imported again; give it as an import string, "module:attribute"'
        )
    if config.preload and (reason := _why_no_preload(config)):
        raise ConfigError(f"preload: {reason}")
    _refuse_recursion()
    _refuse_loop()
    if not _in_main_thread() and (config.reload or (config.workers > 0 and isinstance(config.app, str))):
        raise ConfigError(
            f"{'reload' if config.reload else 'workers'}: only the main thread gets signals, and without them no process can"
            " manage others. Call ladybug.run there, or give workers=0, or use ladybug.Server"
        )
    # To be able to change the title, setproctitle looks for the arguments in front of the first variable: before that
    # may be one of systemd's, which are taken away.
    getproctitle()
    _open_standard_descriptors()
    with _umask(config):
        configure_logging(config)
        for remark in remarks:
            logging.getLogger("ladybug.error").warning("%s", remark)
        if config.root_path and not config.root_path.startswith("/"):
            logging.getLogger("ladybug.error").warning(
                "root_path: %r does not begin with a slash, and so no path that the application sees will",
                config.root_path,
            )
        try:
            _listen_where_systemd_does(config)
            if (identity := identity_of(config)) is not None:
                give_log_files(identity)
            inheritance = Inheritance.take()
            with _pid_file(config, inheritance) as pid_file:
                return _serve(config, pid_file, inheritance)
        except StartupError as error:
            logging.getLogger("ladybug.error").error("%s", error)
            return STARTUP_FAILURE


def _listen_where_systemd_does(config: Config) -> None:
    """Socket activation: what systemd has opened is listened on, and nothing else."""
    fds = take_listen_fds()
    if not fds or config.fd == fds:  # --fd 3, as for servers that do not know LISTEN_FDS
        return
    for name in ("fd", "uds", "host", "port"):
        if name in config.given:
            raise ConfigError(
                f"{name}: systemd has opened what to listen on (LISTEN_FDS={len(fds)}): leave {name} out, or start the"
                " service without its socket unit"
            )
    config.fd = fds


@contextlib.contextmanager
def _umask(config: Config) -> Iterator[None]:
    """--umask, while we serve: the program that called gets its own back."""
    if config.umask is None:
        yield
        return
    before = os.umask(config.umask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _pid_file(config: Config, inheritance: Inheritance | None) -> Iterator[PidFile | None]:
    """--pid-file, while we serve; a successor takes it over later. A worker does not come back here: it exits."""
    if config.pid_file is None:
        yield None
        return
    pid_file = PidFile(config.pid_file)
    if inheritance is None:
        pid_file.claim()
    try:
        yield pid_file
    finally:
        pid_file.release()


def _open_standard_descriptors() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, as daemons do: a socket or an epoll with such a number is asking for trouble
    (uvloop aborts when it closes one)."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _serve(config: Config, pid_file: PidFile | None, inheritance: Inheritance | None) -> int:
    has_master = config.workers > 0 and isinstance(config.app, str) and not config.reload
    if "control_socket" in config.given and config.control_socket != "off" and not has_master:
        logging.getLogger("ladybug.error").warning(
            "--control-socket is left aside: without a master (--reload, --workers 0) there is nobody to answer there"
        )
    if config.reload:
        from ladybug.reload import run_reloader

        if config.workers > 1:
            logging.getLogger("ladybug.error").warning("--reload is for one worker: --workers is left aside")
        config.workers = 1
        return run_reloader(config)
    if has_master:
        from ladybug.master import run_master

        return run_master(config, pid_file, inheritance)
    if not _in_main_thread():
        return _serve_in_thread(config)
    from ladybug.worker import run_standalone

    return run_standalone(config)


def _serve_in_thread(config: Config) -> int:
    """Serve without what belongs to the whole process: signals, its title, an end by the alarm."""
    import asyncio

    from ladybug.about import start_lines
    from ladybug.listeners import close_listeners, describe, open_listeners, remove_path
    from ladybug.loops import loop_factory
    from ladybug.privileges import drop_privileges
    from ladybug.server import Server

    def announce() -> None:
        *lines, _ = start_lines(config, [describe(listener) for listener in listeners[0]])  # not how to stop it
        for line in lines:
            logger.info(line)

    logger = logging.getLogger("ladybug.error")
    listeners = open_listeners(config, 1)
    try:
        drop_privileges(config)
        server = Server(config)
        server.on_started = announce
        with asyncio.Runner(loop_factory=loop_factory(config)) as runner:
            runner.run(server.serve(listeners[0]))
        logger.info("Stopped")
    finally:
        close_listeners(listeners)
        remove_path(config)
    return 0


def _why_no_preload(config: Config) -> str:
    """Why --preload cannot be had; empty if it can."""
    if not isinstance(config.app, str):
        return 'an application object is loaded already; give it as an import string, "module:attribute"'
    if config.reload:
        return "--reload imports the application anew at each change; leave one of them out"
    if config.workers == 0:
        return "with --workers 0 nobody is forked; leave one of them out"
    if sys.platform != "linux":
        return "this needs Linux, where a process can adopt orphans (prctl(2))"
    return ""


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _refuse_loop() -> None:
    """In a coroutine, or in a notebook, a server that has a loop of its own would stop the loop that is running."""
    asyncio = sys.modules.get("asyncio")  # not imported: a master must not carry it
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise ConfigError(
            "ladybug.run was called where an event loop is running already; there, say"
            " `await ladybug.Server(ladybug.Config(app)).serve()`"
        )


def _refuse_recursion() -> None:
    """A module that calls `run` at its top level would, imported by a worker for its app, start a server in the worker."""
    importer = sys.modules.get("ladybug.importer")
    name = importer.now_importing() if importer is not None else None
    if name is not None:
        raise StartupError(
            f'ladybug.run was called while "{name}" was being imported. Put the call under: if __name__ == "__main__":'
        )
