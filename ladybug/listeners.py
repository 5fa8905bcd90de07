"""Listening sockets: opened once, by whoever owns them for ever.

`open_listeners` gives every worker slot its list of listeners, in the order of the binds:

    TCP on Linux    one listener per address and slot, joined by SO_REUSEPORT: the kernel spreads new connections over the
                    slots' queues, and a queue outlives the worker that served it
    TCP elsewhere   one listener per address, shared by all slots: other kernels do not spread, or reset what is queued
    --uds, --fd     one listener (each --fd is one), shared by all slots

Facts that shape the code:
- SO_REUSEPORT lets any process of the same user join in, unnoticed. So the first listener of an address is bound without
  it, which every other socket on that port refuses, and gets the option afterwards, for the others to join. What that
  cannot show, another server of ours in the same moment, is kept out by a lock.
- bind(2) with SO_REUSEADDR ignores connections in TIME_WAIT, which is what a restart needs, but not a listener.
- A Unix socket's path stays behind when its server dies. Whether it is a leftover is found out by connecting to it.

Everything that goes wrong here is a `StartupError` that says what to do.

The master imports this room: paths are os's, because pathlib and what comes with it is 0.6 MiB.
"""

# ruff: noqa: PTH101, PTH108, PTH116

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ladybug.exceptions import StartupError
from ladybug.privileges import identity_of

if TYPE_CHECKING:
    from ladybug.config import Config

# What getaddrinfo gives and bind takes: (host, port) or (host, port, flow, scope).
SocketAddress = tuple[Any, ...]

# One listener per slot only pays where the kernel balances between them.
_LISTENER_PER_SLOT = sys.platform == "linux"
# As uvicorn: who may connect is decided by the directory that the socket is in, or by --umask.
_UDS_MODE = 0o666
# Port 0 with two addresses: the port that the system picks for the first may be taken on the second.
_PORT_ATTEMPTS = 16
# Seconds to wait for another server of ours that is opening the same port; it takes a millisecond.
_LOCK_PATIENCE = 1.0


def open_listeners(config: "Config", slots: int) -> list[list[socket.socket]]:
    """The listening sockets of each slot: `[slot][bind]`, non-blocking, not inheritable over exec.

    Where slots share a listener they share the same object. Raises StartupError; what was opened until then is closed.
    """
    if config.fd:
        return [_adopt_all(config.fd, config.backlog)] * slots
    if config.uds is not None:
        return [[_listen_unix(config, config.uds)]] * slots
    return _listen_tcp(config.host, config.port, config.backlog, slots)


def join_listeners(config: "Config", slot: list[socket.socket]) -> list[socket.socket]:
    """The listeners of one more slot, on the same addresses as those of `slot`. Raises OSError.

    Shared ones are the same object again, see `is_shared`.
    """
    if is_shared(config):
        return slot
    with contextlib.ExitStack() as opened:
        joined = [opened.enter_context(_join(listener)) for listener in slot]
        for listener in joined:
            listener.listen(config.backlog)
        opened.pop_all()
    return joined


def is_shared(config: "Config") -> bool:
    """True if all slots have the same listeners."""
    return bool(config.fd) or config.uds is not None or not _LISTENER_PER_SLOT


def close_listeners(listeners: list[list[socket.socket]]) -> None:
    """Close all of them. A Unix socket's path stays: that is `remove_path`, at the very end."""
    for slot in listeners:
        for listener in slot:
            listener.close()


def let_go_of_given(config: "Config", listeners: list[list[socket.socket]]) -> None:
    """In a forked child: of `listeners` keep no other descriptor that --fd names.

    The number stays taken: the program that called may have a socket object for it, and closes that one day.
    """
    ours = {listener.fileno() for slot in listeners for listener in slot}
    for fd in set(config.fd) - ours:
        # A successor may have something else there by now.
        with contextlib.suppress(OSError):
            if any(os.path.sameopenfile(fd, own) for own in ours):
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, fd, inheritable=False)
                os.close(nothing)


def turn_away(config: "Config", listeners: list[list[socket.socket]]) -> None:
    """The owner's first act of a stop: let no new connection into the queues, so that they can be emptied and closed.

    Closing a listener resets what waits in its queue, and under load something always does. From now on the kernel drops
    each SYN; the client sends it again a second later, and is refused. To a Unix socket there is no way without its path.
    TCP only on Linux, and neither for inherited sockets: what their owner does with them next is not our business.
    """
    if config.fd:
        return
    for listener in {listener for slot in listeners for listener in slot}:
        # Without socket filters, or the right to change the directory, the stop is merely less gentle.
        with contextlib.suppress(OSError):
            if listener.family == socket.AF_UNIX:
                os.unlink(listener.getsockname())
            elif _LISTENER_PER_SLOT:
                _drop_syns(listener)


def remove_path(config: "Config") -> None:
    """The owner's last act: remove the path of a Unix socket, unless a successor serves there by now."""
    if config.uds is not None:
        with contextlib.suppress(OSError, StartupError):
            _remove_leftover(config.uds)


def describe(listener: socket.socket) -> str:
    """Where users reach it: http://127.0.0.1:8000, http://[::1]:8000, unix:/run/app.sock."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return f"http://{_host_and_port(name[0], name[1])}"


# -- TCP


def _listen_tcp(host: str, port: int, backlog: int, slots: int) -> list[list[socket.socket]]:
    addresses = _resolve(host, port)
    attempts = _PORT_ATTEMPTS if port == 0 else 1
    with _one_opens_at_a_time(port):
        while True:
            attempts -= 1
            try:
                return _listen_on_all(addresses, port, backlog, slots)
            except OSError as error:
                if attempts == 0 or error.errno != errno.EADDRINUSE:
                    raise _refusal(_host_and_port(host, port), "--port", error) from error


def _resolve(host: str, port: int) -> list[tuple[int, SocketAddress]]:
    """All addresses of `host`, each once, in the resolver's order. An empty host is every interface."""
    try:
        # As bytes: for a str the socket module loads the tables of IDNA, 0.8 MiB, whatever is in it.
        name = host.encode("ascii") if host.isascii() else host
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StartupError(f"The host {host!r} has no address here ({reason}): choose another --host.") from error
    # Keys of a dictionary: a set that keeps its order.
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen_on_all(
    addresses: list[tuple[int, SocketAddress]], port: int, backlog: int, slots: int
) -> list[list[socket.socket]]:
    """Bind every address, and listen once all are bound, so that nobody connects to a server that then gives up.

    An address that this machine lacks (::1 of "localhost" where IPv6 is off) is left out if another one is there.
    """
    binds: list[list[socket.socket]] = []
    missing = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    with contextlib.ExitStack() as opened:
        for family, address in addresses:
            only_v6 = address[0] != "::" or any(other[0] == "0.0.0.0" for _, other in addresses)
            try:
                bind = _bind_slots(family, (address[0], port, *address[2:]), only_v6, slots, opened)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
                continue
            binds.append(bind)
            port = bind[0].getsockname()[1]
        if not binds:
            raise missing
        for bind in binds:
            for listener in bind:
                listener.listen(backlog)
        opened.pop_all()
    return [list(slot) for slot in zip(*binds, strict=True)]


def _bind_slots(
    family: int, address: SocketAddress, only_v6: bool, slots: int, opened: contextlib.ExitStack
) -> list[socket.socket]:
    """One bound socket per slot, or the same one for all. Each is put into `opened` as soon as it exists."""
    first = opened.enter_context(_tcp_socket(family, only_v6))
    first.bind(address)
    if not _LISTENER_PER_SLOT:
        return [first] * slots
    # Only now, see the facts above: whoever is there already has refused us by now.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    group = [first]
    while len(group) < slots:
        group.append(opened.enter_context(_join(first)))
    return group


def _join(member: socket.socket) -> socket.socket:
    """One more socket of a SO_REUSEPORT group, bound, not listening yet."""
    family = member.family
    only_v6 = family == socket.AF_INET6 and bool(member.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    with contextlib.ExitStack() as opened:
        joined = opened.enter_context(_tcp_socket(family, only_v6))
        joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        joined.bind(member.getsockname())
        opened.pop_all()
    return joined


def _tcp_socket(family: int, only_v6: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it: one system call less for each.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
    return listener


@contextlib.contextmanager
def _one_opens_at_a_time(port: int) -> Iterator[None]:
    """Hold the lock that servers of ours take while they open a port.

    The lock is a name in the abstract namespace of Unix sockets (unix(7)): like the port it belongs to the network
    namespace, it is taken atomically, and no crash leaves it behind. Anybody may take that name, so the wait for it has
    an end: then we go on without.
    """
    if port == 0 or not _LISTENER_PER_SLOT:
        yield
        return
    patience = time.monotonic() + _LOCK_PATIENCE
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        while time.monotonic() < patience:
            try:
                lock.bind(f"\0ladybug opens port {port}")
                break
            except OSError:
                time.sleep(0.01)
        yield


# Classic BPF (Documentation/networking/filter.rst) over a segment that begins with its TCP header: code, jump if true, jump
# if false, operand. Byte 13 holds the flags (RFC 9293, section 3.1), 0x02 of them is SYN.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x45, 0, 1, 0x02),  # jset #SYN, next, one further
    (0x06, 0, 0, 0),  # ret #0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: take all of it
)
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module does not name it


def _drop_syns(listener: socket.socket) -> None:
    program = array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in _DROP_SYN))
    # struct sock_fprog (linux/filter.h): how many instructions, and where they are. The kernel copies them.
    sock_fprog = struct.pack("@HP", len(_DROP_SYN), program.buffer_info()[0])
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, sock_fprog)


# -- Unix sockets and inherited ones


def _listen_unix(config: "Config", path: str) -> socket.socket:
    mode = _UDS_MODE if config.umask is None else _UDS_MODE & ~config.umask
    owner = identity_of(config)
    try:
        _remove_leftover(path)
        with contextlib.ExitStack() as opened:
            listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.setblocking(False)
            listener.bind(path)
            os.chmod(path, mode)
            if owner is not None:
                os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
            listener.listen(config.backlog)
            opened.pop_all()
    except OSError as error:
        raise _refusal(path, "--uds", error) from error
    return listener


def _remove_leftover(path: str) -> None:
    """Remove the socket of a server that is gone. Raises OSError EADDRINUSE if it answers, StartupError if it is a file."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise StartupError(f"{path} exists and is not a socket: remove it, or choose another --uds.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full queue is an answer too
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    except BlockingIOError:
        pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _adopt_all(fds: list[int], backlog: int) -> list[socket.socket]:
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(_adopt(fd, backlog)) for fd in fds]
        opened.pop_all()
    return listeners


def _adopt(fd: int, backlog: int) -> socket.socket:
    """A listener that somebody else opened, as a copy of our own: the number stays with the one who gave it to us."""
    copy = -1
    try:
        copy = os.dup(fd)
        listener = socket.socket(fileno=copy)
    except OSError as error:
        if copy >= 0:
            os.close(copy)
        what = "is not open in this process" if error.errno == errno.EBADF else "is not a socket"
        raise StartupError(f"File descriptor {fd} {what}: --fd takes the number of an inherited socket.") from error
    try:
        listener.setblocking(False)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise StartupError(f"File descriptor {fd} cannot listen for connections: {error.strerror}.") from error
    return listener


# -- words


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(where: str, option: str, error: OSError) -> StartupError:
    """The text for the user: what could not be opened, why, and what to do."""
    reason = {
        errno.EADDRINUSE: f"is in use by another process: choose another {option}, or stop that process",
        errno.EACCES: f"may not be opened by this user: choose another {option}, or give the right to",
        errno.EADDRNOTAVAIL: "is not an address of this machine: choose another --host",
        errno.ENOENT: "cannot be made, because its directory does not exist",
    }.get(error.errno or 0, f"cannot be opened: {error.strerror or error}")
    return StartupError(f"{where} {reason}.")
