"""Readiness: which sockets of the server can be read or written now.

The server's sockets are not asyncio transports. They live in a poller, which the application's event loop sees as one
more file descriptor; one callback serves a whole batch of ready connections.

Some facts about epoll:
- An epoll descriptor is itself readable while something inside it is ready, so it nests in any loop that has add_reader.
- A connection is registered once, edge-triggered, for everything: no epoll_ctl while it lives. The price: readiness is
  told once, so whoever does not read to the end must remember that there is more (Connection.readable).
- A read that fills less than the buffer has emptied the socket (epoll(7)); no second read finds that out.
- Closing a descriptor takes it out only if nobody else holds the same open file: a child that the application forked may,
  and its events would come under a number that is another connection's by then. So it is taken out before it is closed.
- A number can be used again at once, and a batch may still hold an event of its predecessor: therefore new connections
  are accepted after everything else in a batch.
"""

import select
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr, trait

from ladybug.asgi.awaitables import logger
from ladybug.asgi.service import Service
from ladybug.deadlines import Deadlines

# Values of epoll's event mask; the portable poller speaks the same language.
READABLE: Final[i64] = 0x001
WRITABLE: Final[i64] = 0x004
BROKEN: Final[i64] = 0x008 | 0x010  # EPOLLERR, EPOLLHUP: both directions are gone
PEER_CLOSED: Final[i64] = 0x2000  # EPOLLRDHUP: the peer will send no more
EDGE_TRIGGERED: Final = 1 << 31

# Events taken at one time. More wait in the kernel, and the loop comes back for them after its own callbacks: a flood of
# connections cannot keep the application's tasks from running. With 256 instead of 64 throughput is the same, but who is
# read first waits for who is read last: 4 % fewer requests/s with asyncio.sleep, 10 % more p99 elsewhere.
MAX_EVENTS: Final = 64
# Bytes that are read before the applications run that they are for. A batch of large messages would have left the
# processor's caches by then: with this, twice as many bodies of 64 KiB are echoed, and a tenth more WebSocket messages.
READ_AHEAD: Final[i64] = 131072


@trait
class Source:
    """Something with a file descriptor that a poller watches."""

    def on_ready(self, mask: i64) -> None:
        raise NotImplementedError

    def on_deadline(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        """What run_soon() asked for."""
        raise NotImplementedError

    def on_fault(self) -> None:
        """on_ready() raised, which it never should."""
        raise NotImplementedError


@mypyc_attr(native_class=True)
class Poller:
    """What all pollers have: the sources by descriptor, their deadlines, and what is left over from the last turn."""

    def __init__(self, service: Service) -> None:
        self.service: Final = service
        self.loop: Final = service.loop
        self.sources: list[Source | None] = []
        self.count: i64 = 0
        self.runnable: list[Source] = []
        self.received: i64 = 0  # bytes, since applications have run
        self.leftovers: list[Source] = []
        self.leftovers_scheduled = False
        self.tells_end = False  # a source hears PEER_CLOSED without reading
        self.deadlines: Final = Deadlines(service.loop, self.expire)

    # -- For sources ------------------------------------------------------------------------------------------------

    def add(self, fd: i64, source: Source) -> None:
        """Know a connection by its descriptor; watch() is to follow."""
        while fd >= len(self.sources):
            self.sources.append(None)
        self.sources[fd] = source
        self.count += 1
        self.deadlines.keep_running()

    def remove(self, fd: i64, watched: bool) -> None:
        """Forget a connection; must be called before its descriptor is closed.

        Args:
            watched: watch() was called for it.
        """
        self.unwatch(fd, watched)
        self.sources[fd] = None
        self.deadlines.set(fd, 0)
        self.count -= 1
        if self.count == 0:
            self.deadlines.stop()

    def run_soon(self, source: Source) -> None:
        """Have source.run() called at the end of this turn, when everything that is ready has been read.

        First all reads (of READ_AHEAD bytes, or little more), then all applications: each code stays in the processor's
        caches while it works through a batch. And applications that use threads do not lose the interpreter's lock to them
        at every read that follows: with asyncio.to_thread that is a third more requests.
        """
        self.runnable.append(source)

    def again(self, source: Source) -> None:
        """Give `source` another turn, with an empty mask, once the others have had theirs."""
        self.leftovers.append(source)
        self.another_turn()

    def another_turn(self) -> None:
        """Have another turn, once the loop has looked for what else is ready."""
        if not self.leftovers_scheduled:
            self.leftovers_scheduled = True
            # Not in the context of whoever asks: that may be an application's, and requests begun there would inherit it.
            self.loop.call_soon(self.serve_leftovers, context=self.service.context)

    # -- What differs ---------------------------------------------------------------------------------------------------

    def watch(self, fd: i64) -> None:
        """Tell the source at `fd` of all readiness there is, and then of every change."""
        raise NotImplementedError

    def unwatch(self, fd: i64, watched: bool) -> None:
        raise NotImplementedError

    def add_listener(self, fd: i64, source: Source) -> None:
        """Call source.on_ready() while connections wait to be accepted."""
        raise NotImplementedError

    def remove_listener(self, fd: i64) -> None:
        raise NotImplementedError

    def pause_reading(self, fd: i64) -> None:
        """The source does not want to read now. Only level-triggered pollers need to know."""

    def resume_reading(self, fd: i64) -> None:
        """The opposite of pause_reading()."""

    def want_writable(self, fd: i64, wanted: bool) -> None:
        """Whether the source waits for room to write. Only level-triggered pollers need to know."""

    def drain(self) -> None:
        """Serve what is ready now. Where the loop itself calls for each source, there is nothing to collect."""

    def close(self) -> None:
        """Stop watching anything. The sources stay as they are."""
        self.deadlines.stop()

    # -- Dispatch -------------------------------------------------------------------------------------------------------

    def dispatch(self, fd: i64, mask: i64) -> None:
        if fd < len(self.sources):
            source = self.sources[fd]
            if source is not None:
                try:
                    source.on_ready(mask)
                except Exception:
                    self.fault(source)

    def fault(self, source: Source) -> None:
        """Our own mistake, met while serving one source: it must not cost the others anything."""
        logger.exception("Internal error; the connection is closed")
        source.on_fault()

    def serve_leftovers(self) -> None:
        self.leftovers_scheduled = False
        leftovers = self.leftovers
        self.leftovers = []
        self.service.in_turn = True
        for source in leftovers:
            try:
                source.on_ready(0)
            except Exception:
                self.fault(source)
        self.end_turn()

    def end_turn(self) -> None:
        """Run what was read, then send and log what is left."""
        self.run_all()
        self.service.in_turn = False
        self.service.end_turn()

    def run_all(self) -> None:
        """Run what was read. Running may make more runnable, at the end of the list: a client that asks faster than it is
        answered would never let the others have their turn. So what is read meanwhile is bounded as well."""
        self.received = 0
        runnable = self.runnable
        count: i64 = len(runnable)
        i: i64 = 0
        while i < len(runnable):
            if i >= count and self.received > READ_AHEAD:
                del runnable[:i]
                self.another_turn()
                return
            source = runnable[i]
            i += 1
            try:
                source.run()
            except Exception:
                self.fault(source)
        if i > 0:
            runnable.clear()

    def expire(self, fd: int) -> None:
        source = self.sources[fd]
        if source is not None:
            source.on_deadline()


@mypyc_attr(native_class=True)
class EpollPoller(Poller):
    """What the two pollers with epoll have in common; they differ in whose epoll it is.

    Args:
        epoll: a select.epoll.
    """

    def __init__(self, service: Service, epoll: Any) -> None:
        super().__init__(service)
        self.tells_end = True
        self.epoll: Final = epoll
        # Bound once: looked up each time it would cost as much as a small system call's wrapper.
        self.poll: Final[Any] = epoll.poll
        self.register: Final[Any] = epoll.register
        self.unregister: Final[Any] = epoll.unregister
        self.listeners: dict[int, Source] = {}
        self.connection_mask: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | EDGE_TRIGGERED

    def watch(self, fd: i64) -> None:
        self.register(fd, self.connection_mask)

    def unwatch(self, fd: i64, watched: bool) -> None:
        if watched:
            self.unregister(fd)

    def add_listener(self, fd: i64, source: Source) -> None:
        # Level-triggered: what one turn does not accept, the next hears of. Exclusive: of several workers that share a
        # listener (unix sockets, --fd) one is woken, not all.
        exclusive: int = getattr(select, "EPOLLEXCLUSIVE", 0)
        self.register(fd, select.EPOLLIN | exclusive)
        self.listeners[int(fd)] = source

    def remove_listener(self, fd: i64) -> None:
        del self.listeners[int(fd)]
        self.epoll.unregister(int(fd))

    def drain(self) -> None:
        self.wait(0.0)

    def wait(self, timeout: float) -> list[Any] | None:
        """Serve what is ready, or becomes so within `timeout` seconds (-1: whenever). Returns the events of descriptors
        that are not the server's, as epoll.poll() does, or None when there are none."""
        events: list[Any] = self.poll(timeout, MAX_EVENTS)
        service = self.service
        service.in_turn = True
        accepting: list[Source] | None = None
        foreign: list[Any] | None = None
        sources = self.sources
        limit: i64 = len(sources)
        for event in events:
            pair: tuple[i64, i64] = event
            fd: i64 = pair[0]
            source: Source | None = None
            if fd < limit:
                source = sources[fd]
            if source is not None:
                try:
                    source.on_ready(pair[1])
                except Exception:
                    self.fault(source)
                if self.received > READ_AHEAD:
                    self.run_all()
            elif fd in self.listeners:
                if accepting is None:
                    accepting = []
                accepting.append(self.listeners[int(fd)])
            else:
                if foreign is None:
                    foreign = []
                foreign.append(event)
        if accepting is not None:
            for listener in accepting:
                try:
                    listener.on_ready(READABLE)
                except Exception:
                    self.fault(listener)
        self.end_turn()
        return foreign


@mypyc_attr(native_class=True)
@final
class NestedPoller(EpollPoller):
    """An epoll of our own inside any loop: the loop sleeps on the epoll's descriptor, and one callback serves a batch."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, select.epoll())
        self.loop.add_reader(self.epoll.fileno(), self.drain)

    def close(self) -> None:
        super().close()
        if not self.epoll.closed:
            self.loop.remove_reader(self.epoll.fileno())
            self.epoll.close()


@mypyc_attr(native_class=True)
@final
class SharedPoller(EpollPoller):
    """The loop's own epoll: the loop's selector waits through this poller (serving_loop.py).

    Args:
        selector: the ServingSelector; it must have no poller yet.
    """

    def __init__(self, service: Service, selector: Any) -> None:
        super().__init__(service, selector.epoll)
        self.selector: Final = selector
        selector.poller = self

    def close(self) -> None:
        super().close()
        self.selector.poller = None


@mypyc_attr(native_class=True)
@final
class PortablePoller(Poller):
    """The same on any loop with add_reader and add_writer: for systems without epoll. Level-triggered."""

    def watch(self, fd: i64) -> None:
        self._add(self.loop.add_reader, self.on_readable, fd)

    def unwatch(self, fd: i64, watched: bool) -> None:
        self.loop.remove_reader(int(fd))
        self.loop.remove_writer(int(fd))

    def add_listener(self, fd: i64, source: Source) -> None:
        self.loop.add_reader(int(fd), self.on_acceptable, source)

    def remove_listener(self, fd: i64) -> None:
        self.loop.remove_reader(int(fd))

    def pause_reading(self, fd: i64) -> None:
        self.loop.remove_reader(int(fd))

    def resume_reading(self, fd: i64) -> None:
        self._add(self.loop.add_reader, self.on_readable, fd)

    def want_writable(self, fd: i64, wanted: bool) -> None:
        if wanted:
            self._add(self.loop.add_writer, self.on_writable, fd)
        else:
            self.loop.remove_writer(int(fd))

    def _add(self, add: Any, callback: Any, fd: i64) -> None:
        # The loop keeps the context that it is called in: an application's, where its send() or receive() has led here,
        # and requests begun by the callback would inherit it.
        self.service.context.copy().run(add, int(fd), callback, int(fd))

    def on_readable(self, fd: int) -> None:
        self.service.in_turn = True
        self.dispatch(fd, READABLE)
        self.end_turn()

    def on_writable(self, fd: int) -> None:
        self.service.in_turn = True
        self.dispatch(fd, WRITABLE)
        self.end_turn()

    def on_acceptable(self, listener: Source) -> None:
        self.service.in_turn = True
        try:
            listener.on_ready(READABLE)
        except Exception:
            self.fault(listener)
        self.end_turn()


def make_poller(service: Service, kind: str, selector: Any) -> Poller:
    """The poller called `kind`: "epoll", "portable", or "auto" for the better one that this system has.

    Args:
        selector: the loop's ServingSelector if it has one and it is free, else None.
    """
    if kind == "portable" or (kind == "auto" and not hasattr(select, "epoll")):
        return PortablePoller(service)
    if selector is not None:
        return SharedPoller(service, selector)
    return NestedPoller(service)
