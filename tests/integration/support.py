"""What the integration suites stand on: a real server process, and a client that sees every byte.

Rules of this room:
- The server is always a process of its own, started by the command users type. Nothing of it is imported here.
- Every wait is for an event (a line of output, a byte, an exit) and has a bound; nothing sleeps and hopes.
- Whatever the client reads is checked against RFC 9112 while it is read: a malformed answer fails every test that meets it.
- A traceback, a lost task or a leaked process that no test announced fails the suite that started the server.

From the environment:
- LADYBUG_TEST_COMMAND  the server's command (default: `ladybug` beside this interpreter, else `python -m ladybug`)
- LADYBUG_TEST_LOOP     passed as --loop
- LADYBUG_TEST_POLLER   passed as --poller
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import re
import resource
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

MIB: Final = 1 << 20
# Seconds any single awaited event may take before the test fails. Generous, because it is only ever spent by a failure.
DEADLINE: Final = 15.0
# Seconds of silence that count as "nothing is coming", where only silence can show it.
QUIET: Final = 0.5

ROOT: Final = Path(__file__).resolve().parents[2]
APPS: Final = "tests.integration.apps"

_ANNOUNCEMENT: Final = re.compile(r"\bon https?://(?:\[[^\]]*\]|[^\s:]*):(\d+)")
# Output that says something went wrong inside the server, wherever it stands.
_ALARM: Final = re.compile(
    r"Traceback \(most recent call last\)|was never retrieved|was never awaited|Task was destroyed"
)
# Where a log record begins; a traceback, with all that is chained to it, belongs to the record above it.
_RECORD_START: Final = re.compile(
    r"^(?=(?:DEBUG|INFO|WARNING|ERROR|CRITICAL|TRACE):|.*(?:was never retrieved|was never awaited|Task was destroyed))",
    re.M,
)
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_STATUS_LINE: Final = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}")
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

_keys = itertools.count()


def fresh_key() -> str:
    """A name for one note on an application's board, never used before by this process."""
    return f"{os.getpid()}-{next(_keys)}"


def server_command() -> list[str]:
    """The command that starts the server, without its arguments."""
    override = os.environ.get("LADYBUG_TEST_COMMAND")
    if override:
        return shlex.split(override)
    installed = Path(sys.executable).parent / "ladybug"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "ladybug"]


# Variables that servers heed beside LADYBUG_*.
SETTING_NAMES: Final = frozenset({"WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "NO_COLOR", "FORCE_COLOR"})


def server_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without anything that would change the server's settings behind a test's back."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LADYBUG_") and name not in SETTING_NAMES
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


def variant_options() -> list[str]:
    """The event loop and the poller this run of the suite is about."""
    options: list[str] = []
    for flag, name in (("--loop", "LADYBUG_TEST_LOOP"), ("--poller", "LADYBUG_TEST_POLLER")):
        if value := os.environ.get(name):
            options += [flag, value]
    return options


def eventually(condition: Callable[[], bool], what: str, timeout: float = DEADLINE) -> None:
    """Wait for something only looking can show (a process table, a counter). Fails with `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s for: {what}"
        select.select([], [], [], 0.02)


class Output:
    """What a process has written so far, by stream, and a way to wait for a line of it."""

    def __init__(self, **streams: IO[bytes] | None) -> None:
        self._changed = threading.Condition()
        self._lines: dict[str, list[str]] = {name: [] for name in streams}
        self._open = len(streams)
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in streams.items()
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines[name].append(line.decode(errors="replace"))
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def text(self, *names: str) -> str:
        """Everything written so far to the named streams (all of them by default)."""
        with self._changed:
            return "".join(line for name in names or tuple(self._lines) for line in self._lines[name])

    def wait_for(self, pattern: str | re.Pattern[str], timeout: float = DEADLINE) -> re.Match[str]:
        """The first match of `pattern` in the output, as soon as it is there."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                text = "".join(line for lines in self._lines.values() for line in lines)
                if match := re.search(pattern, text):
                    return match
                assert self._open, f"the process ended without writing {pattern!r}:\n{text}"
                assert self._changed.wait(end - time.monotonic()), f"{timeout} s without {pattern!r} in:\n{text}"

    def wait_until_closed(self, timeout: float = DEADLINE) -> None:
        """Until every process that could write here has gone."""
        end = time.monotonic() + timeout
        for reader in self._readers:
            reader.join(max(0.0, end - time.monotonic()))
            assert not reader.is_alive(), f"somebody still holds the server's output open:\n{self.text()}"


class Program:
    """A child process in a session of its own, whose output can be awaited and whose end is always checked."""

    def __init__(
        self,
        command: list[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        open_files: int | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        """Start `command`; `open_files` is the RLIMIT_NOFILE it gets (None: ours), `pass_fds` are files it inherits."""

        def limit_open_files() -> None:
            if open_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        self.process = subprocess.Popen(
            command,
            env=server_environment(env),
            # Not the source tree: what is installed is what is tested.
            cwd=cwd or "/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=limit_open_files,
        )
        self.output = Output(stdout=self.process.stdout, stderr=self.process.stderr)
        self._announced_errors: set[str] = set()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process users started (not to its children)."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit code, once the process and everything it started have gone."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.output.text()}") from None
        self.output.wait_until_closed()
        return code

    def kill(self) -> None:
        """End the process and all its children now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)

    def expect_error(self, marker: str) -> None:
        """Wait until the log holds a traceback with `marker` in it; such tracebacks are then no alarm at the end."""
        self._announced_errors.add(marker)
        self.output.wait_for(rf"Traceback \(most recent call last\)[\s\S]*{re.escape(marker)}")

    def permit_error(self, marker: str) -> None:
        """Tracebacks with `marker` in them are no alarm at the end, whether they appear or not."""
        self._announced_errors.add(marker)

    def check_log(self) -> None:
        """Fail if the output holds a traceback or a lost task that no test announced."""
        for record in _RECORD_START.split(self.output.text("stderr") + self.output.text("stdout")):
            if _ALARM.search(record):
                assert any(marker in record for marker in self._announced_errors), f"unexpected in the log:\n{record}"


class Server(Program):
    """One running server: where it listens, what it logs, how it ended."""

    def __init__(
        self,
        app: str,
        *options: str,
        workers: int = 0,
        env: Mapping[str, str] | None = None,
        open_files: int | None = None,
        cwd: Path | None = None,
        bind: tuple[str, ...] = ("--host", "127.0.0.1", "--port", "0"),
    ) -> None:
        target = app if "." in app else f"{APPS}.{app}"
        command = [
            *server_command(),
            target,
            *("--app-dir", str(ROOT)),
            *bind,
            *("--workers", str(workers)),
            # A test that fails may leave a request behind that never ends; the stop need not wait long for it.
            *("--timeout-graceful-shutdown", "5"),
            *variant_options(),
            *options,
        ]
        super().__init__(command, env=env, open_files=open_files, cwd=cwd)
        self.port = 0
        self.path = ""  # instead, if it listens on a Unix domain socket

    @property
    def address(self) -> tuple[str, int] | str:
        return self.path or ("127.0.0.1", self.port)

    def wait_until_listening(self) -> None:
        """Until the startup lines say where the server listens."""
        self.port = int(self.output.wait_for(_ANNOUNCEMENT)[1])

    def connect(self, *, receive_buffer: int | None = None) -> Client:
        """A new connection; `receive_buffer` bytes of kernel buffer on our side (None: the system's default)."""
        return Client(self.address, receive_buffer=receive_buffer)

    def request(self, target: str, **how: Any) -> Response:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.request(target, **how)

    def read_note(self, key: str) -> Any:
        """What the application posts under `key`, as soon as it has."""
        return self.request(f"/board?{key}").value()

    def post_note(self, key: str) -> None:
        """Tell the application that waits for `key` to go on."""
        assert self.request(f"/board?{key}", method="POST").status == 200

    def resources(self, settle: Mapping[str, int] | None = None) -> dict[str, int]:
        """What the application's process holds: pid, fds, tasks, rss and peak (bytes).

        With `settle`, an earlier answer: once fds and tasks are back down to it, or some seconds later.
        """
        wanted = "&".join(f"{name}={value}" for name, value in (settle or {}).items() if name in ("fds", "tasks"))
        value: dict[str, int] = self.request(f"/resources?{wanted}").value()
        return value

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask for a graceful stop; the exit code."""
        self.signal(number)
        return self.wait()


@contextlib.contextmanager
def serve(app: str, *options: str, **how: Any) -> Iterator[Server]:
    """A server that listens, ended gracefully afterwards: exit code 0 and a clean log are part of every test."""
    server = Server(app, *options, **how)
    try:
        server.wait_until_listening()
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, server.output.text()
        server.check_log()
    finally:
        if server.process.poll() is None:
            server.kill()


class Truncated(Exception):
    """The server ended the connection before the response was complete."""

    def __init__(self, response: Response | None, *, reset: bool) -> None:
        super().__init__(f"{'reset' if reset else 'closed'} after {response}")
        self.response = response
        self.reset = reset


@dataclass(slots=True)
class Response:
    """One response as it was on the wire. Field names are lower-cased, their order kept."""

    version: str
    status: int
    reason: str
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    framing: str = "none"  # none, length, chunked or close
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    interim: list[Response] = field(default_factory=list)

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order."""
        return [value for key, value in self.fields if key == name]

    def get(self, name: bytes) -> bytes | None:
        """The value of a field that may stand there once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name!r} is repeated: {values}"
        return values[0] if values else None

    @property
    def options(self) -> set[bytes]:
        """The connection options, lower-cased (RFC 9110 section 7.6.1)."""
        return {option.strip().lower() for value in self.all(b"connection") for option in value.split(b",")} - {b""}

    @property
    def closes(self) -> bool:
        """Whether the server said that it closes the connection after this response."""
        return b"close" in self.options

    def value(self) -> Any:
        """The Python literal in the body: how the test applications answer, so that types arrive exactly."""
        assert self.status == 200, self
        return ast.literal_eval(self.body.decode())


def request_bytes(
    target: str,
    *,
    method: str = "GET",
    version: str = "1.1",
    headers: Iterable[str] = (),
    body: bytes | None = None,
    chunks: Iterable[bytes] | None = None,
    host: str | None = "localhost",
) -> bytes:
    """A request as it goes over the wire: `body` with a content-length, or `chunks` with the chunked coding."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += headers
    content = body or b""
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if chunks is not None:
        lines.append("Transfer-Encoding: chunked")
        content = b"".join(chunk_bytes(chunk) for chunk in chunks) + b"0\r\n\r\n"
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def chunk_bytes(data: bytes) -> bytes:
    """One chunk of the chunked coding; empty data gives nothing, because a chunk of size 0 ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


class Client:
    """A connection that reads responses exactly, knows how it ended, and can misbehave."""

    def __init__(
        self, address: tuple[str, int] | str, *, receive_buffer: int | None = None, timeout: float = DEADLINE
    ) -> None:
        self.socket = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        if isinstance(address, tuple):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.ended: str | None = None  # "closed" or "reset", once the server has ended the connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- sending

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def feed(self, pieces: Iterable[bytes]) -> None:
        """Send piece by piece, until the server has enough of it: what it answered can then be read."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def flood(self, data: bytes, limit: int, *, quiet: float = QUIET, until_readable: bool = False) -> int:
        """Send `data` over and over until the server has taken `limit` bytes, or nothing for `quiet` seconds. Bytes taken.

        With `until_readable` also no further than the first byte of an answer, or the end of the connection.
        """
        sent = 0
        watched = [self.socket] if until_readable else []
        self.socket.setblocking(False)
        try:
            while sent < limit:
                readable, writable, _ = select.select(watched, [self.socket], [], quiet)
                if readable or not writable:
                    break
                # Resume inside `data` where the last piece ended, so that what is framed stays framed.
                with contextlib.suppress(BlockingIOError):
                    sent += self.socket.send(data[sent % len(data) :])
        except (BrokenPipeError, ConnectionResetError):
            if not until_readable:
                raise
        finally:
            self.socket.settimeout(DEADLINE)
        return sent

    def half_close(self) -> None:
        """End our direction; the server's stays open."""
        with contextlib.suppress(OSError):  # it may have ended both already
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End the connection with a RST, as a client that crashes or a network that breaks."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    # -- receiving

    def readable(self, timeout: float = 0.0) -> bool:
        """Whether bytes or the end of the connection arrive within `timeout` seconds."""
        return bool(self._buffer) or bool(select.select([self.socket], [], [], timeout)[0])

    def request(self, target: str, *, method: str = "GET", **how: Any) -> Response:
        """Send one request (as `request_bytes` builds it) and read its response."""
        self.send(request_bytes(target, method=method, **how))
        return self.read_response(method)

    def read_response(self, method: str = "GET") -> Response:
        """The next final response; interim ones are in its `interim`. Raises Truncated if the connection ends first."""
        interim: list[Response] = []
        while (response := self.read_head()).status // 100 == 1:
            assert response.status != 101, "101 without having been asked to switch"
            interim.append(response)
        response.interim = interim
        try:
            self._read_body(response, method)
        except EOFError:
            raise Truncated(response, reset=self.ended == "reset") from None
        return response

    def read_head(self) -> Response:
        """The next response head, interim or final, without its body."""
        try:
            line = self._line()
            match = _STATUS_LINE.fullmatch(line)
            assert match, f"not a status line: {line!r}"
            version, status, reason = match.groups()
            response = Response(version[5:].decode(), int(status), reason.decode("latin-1"), self._field_lines())
        except EOFError:
            raise Truncated(None, reset=self.ended == "reset") from None
        _check_head(response)
        return response

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes as they come, whatever they mean. Raises EOFError."""
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def discard(self, size: int) -> None:
        """Read `size` bytes and forget them; a piece at a time, so that a gigabyte costs no memory. Raises EOFError."""
        while size > 0:
            if not self._buffer:
                self._fill()
            taken = min(size, len(self._buffer))
            del self._buffer[:taken]
            size -= taken

    def read_to_end(self) -> bytes:
        """Everything until the server ends the connection; see `ended` for how it did."""
        with contextlib.suppress(EOFError):
            while True:
                self._fill()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def expect_end(self, *, reset_allowed: bool = False) -> None:
        """The server ends the connection now, and sends nothing more before."""
        rest = self.read_to_end()
        assert rest == b"", f"bytes after the last response: {rest[:200]!r}"
        assert self.ended == "closed" or reset_allowed, "the connection was reset, not closed"

    def _fill(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            self.ended = "reset"
            raise EOFError from None
        if not data:
            self.ended = "closed"
            raise EOFError
        self._buffer += data

    def _line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._fill()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        assert line.endswith(b"\r\n"), f"line without CRLF: {line!r}"
        return line[:-2]

    def _field_lines(self) -> list[tuple[bytes, bytes]]:
        fields: list[tuple[bytes, bytes]] = []
        while line := self._line():
            name, colon, value = line.partition(b":")
            assert colon, f"field line without a colon: {line!r}"
            assert _TOKEN.fullmatch(name), f"not a field name: {name!r}"
            assert _FIELD_VALUE.fullmatch(value), f"not a field value: {value!r}"
            fields.append((name.lower(), value.strip(b" \t")))
        return fields

    def _read_body(self, response: Response, method: str) -> None:
        """RFC 9112 section 6.3, from the client's side."""
        if method == "HEAD" or response.status in (204, 304):
            return
        length = response.get(b"content-length")
        parts: list[bytes] = []
        try:
            if response.get(b"transfer-encoding") is not None:
                response.framing = "chunked"
                self._read_chunks(parts)
                response.trailers = self._field_lines()
            elif length is not None:
                response.framing = "length"
                self._take(int(length), parts)
            else:
                response.framing = "close"
                parts.append(self.read_to_end())
                if self.ended == "reset":
                    raise EOFError
        finally:
            response.body = b"".join(parts)
            response.chunks = parts if response.framing == "chunked" else []

    def _read_chunks(self, parts: list[bytes]) -> None:
        while True:
            line = self._line()
            assert _CHUNK_SIZE.fullmatch(line), f"not a chunk size: {line!r}"
            if (size := int(line, 16)) == 0:
                return
            self._take(size, parts)
            assert self._line() == b"", "chunk data without its CRLF"

    def _take(self, size: int, parts: list[bytes]) -> None:
        """Exactly `size` bytes; when the connection ends first, what there is of them."""
        try:
            parts.append(self.read(size))
        except EOFError:
            parts.append(bytes(self._buffer))
            self._buffer.clear()
            raise


def _check_head(response: Response) -> None:
    """What every response head must obey, whichever test reads it."""
    length, coding = response.all(b"content-length"), response.all(b"transfer-encoding")
    assert len(length) <= 1, f"content-length repeated: {length}"
    assert all(value.isdigit() for value in length), length
    assert coding in ([], [b"chunked"]), coding
    assert not (length and coding), "RFC 9112 section 6.2: content-length beside transfer-encoding"
    if response.status // 100 == 1 or response.status == 204:
        assert not length, "RFC 9110 section 8.6: no content-length in 1xx and 204"
        assert not coding, "RFC 9112 section 6.1: no transfer-encoding in 1xx and 204"
    assert len(response.all(b"date")) <= 1, "date repeated"
    assert len(response.all(b"server")) <= 1, "server repeated"
