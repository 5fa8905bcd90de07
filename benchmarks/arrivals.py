"""Clients that arrive at a steady rate, whatever has become of those before: a connection and one request each.

An open loop. wrk's clients wait for their answer before they ask again, so while a server stands still they ask nothing, and
hardly notice; who uses a server does not wait for other users. One thread and one epoll are enough for a few thousand a second.
"""

import math
import select
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Self

REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Begun in one go when we are late ourselves; the others wait for their turn.
MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Arrival:
    """One client: when it came (time.monotonic), for how many seconds it was there, and the body it got.

    `error` is empty, or what happened instead.
    """

    at: float
    took: float
    body: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class Summary:
    """Of many clients; seconds, and they are those of the answered ones."""

    count: int
    failed: int
    p50: float
    p99: float
    worst: float


def summary(arrivals: Iterable[Arrival]) -> Summary:
    found = list(arrivals)
    took = sorted(arrival.took for arrival in found if not arrival.error)
    if not took:
        return Summary(len(found), len(found), math.nan, math.nan, math.nan)

    def quantile(share: float) -> float:
        return took[max(0, math.ceil(share * len(took)) - 1)]

    return Summary(len(found), len(found) - len(took), quantile(0.5), quantile(0.99), took[-1])


class _Client:
    def __init__(self, port: int, path: bytes) -> None:
        self.request = REQUEST % path
        self.at = time.monotonic()
        self.received = b""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    def over(self, body: bytes = b"", error: str = "") -> Arrival:
        self.socket.close()
        return Arrival(self.at, time.monotonic() - self.at, body, error)

    def on_ready(self, epoll: select.epoll) -> Arrival | None:
        """Do what can be done; the result, if that was all."""
        try:
            if self.request:
                self.socket.sendall(self.request)
                self.request = b""
                epoll.modify(self.socket, select.EPOLLIN)
                return None
            data = self.socket.recv(65536)
        except BlockingIOError:
            return None
        except OSError as error:
            return self.over(error=error.strerror or repr(error))
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return None if data else self.over(error="truncated" if self.received else "closed without an answer")
        if not head.startswith(b"HTTP/1.1 200 "):
            return self.over(error=head.partition(b"\r\n")[0].decode("latin-1"))
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < size:
            return None if data else self.over(error="truncated")
        return self.over(body)


class Arrivals:
    """As a context manager: `per_second` new clients from the beginning to the end, then the last ones are waited for.

    path        what they ask for; answered with 200 and a content-length
    patience    seconds after which a client gives up
    """

    def __init__(self, port: int, per_second: float, *, path: bytes = b"/", patience: float = 30.0) -> None:
        self.found: list[Arrival] = []
        self._port = port
        self._interval = 1 / per_second
        self._path = path
        self._patience = patience
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()

    def between(self, begin: float, end: float = math.inf) -> list[Arrival]:
        """Who came then, and is gone by now."""
        return [arrival for arrival in self.found if begin <= arrival.at < end]

    def _run(self) -> None:
        clients: dict[int, _Client] = {}  # by descriptor, in the order in which they came
        next_at = time.monotonic()
        with select.epoll() as epoll:
            while clients or not self._is_over.is_set():
                timeout = 0.1
                if not self._is_over.is_set():
                    for _ in range(MOST_AT_ONCE):
                        if next_at > time.monotonic():
                            break
                        next_at += self._interval
                        client = _Client(self._port, self._path)
                        clients[client.socket.fileno()] = client
                        epoll.register(client.socket, select.EPOLLOUT)
                    timeout = min(max(0.0, next_at - time.monotonic()), timeout)
                for fd, _ in epoll.poll(timeout):
                    arrival = clients[fd].on_ready(epoll)
                    if arrival is not None:
                        del clients[fd]
                        self.found.append(arrival)
                late = time.monotonic() - self._patience
                for fd in list(takewhile(lambda fd: clients[fd].at < late, clients)):  # noqa: B023 - called here
                    self.found.append(clients.pop(fd).over(error="no answer"))
