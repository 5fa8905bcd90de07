"""Rescue: connections that wait in the queue of a slot whose worker does not take them are given to workers that do.

The master holds the same listeners as the worker. It accepts from them, and passes each connection (SCM_RIGHTS, unix(7)) to
another slot, through that slot's `Channel`; the worker there takes it as if it had accepted it.

    Channel     a slot's second queue: a pair of Unix sockets, datagrams of one connection each
    Rescuer     the master's: from the queues of one slot into the channels of others
    Receiver    a worker's: from its slot's channel into its server

Rules:
- A channel belongs to the slot, like the listeners: the master holds both ends as long as the slot lives, every worker of
  the slot inherits them, and what one left there the next one finds. The rescuer empties a stuck slot's channel as well.
- Neither side ever blocks. A connection leaves its queue only when a channel has room for it; otherwise it stays.
- Nothing but the connection and the number of its listener is sent: the client's address is asked of the connection.
- No asyncio: the master imports this room.
"""

import errno
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ladybug.descriptors import receive_descriptors

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("ladybug.error")

# Connections moved in one call, at most: about a millisecond of the master's time. It calls again when it has looked around.
MOST_PER_CALL = 64
# Seconds that a worker without a free descriptor waits; what is in the channel stays there.
PAUSE = 0.5


class Channel:
    """Accepted connections on their way to one slot; the kernel bounds how many (SO_SNDBUF, some 200).

    fds     the ends of a channel that came from another process, as its `fds` names them; it is ours as well from now on
    """

    def __init__(self, fds: Sequence[int] = ()) -> None:
        if fds:
            self._entry, self._exit = (socket.socket(fileno=fd) for fd in fds)
        else:
            self._entry, self._exit = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._entry.setblocking(False)
        self._exit.setblocking(False)
        self._room = select.poll()
        self._room.register(self._entry, select.POLLOUT)

    @property
    def fd(self) -> int:
        """Readable when there is something to receive."""
        return self._exit.fileno()

    @property
    def fds(self) -> list[int]:
        """Both ends."""
        return [self._entry.fileno(), self._exit.fileno()]

    def has_room(self) -> bool:
        """True if `send` will work, as far as the channel is concerned."""
        return bool(self._room.poll(0))

    def send(self, bind: int, connection: int) -> bool:
        """Put a copy of a descriptor in; False if that is not possible now.

        bind        which of the slot's listeners accepted it; all slots have them in the same order
        connection  the descriptor; the caller still has to close its own
        """
        try:
            socket.send_fds(self._entry, [bytes([bind])], [connection])
        except OSError:  # EAGAIN; ETOOMANYREFS: more descriptors under way than this user may have open
            return False
        return True

    def receive(self) -> tuple[int, int] | None:
        """Bind and descriptor of the next connection; None if there is none. Raises OSError EMFILE; it stays there."""
        # A descriptor that finds no place in this process is closed by the kernel. So first make sure that there is one.
        os.close(os.dup(self.fd))
        try:
            message, received = receive_descriptors(self._exit, 1, 1)
        except BlockingIOError:
            return None
        if not received:  # a thread was quicker: this one is lost
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return message[0], received[0]

    def close(self) -> None:
        """Close both ends in this process. What is in the channel is lost when the last process has closed it."""
        self._entry.close()
        self._exit.close()


class Rescuer:
    """Moves connections from slots that are stuck to slots that are not. It is told which: it decides nothing."""

    def __init__(self) -> None:
        self._turn = 0
        # Taken from a queue that takes nothing back, and refused by a channel that had room: waits for the next call.
        self._in_hand: tuple[int, int] | None = None

    def rescue(self, listeners: Sequence[socket.socket], channel: Channel, to: Sequence[Channel]) -> int:
        """Move what waits in a slot's `listeners` and its `channel` to the channels `to`, which take turns.

        Returns how many were moved. As many as MOST_PER_CALL: there may be more, call again soon. Fewer: the queues are
        empty, or nobody has room for what is in them. The rescued slot's own channel is not in `to`.
        """
        moved = 0
        while moved < MOST_PER_CALL and (target := self._with_room(to)) is not None:
            self._in_hand = self._in_hand or _take_one(listeners, channel)
            if self._in_hand is None or not target.send(*self._in_hand):
                break
            self._drop()
            moved += 1
        return moved

    def deliver(self, to: Sequence[Channel]) -> bool:
        """True if nothing is left in hand. What is belongs to no queue any more: nobody else can see it, so call again."""
        if self._in_hand is not None and (target := self._with_room(to)) is not None and target.send(*self._in_hand):
            self._drop()
        return self._in_hand is None

    def close(self) -> None:
        """In a forked child, and at the end."""
        if self._in_hand is not None:
            self._drop()

    def _drop(self) -> None:
        assert self._in_hand is not None
        os.close(self._in_hand[1])
        self._in_hand = None

    def _with_room(self, channels: Sequence[Channel]) -> Channel | None:
        """The next channel, in turn, that has room."""
        for _ in channels:
            self._turn = (self._turn + 1) % len(channels)
            if channels[self._turn].has_room():
                return channels[self._turn]
        return None


def _take_one(listeners: Sequence[socket.socket], channel: Channel) -> tuple[int, int] | None:
    """Bind and descriptor of a connection that waits in a slot; None if none does, or no descriptor is free for it."""
    try:
        for bind, listener in enumerate(listeners):
            if (connection := _accept(listener)) is not None:
                return bind, connection
        return channel.receive()
    except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: it can wait
        return None


def _accept(listener: socket.socket) -> int | None:
    while True:
        try:
            return listener.accept()[0].detach()
        except BlockingIOError:
            return None
        except OSError as error:
            # accept(2): a connection that has gone again while it waited. The next one may be well.
            if error.errno not in (errno.ECONNABORTED, errno.EPROTO):
                raise


class Receiver:
    """Takes what comes through a worker's channel into its server.

    take    called with the bind and the descriptor of each connection, which it then owns: `Server.adopt`
    """

    def __init__(self, channel: Channel, loop: "asyncio.AbstractEventLoop", take: Callable[[int, int], None]) -> None:
        self._channel = channel
        self._loop = loop
        self._take = take
        self._pause: asyncio.TimerHandle | None = None
        self._is_reading = False

    def begin(self) -> None:
        """The server accepts connections: take what is there, then what comes."""
        self._pause = None
        self._is_reading = True
        self._loop.add_reader(self._channel.fd, self._on_readable)

    def stop(self) -> None:
        """The server begins to drain: take what is there, as it does with its listeners, and no more."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._is_reading:
            while self._is_reading and self._take_some():
                pass
            self._rest()

    def _on_readable(self) -> None:
        self._take_some()

    def _take_some(self) -> bool:
        """Take MOST_PER_CALL at most; True if there may be more."""
        for _ in range(MOST_PER_CALL):
            try:
                received = self._channel.receive()
            except OSError as error:
                logger.error("Cannot take rescued connections for now (%s); they wait", error.strerror)
                self._rest()
                self._pause = self._loop.call_later(PAUSE, self.begin)
                return False
            if received is None:
                return False
            self._take(*received)
        return True

    def _rest(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._channel.fd)
