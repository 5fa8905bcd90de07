"""The control socket: how `ladybug ctl` asks the master of a running server, and tells it.

A private Unix socket of the master. Who connects sends one line of JSON and gets one line back, then it is over:

    -> {"command": "scale", "workers": 4}
    <- {"ok": true, "text": "..."}                      what the command's function returned, and "ok"
    <- {"ok": false, "error": "..."}                    a refusal, complete sentences

Where it is: `--control-socket`, or, by default, <process id>.sock in the first of these directories that this user can
have for itself: $XDG_RUNTIME_DIR/ladybug, /run/ladybug (root), /tmp/ladybug-<user id>. So servers do not get into each
other's way, and whoever may send the master signals finds it there.

Rules:
- The master never waits for a client. Requests are bounded, so are clients and the time each may take; what is over is
  closed. Who has not asked yet gives way to the next.
- A path is there when it can be connected to: the socket is made under another name and then moved into place. A leftover
  refuses connections, and is removed.
- A directory that somebody else could have made, or can write in, is not trusted, on either side.
- No asyncio: the master imports this room. Paths are os's, because pathlib and what comes with it is 0.6 MiB.
"""

# ruff: noqa: PTH100, PTH101, PTH102, PTH104, PTH108, PTH117, PTH118, PTH123, PTH208

import contextlib
import errno
import json
import logging
import os
import resource
import select
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

from ladybug.exceptions import StartupError

logger = logging.getLogger("ladybug.error")

# A request is a short line; whoever sends more is not ours.
MOST_REQUEST = 4096
# Who asks at the same time, and who else may wait; further ones are refused by the kernel (EAGAIN).
MOST_CLIENTS = 8
QUEUE = 64
# Seconds from connecting to having taken the whole answer.
PATIENCE = 5.0
# Seconds until another attempt when somebody waits and cannot be accepted, above all for want of descriptors.
RETRY = 0.5

# Arguments of a request in, members of the answer out; for Refused, the error.
Command = Callable[[Mapping[str, Any]], Mapping[str, Any]]

# The commands and what goes with them; what `ladybug ctl` sends and understands.
#
#     status                    out: Status
#     reload, stop, upgrade     out: {"text": what has begun, for the user}
#     scale                     in: "workers", a whole number from 1; out: {"text": ...}


class Refused(Exception):
    """A command cannot be obeyed now; the text says why, and what to do."""


class WorkerStatus(TypedDict):
    """One worker process. Times are seconds, `memory` is its resident set in bytes."""

    pid: int
    generation: int
    state: str
    age: float
    silent: float  # since the last sign of life of its event loop
    connections: int
    in_flight: int
    requests: int
    memory: int | None


class SlotStatus(TypedDict):
    """One slot, counted from 1."""

    slot: int
    receiving: bool  # the kernel gives it new connections
    waiting: int | None  # connections in its queues
    restarts: dict[str, int]  # how often its workers were replaced, by reason
    trouble: str  # why nobody serves there, if a worker could not be started; else empty
    workers: list[WorkerStatus]


class Status(TypedDict):
    """The whole fleet."""

    pid: int
    version: str
    app: str
    addresses: list[str]
    state: str
    age: float
    under_way: list[str]  # "reload", "upgrade"
    workers: int  # how many there should be
    slots: list[SlotStatus]
    message: str  # what the operator should know, such as why a reload was given up; else empty


class ControlServer:
    """The master's side. Raises OSError if the socket cannot be made.

        server = ControlServer(path, {"status": ..., "reload": ...})
        poll: for fd, events in server.interests()              until server.next_deadline()
        server.serve(time.monotonic())                          whatever the poll has said

    `path` has to be free: see `open_control`.
    """

    def __init__(self, path: str, commands: Mapping[str, Command]) -> None:
        self.path = path
        self._commands = commands
        self._clients: list[_Client] = []
        self._accept_at: float | None = None  # after an error: until then the listener is not polled
        self._listener = _listen(path)
        self._identity = _identity(path)

    def interests(self) -> Iterator[tuple[int, int]]:
        """What to poll for: descriptors and events of poll(2)."""
        if self._accept_at is None and self._has_room():
            yield self._listener.fileno(), select.POLLIN
        for client in self._clients:
            yield client.fd, select.POLLOUT if client.has_asked else select.POLLIN

    def next_deadline(self) -> float | None:
        """When `serve` has to be called if nothing happens before; None: never."""
        deadlines = [client.deadline for client in self._clients]
        if self._accept_at is not None:
            deadlines.append(self._accept_at)
        return min(deadlines, default=None)

    def serve(self, now: float) -> None:
        """Do all that can be done without waiting: accept, read, obey, answer, and let go of who takes too long."""
        if self._accept_at is None or self._accept_at <= now:
            self._accept(now)
        for client in self._clients:
            client.serve(self._answer)
            client.is_over |= client.deadline <= now
            if client.is_over:
                client.close()
        self._clients = [client for client in self._clients if not client.is_over]

    def _accept(self, now: float) -> None:
        self._accept_at = None
        while self._has_room():
            try:
                connection = self._listener.accept()[0]
            except BlockingIOError:
                return
            except OSError:
                # Who could not be accepted goes on waiting, so the listener stays readable: polled, it would never rest.
                self._accept_at = now + RETRY
                return
            if len(self._clients) == MOST_CLIENTS:
                silent = next(client for client in self._clients if not client.has_asked)
                silent.close()
                self._clients.remove(silent)
            self._clients.append(_Client(connection, now + PATIENCE))

    def _has_room(self) -> bool:
        return len(self._clients) < MOST_CLIENTS or not all(client.has_asked for client in self._clients)

    def close(self) -> None:
        """The end: let the last answers go, remove the path if it is still ours."""
        if _identity(self.path) == self._identity:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.forget()

    def forget(self) -> None:
        """In a forked child: all of this is the parent's."""
        self._listener.close()
        for client in self._clients:
            client.close()
        self._clients = []

    def _answer(self, line: bytes) -> bytes:
        try:
            return _line({**self._obey(line), "ok": True})
        except Refused as error:
            return _line({"error": str(error), "ok": False})
        except Exception as error:
            # Whatever is wrong with a command, the fleet is worth more.
            logger.exception("A command on the control socket has failed")
            return _line({"error": f"The server made a mistake: {error!r}; its log says more.", "ok": False})

    def _obey(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            known = ", ".join(self._commands)
            raise Refused(f"A request is a JSON object with a command, which is one of: {known}.") from None
        return command(request)


class _Client:
    """One connection: a line is read, then a line is written."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._received = b""
        self._unsent = b""
        self.fd = connection.fileno()
        self.deadline = deadline
        self.has_asked = False
        self.is_over = False

    def serve(self, answer: Callable[[bytes], bytes]) -> None:
        try:
            if not self.has_asked:
                self._read(answer)
            if self.has_asked:
                self._unsent = self._unsent[self._connection.send(self._unsent) :]
                self.is_over = not self._unsent
        except BlockingIOError:
            pass
        except OSError:
            self.is_over = True

    def _read(self, answer: Callable[[bytes], bytes]) -> None:
        data = self._connection.recv(MOST_REQUEST + 1)
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        if newline:
            self.has_asked = True
            self._unsent = answer(line)
        elif not data or len(self._received) > MOST_REQUEST:
            self.is_over = True

    def close(self) -> None:
        self.is_over = True
        self._connection.close()


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def open_control(setting: str, commands: Mapping[str, Command], *, replace: bool = False) -> ControlServer | None:
    """The control socket where --control-socket wants it: a path, "auto" or "off" (None).

    replace     the path may be a running server's: that of our predecessor, who leaves it to us

    Raises StartupError if a path that was given cannot be had. A default that cannot be had is only worth a line in the log.
    """
    if setting == "off":
        return None
    if setting == "auto":
        return _open_default(commands)
    path = os.path.abspath(setting)
    try:
        if not replace and not _free(path):
            raise StartupError(f"{path} is in use by another server: choose another --control-socket.")
        return ControlServer(path, commands)
    except OSError as error:
        raise StartupError(
            f"{path} cannot be made: {error.strerror or error}. Choose another --control-socket."
        ) from error


def _open_default(commands: Mapping[str, Command]) -> ControlServer | None:
    reason = "there is no directory for it"
    for directory in directories():
        try:
            if _make_private(directory):
                _remove_leftovers(directory)
                return ControlServer(os.path.join(directory, f"{os.getpid()}.sock"), commands)
            reason = f"{directory} is not private to this user"
        except OSError as error:
            reason = f"{directory}: {error.strerror or error}"
    logger.info("No control socket, so ladybug ctl will not find this server (%s)", reason)
    return None


def _remove_leftovers(directory: str) -> None:
    for path in _sockets(directory):
        with contextlib.suppress(OSError):
            _free(path)


# -- for the answers


def whole_argument(request: Mapping[str, Any], name: str, low: int) -> int:
    """A whole number that has to be in a request. Raises Refused."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise Refused(f"{name} has to be a whole number, at least {low}.")
    return value


def resident_memory(pid: int) -> int | None:
    """Bytes that a process has in memory; None if that cannot be said (it has gone, or there is no /proc)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


def waiting_connections(listener: socket.socket) -> int | None:
    """How many connections wait to be accepted; None if that cannot be said (not Linux, a Unix socket)."""
    if sys.platform == "linux" and listener.family in (socket.AF_INET, socket.AF_INET6):
        # struct tcp_info (linux/tcp.h): eight bytes, four words, then tcpi_unacked, which of a listener is sk_ack_backlog.
        with contextlib.suppress(OSError):
            waiting: int = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)[0]
            return waiting
    return None


# -- for the client


def directories() -> list[str]:
    """Where control sockets are by default, best first."""
    user = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return [
        *([os.path.join(runtime, "ladybug")] if os.path.isabs(runtime) else []),
        *(["/run/ladybug"] if user == 0 else []),
        f"/tmp/ladybug-{user}",  # not $TMPDIR: server and client need not have the same
    ]


def running() -> list[str]:
    """The control sockets of this user's servers, in the directories above, as far as they answer."""
    found = []
    for directory in directories():
        with contextlib.suppress(OSError):
            if is_private(directory):
                found += [path for path in _sockets(directory) if _answers(path)]
    return found


def ask(path: str, command: str, timeout: float = 2 * PATIENCE, **arguments: Any) -> dict[str, Any]:
    """Ask the server at `path` and return its answer, without "ok". Raises Refused if it refuses, OSError if it cannot be
    reached or does not answer in `timeout` seconds."""
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(_line({"command": command, **arguments}))
        received = bytearray()
        while data := connection.recv(65536):
            received += data
            connection.settimeout(max(0.001, end - time.monotonic()))
    try:
        answer = json.loads(received)
        is_ok = answer.pop("ok")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise OSError(errno.EPROTO, "it answers with something else than this command understands") from None
    if not is_ok:
        raise Refused(str(answer.get("error")))
    return dict(answer)


# -- paths


def is_private(directory: str) -> bool:
    """True if it is a directory, not a link to one, that is this user's and nobody else's. Raises OSError."""
    found = os.lstat(directory)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _sockets(directory: str) -> list[str]:
    """The paths of control sockets there; not of those that are being made."""
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".sock")]


def _make_private(directory: str) -> bool:
    """Make it, if it is not there; then as `is_private`."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    return is_private(directory)


def _listen(path: str) -> socket.socket:
    with contextlib.ExitStack() as on_failure:
        listener = on_failure.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.setblocking(False)
        # Nobody can connect before it listens, and by then it is private.
        unfinished = f"{path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        listener.bind(unfinished)
        on_failure.callback(os.unlink, unfinished)
        os.chmod(unfinished, 0o600)
        listener.listen(QUEUE)
        os.rename(unfinished, path)
        on_failure.pop_all()
    return listener


def _identity(path: str) -> tuple[int, int] | None:
    """What tells the socket at `path` from one that takes its place."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _free(path: str) -> bool:
    """Remove what a server that is gone has left at `path`; False if somebody is there. Raises OSError if it is a file."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "it exists and is not a socket")
        if _answers(path):
            return False
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _answers(path: str) -> bool:
    """True if somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True
